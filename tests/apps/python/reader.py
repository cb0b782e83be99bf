"""A reader of the demo's long streams, with grpcio: it stops reading now and then, and writes down for how long."""

import argparse
import json
import os
import time

import grpc

METHOD = "shop.v1.Inventory/ListStock"
# ListStockRequest{prefix: "bulk-paced"}: field 1, ten octets.
REQUEST = b"\x0a\x0abulk-paced"
# A window that is full soon after the reader has stopped, and stays what it is.
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 128 * 1024),
]
ROUNDS, STOP_SECONDS, READ_SECONDS = 3, 3.0, 0.7


def read(stream):
    until = time.monotonic() + READ_SECONDS
    while time.monotonic() < until:
        next(stream)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--inventory", required=True)
    parser.add_argument("--truth", required=True)
    # It ends by itself.
    parser.add_argument("--while-stdin", action="store_true")
    options = parser.parse_args()
    identity = lambda octets: octets
    with grpc.insecure_channel(options.inventory, OPTIONS) as channel, open(options.truth, "a", encoding="utf-8") as truth:
        list_stock = channel.unary_stream(f"/{METHOD}", request_serializer=identity, response_deserializer=identity)
        stream = list_stock(REQUEST, timeout=120)
        for _ in range(ROUNDS):
            read(stream)
            since, since_ns = time.monotonic(), time.time_ns()
            time.sleep(STOP_SECONDS)
            stopped = time.monotonic() - since
            read(stream)
            truth.write(json.dumps({
                "finding": "flow_control_stall", "cause": "slow_receiver", "service": os.environ["OTEL_SERVICE_NAME"],
                "side": "client", "rpc_method": METHOD, "from_ns": since_ns, "until_ns": time.time_ns(),
                "stalled_seconds": stopped,
            }) + "\n")
            truth.flush()
        stream.cancel()
        # The reset shall reach the wire before the connection goes.
        time.sleep(0.3)


main()
