"""The grpcio part of the scenarios: see ../README.md for its command line, methods and truth."""

import argparse
import itertools
import json
import os
import random
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "/scenario.v1.Hop/"
GENEROUS = 20.0
SHORT = 0.5
ROUNDS = 10
# What is longer than this in `time_remaining` is no deadline.
NEVER = 1e6
LIMIT = 10
# A reset of the last call shall reach the wire before the connection goes.
LINGER = 0.2
NAME = os.environ.get("OTEL_SERVICE_NAME", "grpcio")
CODES = {code.value[0]: code for code in grpc.StatusCode}
# A constant, as it stands in code that knows nothing of its caller's deadline.
FIXED = 60.0
ANY_PINGS = [("grpc.http2.min_ping_interval_without_data_ms", 100), ("grpc.http2.max_ping_strikes", 0)]
SERVER_OPTIONS = {
    "idle_stream": ANY_PINGS,
    "ping_unanswered": ANY_PINGS,
    "stream_limit": [("grpc.max_concurrent_streams", LIMIT)],
    "max_connection_age": [("grpc.max_connection_age_ms", 1_000), ("grpc.max_connection_age_grace_ms", 5_000)],
}


def keepalive(time_ms, timeout_ms):
    # Without calls it is the timeout of PINGs alone that ends a connection.
    return [("grpc.keepalive_time_ms", time_ms), ("grpc.keepalive_timeout_ms", timeout_ms),
            ("grpc.http2.ping_timeout_ms", timeout_ms), ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0)]


def retries(code):
    policy = {"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "0.1s", "backoffMultiplier": 1.5,
              "retryableStatusCodes": [code]}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}],
              "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1}}
    return [("grpc.service_config", json.dumps(config))]


ROUND_ROBIN = [("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))]
CLIENT_OPTIONS = {
    "retry_not_retryable": retries("INVALID_ARGUMENT"),
    "retry_storm": retries("UNAVAILABLE"),
    "too_many_pings": [("grpc.keepalive_time_ms", 1_000), ("grpc.keepalive_permit_without_calls", 1),
                       ("grpc.http2.max_pings_without_data", 0)],
    # Windows that do not grow.
    "slow_reader": [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)],
    "kept_alive": keepalive(1_000, 5_000),
    "ping_unanswered": keepalive(3_000, 3_000),
    "obedient": retries("UNAVAILABLE"),
    # Otherwise the C-core takes the number of attempts for its own, and away.
    "retry_pushback_ignored": [("grpc.enable_retries", 0)],
    "balanced": ROUND_ROBIN,
    "healthy": ROUND_ROBIN,
}


def say(record):
    print(json.dumps(record), flush=True)


class Truth:
    """A file of JSON lines, whole after each line."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()

    def provokes(self, finding, since, side=None, method=None, cause=None, service=NAME, lasts=False):
        line = {"finding": finding, "service": service, "side": side, "cause": cause,
                "rpc_method": method and method.lstrip("/"), "from_ns": since,
                "until_ns": None if lasts else time.time_ns(), "lasts": lasts or None}
        line = {key: value for key, value in line.items() if value is not None}
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def made(self, calls):
        with self.lock:
            self.file.write(json.dumps({"service": NAME, "calls": calls}) + "\n")
            self.file.flush()


class Next:
    """Calls to the next hop."""

    def __init__(self, arguments, truth):
        self.truth, self.callee = truth, arguments.callee
        # Threads take numbers from it: the next one is how many there were.
        self.numbers = itertools.count()
        options = CLIENT_OPTIONS.get(arguments.scenario, [])
        if arguments.apart:
            # Otherwise channels to the same address share a connection.
            options = [*options, ("grpc.use_local_subchannel_pool", 1)]
        target = f"ipv4:{arguments.next}"
        options = [*options, ("grpc.enable_http_proxy", 0), ("grpc.default_authority", "hop.test")]
        self.channel = grpc.insecure_channel(target, options=options)

    def wait(self):
        grpc.channel_ready_future(self.channel).result(timeout=60)

    def call(self, method, text, timeout, trace=None, wrongly=None, attempts=0):
        """Makes a unary call; `wrongly` names what it provokes besides a missing or an exceeded deadline, `attempts` says how
        many there were before it."""
        since, path = time.time_ns(), SERVICE + method
        next(self.numbers)
        metadata = [("traceparent", trace)] if trace else []
        if attempts:
            metadata.append(("grpc-previous-rpc-attempts", str(attempts)))
        code, reply = 0, b""
        try:
            reply = self.channel.unary_unary(path)(text.encode(), timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code().value[0]
        if timeout is None:
            self.truth.provokes("deadline_missing", since, "client", path, "absent")
        if code == 4:
            self.truth.provokes("deadline_exceeded", since, "client", path)
        if wrongly:
            self.truth.provokes(wrongly, since, "client", path)
        return code, reply.decode()

    def stream(self, text, timeout):
        return self.channel.unary_stream(SERVICE + "List")(text.encode(), timeout=timeout)


# ---- server


class Hop(grpc.GenericRpcHandler):
    """Serves every method below SERVICE, by what the request's text says."""

    def __init__(self, arguments, truth):
        self.scenario, self.truth = arguments.scenario, truth
        self.next = Next(arguments, truth) if arguments.next else None
        self.calls = 0

    def service(self, details):
        method = details.method
        if method == SERVICE + "List":
            return grpc.unary_stream_rpc_method_handler(lambda text, context: self.list(text, context, method))
        return grpc.unary_unary_rpc_method_handler(lambda text, context: self.get(text, context, method))

    def judged(self, context, method):
        """Writes down what the call's deadline provokes, when the call has ended."""
        since, remaining = time.time_ns(), context.time_remaining()
        over_at = time.monotonic() + remaining

        def ended():
            if remaining > NEVER:
                self.truth.provokes("deadline_missing", since, "server", method, "absent")
            # A client that gives up by itself does so in the first half.
            elif time.monotonic() > over_at - remaining / 2:
                self.truth.provokes("deadline_exceeded", since, "server", method)

        if not context.add_callback(ended):
            ended()

    def get(self, text, context, method):
        self.judged(context, method)
        op, *arguments = text.decode().split()
        metadata = dict(context.invocation_metadata())
        if op == "cancelled":
            return self.ignore_cancellation(context, metadata.get("traceparent"))
        if op == "here":
            time.sleep(float(arguments[0]) / 1e3)
            return text
        if self.next:
            return self.hand_on(text, context, method, metadata.get("traceparent"))
        if op == "slow":
            time.sleep(float(arguments[0]) / 1e3)
        elif op == "hang":
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait()
        elif op == "flaky":
            if int(metadata.get("grpc-previous-rpc-attempts", 0)) < int(arguments[0]):
                if len(arguments) > 2:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", arguments[2]),))
                context.abort(CODES[int(arguments[1])], "try again")
        elif op == "peer":
            return context.peer().encode()
        return text

    def list(self, text, context, method):
        self.judged(context, method)
        count, size = map(int, text.split()[1:3])
        yield from (b"x" * size for _ in range(count))
        if text.startswith(b"endless"):
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait()

    def about(self, seconds):
        """Never twice the same: a round constant is a finding of its own."""
        self.calls += 1
        return seconds + 0.001 + 0.007 * self.calls

    def hand_on(self, text, context, method, trace):
        """grpcio hands neither deadlines nor cancellation on: who wants that does it by hand."""
        timeout, wrongly = context.time_remaining(), None
        if self.scenario == "deadline_reset":
            timeout, wrongly = self.about(2 * GENEROUS), "deadline_reset"
        elif self.scenario == "deadline_dropped":
            timeout, wrongly = None, "deadline_dropped"
        elif self.scenario == "deadline_fixed":
            timeout = FIXED
        code, reply = self.next.call(method[len(SERVICE):], text.decode(), timeout, trace, wrongly)
        if code:
            context.abort(CODES[code], "by the next hop")
        return reply.encode()

    def ignore_cancellation(self, context, trace):
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        # What is left shrinks: the same timeout again would be a later deadline.
        self.next.call("Get", "ok", context.time_remaining(), trace)
        say({"working": True})
        self.next.call("Get", "slow 1500", context.time_remaining(), trace, "uncancelled_call")
        over.wait()
        for _ in range(2):
            self.next.call("Get", "ok", context.time_remaining(), trace, "uncancelled_call")
        return b""


def serve(arguments, truth):
    options = [*SERVER_OPTIONS.get(arguments.scenario, []), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), options=options)
    hop = Hop(arguments, truth)
    server.add_generic_rpc_handlers((hop,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say({"ready": NAME, "address": f"127.0.0.1:{port}", "pid": os.getpid()})
    wait_for_end(arguments)
    server.stop(grace=10).wait()
    if hop.next:
        hop.next.channel.close()
        truth.made(next(hop.next.numbers))


# ---- client


class Caller:
    """Does what the scenario is about."""

    def __init__(self, arguments, truth):
        self.arguments, self.truth, self.next = arguments, truth, Next(arguments, truth)
        self.dice = random.Random(arguments.scenario)

    def trace(self):
        if self.arguments.no_trace:
            return None
        return f"00-{self.dice.getrandbits(128):032x}-{self.dice.getrandbits(64):016x}-01"

    def get(self, text, timeout=GENEROUS, method="Get"):
        return self.next.call(method, text, timeout, self.trace())

    def together(self, *calls):
        threads = [threading.Thread(target=self.get, args=call) for call in calls]
        for thread in threads:
            thread.start()
        return threads

    def both(self, finding, since, **more):
        self.truth.provokes(finding, since, "client", **more)
        self.truth.provokes(finding, since, "server", service=self.arguments.callee, **more)

    def no_deadline(self):
        for _ in range(ROUNDS):
            self.get("ok", None)
            self.get("ok")

    def deadline_exceeded(self):
        for _ in range(ROUNDS):
            self.get("hang", SHORT)
            self.get("ok")

    def handed_on(self):
        for _ in range(2 * ROUNDS):
            self.get("ok")

    deadline_reset = deadline_dropped = handed_on

    def ignores_cancellation(self):
        for _ in range(ROUNDS // 2):
            metadata = [("traceparent", self.trace())]
            call = self.next.channel.unary_unary(SERVICE + "Get").future(
                b"cancelled", timeout=GENEROUS, metadata=metadata)
            time.sleep(0.5)
            call.cancel()
            time.sleep(2.0)

    def retried(self, finding, text, lasts):
        for _ in range(ROUNDS):
            since = time.time_ns()
            self.get(text)
            if not lasts:
                for _ in range(2):
                    self.both(finding, since, method=SERVICE + "Get")
        if lasts:
            self.both(finding, since, method=SERVICE + "Get", lasts=True)

    def retry_not_retryable(self):
        self.retried("retry_not_retryable", "flaky 2 3", False)

    def retry_storm(self):
        begin = time.time_ns()
        for _ in range(12 * ROUNDS):
            self.get("flaky 2 14")
        self.both("retry_storm", begin, method=SERVICE + "Get", lasts=True)

    def peers(self, finding, cause, changes, op):
        since, peer = time.time_ns(), None
        while changes:
            _, now = self.get(op)
            if peer and now and now != peer:
                self.both(finding, since, cause=cause)
                since, changes = time.time_ns(), changes - 1
            peer = now or peer
            time.sleep(0.02)

    def pushed_back(self, timeout):
        for round_of in range(ROUNDS):
            yield "flaky 2 14 -1" if round_of % 2 else f"flaky 2 14 {timeout}"

    def retry_pushback_ignored(self):
        """A retry layer of one's own, with a backoff of its own."""
        for text in self.pushed_back(2_000):
            cause, trace = "do_not_retry" if text.endswith("-1") else "too_early", self.trace()
            for attempts in range(3):
                since = time.time_ns()
                self.next.call("Get", text, GENEROUS, trace, attempts=attempts)
                if attempts:
                    self.both("retry_pushback_ignored", since, method=SERVICE + "Get", cause=cause)
                time.sleep(0.05)

    def obedient(self):
        """gRPC's own retries."""
        for text in self.pushed_back(300):
            self.get(text)

    def max_connection_age(self):
        self.peers("goaway", "max_age", 4, "peer")

    def too_many_pings(self):
        since, (_, peer) = time.time_ns(), self.get("peer")
        now, deadline = peer, time.monotonic() + 60
        # Calls reset the count of PINGs, so there are none until the connection must be gone.
        while now == peer and time.monotonic() < deadline:
            time.sleep(8)
            _, now = self.get("peer")
        if now != peer:
            self.both("connection_error", since, cause="too_many_pings")

    def stream_limit(self):
        for _ in range(ROUNDS // 2):
            since = time.time_ns()
            slow = self.together(*[("slow 1000",)] * LIMIT)
            time.sleep(0.3)
            for thread in slow + self.together(*[("ok",)] * 5):
                thread.join()
            self.both("stream_limit", since, cause="at_limit")

    def slow_reader(self):
        for _ in range(ROUNDS // 2):
            stream = self.next.stream("list 12 16384", GENEROUS)
            next(stream)
            stopped = time.time_ns()
            time.sleep(2)
            self.both("flow_control_stall", stopped, cause="slow_receiver")
            for _ in stream:
                pass

    def leaked_stream(self):
        since = time.time_ns()
        call = self.next.stream("endless 0 0", GENEROUS)
        time.sleep(8)
        self.both("half_closed_leak", since, cause="server_silent", method=SERVICE + "List", lasts=True)
        call.cancel()

    def kept_alive(self):
        call = self.next.stream("endless 1 10", GENEROUS)
        next(call)
        time.sleep(7)
        call.cancel()

    def idle_stream(self):
        since = time.time_ns()
        self.kept_alive()
        self.both("idle_stream", since, method=SERVICE + "List", lasts=True)

    def ping_unanswered(self):
        ready, lost = threading.Event(), threading.Event()

        def changed(state):
            if state is grpc.ChannelConnectivity.READY:
                ready.set()
            elif ready.is_set():
                lost.set()

        self.next.channel.subscribe(changed)
        self.get("ok")
        ready.wait()
        # The callee's own PINGs are answered by then.
        time.sleep(1)
        since = time.time_ns()
        say({"idle": True})
        lost.wait()
        self.truth.provokes("ping_unanswered", since, "client", cause="peer")
        # The C-core says so when it leaves.
        self.truth.provokes("connection_error", since, "client", cause="enhance_your_calm")

    def http_status_mismatch(self):
        """What the gateway answers: an HTTP status, and a gRPC status if it has one. Not with messages: the C-core takes the
        gRPC status of a response without any, and resets others by their HTTP status, so that they have one outcome alone."""
        for answer, is_wrong in [("204 14", True), ("429 8", True), ("401 16", False), ("502", False),
                                 ("200 5", False)] * (ROUNDS // 2):
            since, (code, _) = time.time_ns(), self.get(f"answer {answer}")
            if is_wrong:
                assert str(code) == answer.split()[1], (answer, code)
                self.both("http_status_mismatch", since, method=SERVICE + "Get", cause="error")

    def deadline_fixed(self):
        since = time.time_ns()
        # While these are open, nothing tells to which call another one belongs.
        held = self.together(*[("here 8000",)] * 2)
        time.sleep(1)
        for _ in range(4 * ROUNDS):
            self.get("ok")
        self.truth.provokes("deadline_fixed", since, "client", SERVICE + "Get", service=self.arguments.callee, lasts=True)
        for thread in held:
            thread.join()

    def gives_up(self):
        """Calls that are given up, and whose callee works on: half of them by hand, half at their deadlines."""
        for _ in range(ROUNDS // 2):
            since = time.time_ns()
            call = self.next.channel.unary_unary(SERVICE + "Get").future(b"slow 1200", timeout=GENEROUS)
            time.sleep(SHORT)
            call.cancel()
            time.sleep(1)
            yield since
            since = time.time_ns()
            self.get("slow 1200", SHORT)
            time.sleep(1)
            yield since

    def heeded(self):
        for _ in self.gives_up():
            pass

    def work_after_end(self):
        for number, since in enumerate(self.gives_up()):
            self.truth.provokes("work_after_end", since, "server", service=self.arguments.callee)
            if number % 2:
                self.truth.provokes("deadline_exceeded", since, "server", SERVICE + "Get", service=self.arguments.callee)

    def server_dies(self):
        self.get("ok")
        streams = [self.next.stream("endless 1 10", GENEROUS) for _ in range(5)]
        for stream in streams:
            next(stream)
        since = time.time_ns()
        say({"open": True})
        for stream in streams:
            try:
                next(stream)
            except grpc.RpcError:
                pass
            self.both("abrupt_end", since, cause="connection_lost", method=SERVICE + "List")

    def load(self):
        """Calls with a number in their method, so many at once: whose call a hop makes can be told by that."""
        numbers = iter(range(self.arguments.calls or 1 << 62))
        lock, over = threading.Lock(), time.monotonic() + (self.arguments.seconds or 1e9)
        gap = self.arguments.concurrency / self.arguments.rate if self.arguments.rate else 0

        def work():
            due, to = time.monotonic(), Next(self.arguments, self.truth) if self.arguments.apart else self.next
            while time.monotonic() < over:
                with lock:
                    number = next(numbers, None)
                    trace = self.trace()
                if number is None:
                    return
                method = f"C{number % (self.arguments.methods or self.arguments.calls)}" if self.arguments.calls else "Get"
                to.call(method, "slow 5" if self.arguments.calls else "ok", GENEROUS, trace)
                due += gap
                time.sleep(max(0.0, due - time.monotonic()))

        threads = [threading.Thread(target=work) for _ in range(self.arguments.concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    chain = healthy = balanced = load

    def pinned(self):
        self.truth.provokes("pinned_connection", time.time_ns(), "client", lasts=True)
        self.load()

    def scale_up(self):
        self.get("ok")
        self.truth.provokes("starved_backend", time.time_ns(), "server", cause="unused_connections",
                            service=self.arguments.callee, lasts=True)
        time.sleep(self.arguments.seconds)


def call(arguments, truth):
    caller = Caller(arguments, truth)
    caller.next.wait()
    getattr(caller, arguments.scenario)()
    time.sleep(LINGER)
    caller.next.channel.close()
    truth.made(next(caller.next.numbers))
    say({"done": True})


def wait_for_end(arguments):
    if arguments.while_stdin:
        sys.stdin.read()
    else:
        threading.Event().wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", required=True)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--next")
    parser.add_argument("--callee", default="callee")
    parser.add_argument("--calls", type=int)
    parser.add_argument("--methods", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--no-trace", action="store_true")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--truth", required=True)
    parser.add_argument("--while-stdin", action="store_true")
    arguments = parser.parse_args()
    (serve if arguments.serve else call)(arguments, Truth(arguments.truth))


if __name__ == "__main__":
    main()
