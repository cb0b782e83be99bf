"""A hop with a thread for each connection, which reads a call, makes the next one, waits for its answer, and answers: all with
blocking sockets, and the HTTP/2 of h2. See ../README.md for its command line.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events

NAME = os.environ.get("OTEL_SERVICE_NAME", "blocking")
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Wire:
    """An end of a connection, and what has come over it of each stream."""

    def __init__(self, connection, is_client):
        self.connection = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=is_client, header_encoding="utf-8")
        self.http2 = h2.connection.H2Connection(config)
        self.http2.initiate_connection()
        self.streams = {}
        self.flush()

    def flush(self):
        self.connection.sendall(self.http2.data_to_send())

    def ended(self):
        """Reads once: the streams that the other end has ended; `None` at the end of the connection."""
        data, ended = self.connection.recv(65536), []
        if not data:
            return None
        for event in self.http2.receive_data(data):
            if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self.streams.setdefault(event.stream_id, ({}, bytearray()))[0].update(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.streams[event.stream_id][1].extend(event.data)
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                ended.append((event.stream_id, *self.streams.pop(event.stream_id)))
        # Acknowledgements wait for the answer, where there is one.
        if not ended:
            self.flush()
        return ended


class Next:
    """The next hop, over a connection of the calling thread's own."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.wire = Wire(socket.create_connection((host, int(port))), True)

    def call(self, headers, message):
        http2 = self.wire.http2
        stream = http2.get_next_available_stream_id()
        http2.send_headers(stream, headers)
        http2.send_data(stream, bytes(message), end_stream=True)
        self.wire.flush()
        while True:
            for answered, fields, reply in self.wire.ended() or ():
                assert answered == stream
                return fields, reply


def left(timeout, since):
    """What is left of a grpc-timeout, as one."""
    seconds = int(timeout[:-1]) * UNITS[timeout[-1]] - (time.monotonic() - since)
    return f"{max(0, int(seconds * 1e3))}m"


def serve(connection, address):
    wire, following = Wire(connection, False), None
    while (ended := wire.ended()) is not None:
        since = time.monotonic()
        for stream, fields, message in ended:
            following = following or Next(address)
            headers = [(":method", "POST"), (":scheme", "http"), (":path", fields[":path"]), (":authority", "hop.test"),
                       ("te", "trailers"), ("content-type", "application/grpc"),
                       ("grpc-timeout", left(fields["grpc-timeout"], since))]
            headers += [(name, fields[name]) for name in ("traceparent",) if name in fields]
            answer, reply = following.call(headers, message)
            wire.http2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
            wire.http2.send_data(stream, bytes(reply))
            wire.http2.send_headers(stream, [("grpc-status", answer["grpc-status"])], end_stream=True)
            wire.flush()
    connection.close()
    if following:
        following.wire.http2.close_connection()
        following.wire.flush()
        following.wire.connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--next", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--while-stdin", action="store_true")
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, arguments.next), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    print(json.dumps({"ready": NAME, "address": f"127.0.0.1:{port}", "pid": os.getpid()}), flush=True)
    if arguments.while_stdin:
        sys.stdin.read()
    else:
        threading.Event().wait()


if __name__ == "__main__":
    main()
