"""An echo with grpcio for `cargo xtask bench overhead`, which does nothing besides: see tests/src/bin/overhead/load."""

import argparse
import json
import sys
import threading
import time
from concurrent import futures

import grpc

METHOD = "/bench.Echo/Unary"
MESSAGE = b"x" * 64
WARM_UP_SECONDS = 0.25


def say(record):
    print(json.dumps(record), flush=True)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.enable_http_proxy", 0)])
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Unary": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say({"ready": True, "port": port})
    sys.stdin.read()
    server.stop(None)


def one_caller(call, begin, seconds, interval, place, places, times):
    until = begin + seconds
    turn = begin + interval * place / places
    while True:
        now = time.perf_counter()
        start = now
        if interval:
            if max(turn, now) >= until:
                return
            if turn > now:
                time.sleep(turn - now)
                start = time.perf_counter()
            else:
                start = turn
            turn += interval
        elif now >= until:
            return
        if call(MESSAGE) != MESSAGE:
            raise SystemExit("the answer is another than was sent")
        times.append(time.perf_counter() - start)


def calls(channels, concurrency, seconds, interval):
    begin = time.perf_counter()
    every = [[] for _ in range(concurrency)]
    threads = [
        threading.Thread(
            target=one_caller,
            args=(channels[place % len(channels)].unary_unary(METHOD), begin, seconds, interval, place, concurrency, times),
        )
        for place, times in enumerate(every)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(one for times in every for one in times), time.perf_counter() - begin


def call(options):
    settings = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    for line in sys.stdin:
        seconds, rate = map(float, line.split())
        interval = options.concurrency / rate if rate else 0.0
        channels = [grpc.insecure_channel(options.target, settings) for _ in range(options.connections)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(timeout=60)
        before, _ = calls(channels, options.concurrency, WARM_UP_SECONDS, interval)
        say({"begin": True})
        times, took = calls(channels, options.concurrency, seconds, interval)
        for channel in channels:
            channel.close()
        at = lambda share: times[min(int(len(times) * share), len(times) - 1)] * 1e6
        say({
            "done": True, "calls": len(times), "seconds": took, "p50_us": at(0.5), "p99_us": at(0.99),
            "all": len(before) + len(times),
        })


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("serve")
    client = roles.add_parser("call")
    client.add_argument("--target", required=True)
    client.add_argument("--connections", type=int, default=1)
    client.add_argument("--concurrency", type=int, default=1)
    options = parser.parse_args()
    serve() if options.role == "serve" else call(options)


if __name__ == "__main__":
    main()
