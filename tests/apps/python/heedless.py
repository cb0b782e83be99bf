"""A hand-written gRPC server that does not look at RST_STREAM: it answers every call, whatever becomes of its caller.

Libraries of HTTP/2 refuse to send on a stream that was reset, so this one has frames (hyperframe) and HPACK (hpack) from
libraries, and the streams are its own. See ../README.md for its command line and what it serves: `slow MS`.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time

import hpack
from hyperframe import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK = [(":status", "200"), ("content-type", "application/grpc")]


class Connection:
    """One connection: a thread reads it, and each call is answered by a thread of its own."""

    def __init__(self, connection):
        self.connection = connection
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.lock = threading.Lock()
        self.requests = {}

    def exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.connection.recv(length - len(data))
            if not more:
                raise ConnectionError("the client has gone")
            data += more
        return data

    def send(self, *frames):
        """With the lock, in which header blocks are encoded in the order in which they are sent."""
        self.connection.sendall(b"".join(frame.serialize() for frame in frames))

    def serve(self):
        try:
            assert self.exactly(len(PREFACE)) == PREFACE
            with self.lock:
                self.send(frame.SettingsFrame(0))
            while True:
                header, length = frame.Frame.parse_frame_header(memoryview(self.exactly(9)))
                header.parse_body(memoryview(self.exactly(length)))
                self.handle(header)
        except OSError:
            # Its client has closed it: nobody is left to tell.
            pass

    def handle(self, received):
        stream, flags = received.stream_id, received.flags
        if isinstance(received, frame.SettingsFrame) and "ACK" not in flags:
            self.reply(frame.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(received, frame.PingFrame) and "ACK" not in flags:
            self.reply(frame.PingFrame(0, opaque_data=received.opaque_data, flags=["ACK"]))
        elif isinstance(received, frame.HeadersFrame):
            # Decoded for the sake of those that follow; every method is the same here.
            self.decoder.decode(received.data)
            self.requests[stream] = b""
        elif isinstance(received, frame.DataFrame):
            self.requests[stream] += received.data
            if received.flow_controlled_length:
                self.reply(frame.WindowUpdateFrame(0, window_increment=received.flow_controlled_length))
            if "END_STREAM" in flags:
                threading.Thread(target=self.answer, args=(stream, self.requests.pop(stream)), daemon=True).start()

    def reply(self, answer):
        with self.lock:
            self.send(answer)

    def answer(self, stream, message):
        op, ms = message[5:].decode().split()
        assert op == "slow"
        time.sleep(float(ms) / 1e3)
        try:
            with self.lock:
                self.send(frame.HeadersFrame(stream, self.encoder.encode(OK), flags=["END_HEADERS"]),
                          frame.DataFrame(stream, message))
            with self.lock:
                trailers = self.encoder.encode([("grpc-status", "0")])
                self.send(frame.HeadersFrame(stream, trailers, flags=["END_HEADERS", "END_STREAM"]))
        except OSError:
            # The connection has gone, too.
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--while-stdin", action="store_true")
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0))
    name, port = os.environ.get("OTEL_SERVICE_NAME", "heedless"), listener.getsockname()[1]

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=Connection(connection).serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(json.dumps({"ready": name, "address": f"127.0.0.1:{port}", "pid": os.getpid()}), flush=True)
    if arguments.while_stdin:
        sys.stdin.read()
    else:
        threading.Event().wait()


if __name__ == "__main__":
    main()
