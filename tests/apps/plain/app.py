"""HTTP that is not gRPC, on one server: HTTP/2 by prior knowledge, and HTTP/1.1.

    server                                  prints {"ready":true,"port":N,"pid":N}
    client --port P --exchanges N           over one connection of each kind; prints {"done":true,"exchanges":N}
"""

import argparse
import http.client
import json
import os
import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BODY = json.dumps({"text": "x" * 3000}).encode()


def say(record):
    print(json.dumps(record), flush=True)


def serve_http2(connection, first):
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    http2.initiate_connection()
    connection.sendall(http2.data_to_send())
    data = first
    while data:
        for event in http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                http2.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/json")])
                http2.send_data(event.stream_id, BODY, end_stream=True)
        connection.sendall(http2.data_to_send())
        data = connection.recv(65536)


def serve_http1(connection, first):
    data = first
    while data:
        while b"\r\n\r\n" in data:
            _, data = data.split(b"\r\n\r\n", 1)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        more = connection.recv(65536)
        if not more:
            return
        data += more


def serve(_):
    listener = socket.create_server(("127.0.0.1", 0))
    say({"ready": True, "port": listener.getsockname()[1], "pid": os.getpid()})

    def handle(connection):
        with connection:
            first = connection.recv(65536)
            (serve_http2 if first.startswith(PREFACE) else serve_http1)(connection, first)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def client(arguments):
    say({"ready": True, "pid": os.getpid()})
    with socket.create_connection(("127.0.0.1", arguments.port)) as connection:
        http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        http2.initiate_connection()
        for index in range(arguments.exchanges):
            stream = http2.get_next_available_stream_id()
            # The path looks like a gRPC method on purpose.
            headers = [(":method", "POST" if index % 2 else "GET"), (":scheme", "http"),
                       (":authority", "plain.test"), (":path", f"/plain.test.Pages/Page{index}"),
                       ("content-type", "application/json")]
            http2.send_headers(stream, headers, end_stream=index % 2 == 0)
            if index % 2:
                http2.send_data(stream, BODY, end_stream=True)
            connection.sendall(http2.data_to_send())
            over = False
            while not over:
                for event in http2.receive_data(connection.recv(65536)):
                    if isinstance(event, h2.events.DataReceived):
                        http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    over |= isinstance(event, h2.events.StreamEnded)
                connection.sendall(http2.data_to_send())
    http1 = http.client.HTTPConnection("127.0.0.1", arguments.port)
    for index in range(arguments.exchanges):
        http1.request("GET", f"/plain.test.Pages/Page{index}")
        assert http1.getresponse().read() == BODY
    http1.close()
    say({"done": True, "exchanges": arguments.exchanges})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("server")
    role = roles.add_parser("client")
    role.add_argument("--port", type=int, required=True)
    role.add_argument("--exchanges", type=int, required=True)
    arguments = parser.parse_args()
    (serve if arguments.role == "server" else client)(arguments)


if __name__ == "__main__":
    main()
