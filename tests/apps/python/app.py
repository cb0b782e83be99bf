"""The grpcio test application: see ../README.md for its command lines, plan and truth."""

import argparse
import json
import os
import queue
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "live.test.Calls"
OPTIONS = [
    ("grpc.max_receive_message_length", 1 << 26),
    ("grpc.max_send_message_length", 1 << 26),
    ("grpc.enable_http_proxy", 0),
]
FAILURE = "bad thing: 100% \u00fcn\u00efcode\nline2"
# A reset of the last call shall reach the wire before the connection goes.
LINGER_SECONDS = 0.2
OUTCOMES = {0: "ok", 1: "cancelled", 4: "deadline"}
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Truth:
    """A file of JSON lines, whole after each line."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()

    def write(self, record):
        with self.lock:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()


def say(record):
    print(json.dumps(record), flush=True)


# ---- server


class Handled:
    """One call as its handler sees it; written when the RPC is over, whoever ended it."""

    def __init__(self, truth, method, context):
        self.truth, self.method, self.context = truth, method, context
        self.recv_msgs = self.recv_bytes = self.sent_msgs = self.sent_bytes = 0
        self.code = None
        self.id = int(dict(context.invocation_metadata()).get("x-call-id", -1))
        if not context.add_callback(self.over):
            self.over()

    def received(self, message):
        self.recv_msgs += 1
        self.recv_bytes += len(message)
        return message

    def sent(self, message):
        self.sent_msgs += 1
        self.sent_bytes += len(message)
        return message

    def ok(self, message):
        self.code = 0
        return self.sent(message)

    def fail(self, code, message):
        self.code = code
        self.context.abort(CODES[code], message)

    def over(self):
        self.truth.write({
            "side": "server", "id": self.id, "method": f"/{SERVICE}/{self.method}", "code": self.code,
            "recv_msgs": self.recv_msgs, "recv_bytes": self.recv_bytes,
            "sent_msgs": self.sent_msgs, "sent_bytes": self.sent_bytes, "cancelled": self.code is None,
        })


def numbers(message):
    return [int(number) for number in message.decode().split(",")]


def unary(call, request, context):
    return call.ok(request)


def big(call, request, context):
    return call.ok(b"b" * int(request))


def slow(call, request, context):
    end = time.monotonic() + int(request) / 1000
    while time.monotonic() < end and context.is_active():
        time.sleep(0.004)
    return call.ok(request) if context.is_active() else request


def fail(call, request, context):
    context.set_trailing_metadata((("x-detail", "nope"), ("blob-bin", b"\x00\x01\xff")))
    call.fail(int(request), FAILURE)


def metadata(call, request, context):
    context.send_initial_metadata((("x-init", "1"), ("x-init-bin", b"\x00\xfe")))
    context.set_trailing_metadata((("x-trail", "t" * 200),))
    return call.ok(request)


def server_stream(call, request, context):
    count, size, pause_ms = numbers(request)
    for _ in range(count):
        if not context.is_active():
            return
        yield call.sent(b"s" * size)
        if pause_ms:
            time.sleep(pause_ms / 1000)
    call.code = 0


def fail_after(call, request, context):
    count, size, code = numbers(request)
    for _ in range(count):
        yield call.sent(b"s" * size)
    call.fail(code, FAILURE)


def client_stream(call, requests, context):
    for request in requests:
        call.received(request)
    return call.ok(str(call.recv_bytes).encode())


def early(call, requests, context):
    call.received(next(requests))
    call.fail(8, "enough")


def early_ok(call, requests, context):
    return call.ok(call.received(next(requests)))


def bidi(call, requests, context):
    for request in requests:
        yield call.sent(call.received(request))
    call.code = 0


def serve(arguments):
    truth = Truth(arguments.truth)

    def one(name, handler):
        def handle(request, context):
            call = Handled(truth, name, context)
            return handler(call, call.received(request), context)
        return handle

    def many(name, handler):
        def handle(requests, context):
            return handler(Handled(truth, name, context), requests, context)
        return handle

    handlers = {}
    for name, handler in (("Unary", unary), ("Big", big), ("Slow", slow), ("Fail", fail), ("Metadata", metadata)):
        handlers[name] = grpc.unary_unary_rpc_method_handler(one(name, handler))
    for name, handler in (("ServerStream", server_stream), ("FailAfter", fail_after)):
        handlers[name] = grpc.unary_stream_rpc_method_handler(one(name, handler))
    for name, handler in (("ClientStream", client_stream), ("Early", early), ("EarlyOk", early_ok)):
        handlers[name] = grpc.stream_unary_rpc_method_handler(many(name, handler))
    handlers["Bidi"] = grpc.stream_stream_rpc_method_handler(many("Bidi", bidi))

    server = grpc.server(futures.ThreadPoolExecutor(128), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"unix:{arguments.unix}" if arguments.unix else f"127.0.0.1:{arguments.port}"
    port = server.add_insecure_port(address)
    server.start()
    say({"ready": True, "port": port, "pid": os.getpid()})
    server.wait_for_termination()


# ---- client


def payload(message):
    return message.encode() if isinstance(message, str) else b"x" * message


def metadata_of(call):
    result = [("x-call-id", str(call["id"]))]
    if call["metadata"] != "none":
        result.append(("traceparent", f"00-{call['id'] * 0x9E3779B97F4A7C15 % (1 << 128):032x}-{call['id'] + 1:016x}-01"))
    if call["metadata"] == "full":
        result += [("k-bin", bytes(range(20))), ("long", "v" * 300), ("user-key", "user value")]
    return tuple(result)


def make(channel, plan):
    """Makes one call and returns its truth."""
    sent = [0, 0]

    def requests():
        for message in plan["send"]:
            data = payload(message)
            sent[0] += 1
            sent[1] += len(data)
            yield data

    path = f"/{SERVICE}/{plan['method']}"
    timeout = None if plan["timeout_ms"] is None else plan["timeout_ms"] / 1000
    options = dict(timeout=timeout, metadata=metadata_of(plan))
    received = [0, 0]

    def count(message):
        received[0] += 1
        received[1] += len(message)

    code = 0
    t0 = time.time_ns()
    call = None
    try:
        if plan["type"] in ("unary", "client_stream"):
            if plan["type"] == "unary":
                call = channel.unary_unary(path).future(next(requests()), **options)
            else:
                call = channel.stream_unary(path).future(requests(), **options)
            if plan["cancel_after_ms"] is not None:
                threading.Timer(plan["cancel_after_ms"] / 1000, call.cancel).start()
            count(call.result())
        else:
            if plan["type"] == "server_stream":
                call = channel.unary_stream(path)(next(requests()), **options)
            else:
                call = channel.stream_stream(path)(requests(), **options)
            for message in call:
                count(message)
                if received[0] == plan["cancel_after_messages"]:
                    call.cancel()
            code = call.code().value[0]
    except grpc.FutureCancelledError:
        code = 1
    except grpc.RpcError as error:
        code = error.code().value[0]
    return {
        "side": "client", "id": plan["id"], "method": path, "type": plan["type"],
        "timeout_ns": None if timeout is None else plan["timeout_ms"] * 1_000_000,
        "code": code, "outcome": OUTCOMES.get(code, "error"),
        "sent_msgs": sent[0], "sent_bytes": sent[1], "recv_msgs": received[0], "recv_bytes": received[1],
        "t0_ns": t0, "t1_ns": time.time_ns(),
        "cancelled_by_client": plan["cancel_after_messages"] is not None or plan["cancel_after_ms"] is not None,
    }


def run(channel, truth, calls, concurrency, rate):
    waiting = queue.SimpleQueue()
    begin = time.monotonic()
    for index, call in enumerate(calls):
        waiting.put((begin + index / rate if rate else begin, call))

    def work():
        while True:
            try:
                due, call = waiting.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0, due - time.monotonic()))
            truth.write(make(channel, call))

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def client(arguments):
    with open(arguments.plan, encoding="utf-8") as file:
        calls = [json.loads(line) for line in file]
    truth = Truth(arguments.truth)
    target = f"unix:{arguments.unix}" if arguments.unix else arguments.target
    say({"ready": True, "pid": os.getpid()})
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        half = len(calls) // 2 if arguments.hold else len(calls)
        run(channel, truth, calls[:half], arguments.concurrency, arguments.rate)
        if arguments.hold:
            say({"held": True})
            sys.stdin.readline()
            run(channel, truth, calls[half:], arguments.concurrency, arguments.rate)
        time.sleep(LINGER_SECONDS)
        say({"done": True, "calls": len(calls)})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    for name in ("server", "client"):
        role = roles.add_parser(name)
        role.add_argument("--unix")
        role.add_argument("--truth", required=True)
        if name == "server":
            role.add_argument("--port", type=int, default=0)
        else:
            role.add_argument("--target")
            role.add_argument("--plan", required=True)
            role.add_argument("--concurrency", type=int, default=1)
            role.add_argument("--rate", type=float)
            role.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    (serve if arguments.role == "server" else client)(arguments)


if __name__ == "__main__":
    main()
