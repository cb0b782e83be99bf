// The @grpc/grpc-js part of the scenarios: see ../README.md for its command line, methods and truth.
'use strict';

const fs = require('node:fs');
const { randomBytes } = require('node:crypto');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');

const SERVICE = '/scenario.v1.Hop/';
const GENEROUS = 20_000;
const SHORT = 500;
const ROUNDS = 10;
const LIMIT = 10;
// Connections to one who hangs up, for so long.
const STORM = 12_000;
// A constant, as it stands in code that knows nothing of its caller's deadline.
const FIXED = 60_000;
// Methods of the chain must be known to the server before.
const NUMBERED = 20_000;
// A reset of the last call shall reach the wire before the connection goes.
const LINGER_MS = 200;
const NAME = process.env.OTEL_SERVICE_NAME ?? 'grpc-js';
const same = (bytes) => bytes;
const say = (record) => process.stdout.write(JSON.stringify(record) + '\n');
const nowNs = () => Math.round((performance.timeOrigin + performance.now()) * 1e6);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

const { values: args } = parseArgs({
  options: {
    scenario: { type: 'string' }, serve: { type: 'boolean', default: false }, next: { type: 'string' },
    callee: { type: 'string', default: 'callee' }, calls: { type: 'string', default: '0' }, methods: { type: 'string' },
    seconds: { type: 'string', default: '0' }, rate: { type: 'string', default: '0' },
    concurrency: { type: 'string', default: '1' }, 'no-trace': { type: 'boolean', default: false },
    truth: { type: 'string' }, 'while-stdin': { type: 'boolean', default: false },
  },
});
const truth = fs.openSync(args.truth, 'a');

// A finding that may have been there from `since` until now, or until the end where it lasts.
function provokes(finding, since, more) {
  const line = { finding, service: NAME, ...more, from_ns: since };
  if (line.rpc_method) line.rpc_method = line.rpc_method.slice(1);
  if (!line.lasts) line.until_ns = nowNs();
  fs.writeSync(truth, JSON.stringify(line) + '\n');
}

// Unary calls that were made.
let made = 0;

function writeCalls() {
  fs.writeSync(truth, JSON.stringify({ service: NAME, calls: made }) + '\n');
}

const SERVER_OPTIONS = {
  stream_limit: { 'grpc.max_concurrent_streams': LIMIT },
  max_connection_age: { 'grpc.max_connection_age_ms': 1000, 'grpc.max_connection_age_grace_ms': 5000 },
}[args.scenario];

function retries(code) {
  const retryPolicy = {
    maxAttempts: 3, initialBackoff: '0.05s', maxBackoff: '0.1s', backoffMultiplier: 1.5, retryableStatusCodes: [code],
  };
  const config = {
    loadBalancingConfig: [], methodConfig: [{ name: [{}], retryPolicy }],
    retryThrottling: { maxTokens: 1000, tokenRatio: 1 },
  };
  return { 'grpc.service_config': JSON.stringify(config) };
}

const ROUND_ROBIN = {
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }], methodConfig: [] }),
};
const keepalive = (time, timeout) => ({
  'grpc.keepalive_time_ms': time, 'grpc.keepalive_timeout_ms': timeout, 'grpc.keepalive_permit_without_calls': 1,
});
const CLIENT_OPTIONS = {
  retry_not_retryable: retries('INVALID_ARGUMENT'),
  retry_storm: retries('UNAVAILABLE'),
  too_many_pings: { 'grpc.keepalive_time_ms': 1000, 'grpc.keepalive_permit_without_calls': 1 },
  kept_alive: keepalive(1000, 5000),
  ping_unanswered: keepalive(3000, 3000),
  obedient: retries('UNAVAILABLE'),
  reconnect_storm: { 'grpc.initial_reconnect_backoff_ms': 20, 'grpc.max_reconnect_backoff_ms': 50 },
  balanced: ROUND_ROBIN,
  healthy: ROUND_ROBIN,
}[args.scenario];

// ---- calls to the next hop

class Next {
  constructor() {
    const options = { 'grpc.enable_http_proxy': 0, 'grpc.default_authority': 'hop.test', ...CLIENT_OPTIONS };
    this.client = new grpc.Client(`ipv4:${args.next}`, grpc.credentials.createInsecure(), options);
  }
  ready() {
    return new Promise((resolve, reject) =>
      this.client.waitForReady(Date.now() + 60_000, (error) => error ? reject(error) : resolve()));
  }
  // Makes a unary call; `wrongly` names what it provokes besides a missing or an exceeded deadline. `started` gets the call.
  // `attempts` says how many there were before it.
  call(method, text, options, trace, wrongly, { started = () => {}, attempts = 0 } = {}) {
    made += 1;
    return new Promise((resolve) => {
      const since = nowNs();
      const metadata = new grpc.Metadata();
      if (trace) metadata.set('traceparent', trace);
      if (attempts) metadata.set('grpc-previous-rpc-attempts', String(attempts));
      const of = { side: 'client', rpc_method: SERVICE + method };
      started(this.client.makeUnaryRequest(of.rpc_method, same, same, Buffer.from(text), metadata, options, (error, reply) => {
        const passedOn = options.parent && (options.propagate_flags ?? 1) & 1;
        if (!options.deadline && !passedOn) provokes('deadline_missing', since, { ...of, cause: 'absent' });
        if (error?.code === 4) provokes('deadline_exceeded', since, of);
        if (wrongly) provokes(wrongly, since, of);
        resolve({ code: error?.code ?? 0, reply: reply?.toString() });
      }));
    });
  }
  stream(text) {
    const metadata = new grpc.Metadata();
    const options = { deadline: Date.now() + GENEROUS };
    const call = this.client.makeServerStreamRequest(SERVICE + 'List', same, same, Buffer.from(text), metadata, options);
    call.on('error', () => {});
    return call;
  }
}

// ---- server

class Hop {
  constructor() {
    this.next = args.next ? new Next() : null;
    this.calls = 0;
  }
  // Writes down what the call's deadline provokes; returns what is to be called when the call has ended.
  judged(call, method) {
    const [since, deadline, of] = [nowNs(), Number(call.getDeadline()), { side: 'server', rpc_method: method }];
    let judged = false;
    const ended = () => {
      if (judged) return;
      judged = true;
      if (deadline === Infinity) provokes('deadline_missing', since, { ...of, cause: 'absent' });
      // A client that gives up by itself does so in the first half.
      else if (call.cancelled && Date.now() > (deadline + since / 1e6) / 2) provokes('deadline_exceeded', since, of);
    };
    call.on('cancelled', ended);
    return ended;
  }
  async get(call, callback, method) {
    const ended = this.judged(call, SERVICE + method);
    const text = call.request.toString();
    const [op, ...words] = text.split(' ');
    const inbound = (name) => call.metadata.get(name)[0];
    let [error, reply] = [null, text];
    if (op === 'here') {
      await sleep(Number(words[0]));
    } else if (op === 'cancelled') {
      await this.ignoreCancellation(call, inbound('traceparent'));
    } else if (this.next) {
      const answer = await this.handOn(call, method, text, inbound('traceparent'));
      if (answer.code) error = { code: answer.code, details: 'by the next hop' };
      reply = answer.reply;
    } else if (op === 'slow') {
      await sleep(Number(words[0]));
    } else if (op === 'hang') {
      await new Promise((resolve) => call.once('cancelled', resolve));
    } else if (op === 'flaky' && Number(inbound('grpc-previous-rpc-attempts') ?? 0) < Number(words[0])) {
      error = { code: Number(words[1]), details: 'try again', metadata: new grpc.Metadata() };
      if (words[2]) error.metadata.set('grpc-retry-pushback-ms', words[2]);
    } else if (op === 'peer') {
      reply = call.getPeer();
    }
    ended();
    callback(error, error ? null : Buffer.from(reply ?? ''));
  }
  async list(call) {
    const ended = this.judged(call, SERVICE + 'List');
    const [op, count, size] = call.request.toString().split(' ');
    for (let index = 0; index < Number(count) && !call.cancelled; index += 1) {
      if (!call.write(Buffer.alloc(Number(size), 'x'))) {
        await new Promise((resolve) => { call.once('drain', resolve); call.once('cancelled', resolve); });
      }
    }
    if (op === 'endless') await new Promise((resolve) => call.once('cancelled', resolve));
    ended();
    call.end();
  }
  // Never twice the same: a round constant is a finding of its own.
  about(ms) {
    this.calls += 1;
    return ms + 1 + 7 * this.calls;
  }
  // The parent's deadline and cancellation are handed on, unless the flags say otherwise.
  handOn(call, method, text, trace) {
    const { DEFAULTS, DEADLINE } = grpc.propagate;
    if (args.scenario === 'deadline_reset') {
      const options = { parent: call, propagate_flags: DEFAULTS & ~DEADLINE, deadline: Date.now() + this.about(2 * GENEROUS) };
      return this.next.call(method, text, options, trace, 'deadline_reset');
    }
    if (args.scenario === 'deadline_dropped') {
      const options = { parent: call, propagate_flags: DEFAULTS & ~DEADLINE };
      return this.next.call(method, text, options, trace, 'deadline_dropped');
    }
    if (args.scenario === 'deadline_fixed') {
      const options = { parent: call, propagate_flags: DEFAULTS & ~DEADLINE, deadline: Date.now() + FIXED };
      return this.next.call(method, text, options, trace);
    }
    return this.next.call(method, text, { parent: call }, trace);
  }
  async ignoreCancellation(call, trace) {
    const over = new Promise((resolve) => call.once('cancelled', resolve));
    const options = { deadline: call.getDeadline() };
    await this.next.call('Get', 'ok', options, trace);
    say({ working: true });
    await this.next.call('Get', 'slow 1500', options, trace, 'uncancelled_call');
    await over;
    for (let n = 0; n < 2; n += 1) await this.next.call('Get', 'ok', options, trace, 'uncancelled_call');
  }
}

function serve() {
  const hop = new Hop();
  const server = new grpc.Server(SERVER_OPTIONS);
  const unary = (method) =>
    server.register(SERVICE + method, (call, callback) => hop.get(call, callback, method), same, same, 'unary');
  unary('Get');
  if (args.scenario === 'chain') for (let n = 0; n < NUMBERED; n += 1) unary(`C${n}`);
  server.register(SERVICE + 'List', (call) => hop.list(call), same, same, 'serverStream');
  server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    say({ ready: NAME, address: `127.0.0.1:${port}`, pid: process.pid });
  });
  if (!args['while-stdin']) return;
  process.stdin.resume();
  process.stdin.on('end', () => server.tryShutdown(() => {
    if (hop.next) {
      hop.next.client.close();
      writeCalls();
    }
    setTimeout(() => process.exit(0), LINGER_MS);
  }));
}

// ---- client

const next = args.serve ? null : new Next();
const trace = () => args['no-trace'] ? undefined
  : `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`;
const get = (text, timeout = GENEROUS, method = 'Get') =>
  next.call(method, text, timeout ? { deadline: Date.now() + timeout } : {}, trace());

// Writes down what is to be found at both ends.
function both(finding, since, more) {
  provokes(finding, since, { ...more, side: 'client' });
  provokes(finding, since, { ...more, side: 'server', service: args.callee });
}

async function rounds(count, work) {
  for (let round = 0; round < count; round += 1) await work();
}

// Calls with a number in their method, so many at once: whose call a hop makes can be told by that.
async function load() {
  const [calls, seconds, rate, concurrency] =
    [args.calls, args.seconds, args.rate, args.concurrency].map(Number);
  const begin = performance.now();
  let number = 0;
  const work = async () => {
    for (let made = 1; ; made += 1) {
      const n = number;
      number += 1;
      if ((calls && n >= calls) || (seconds && performance.now() - begin > seconds * 1e3)) return;
      await (calls ? get('slow 5', GENEROUS, `C${n % Number(args.methods ?? calls)}`) : get('ok'));
      if (rate) await sleep(begin + made * concurrency * 1e3 / rate - performance.now());
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

// A stream on which nothing happens, for a while.
async function silence() {
  const call = next.stream('endless 1 10');
  await new Promise((resolve) => call.once('data', resolve));
  await sleep(7000);
  call.cancel();
}

// Texts of calls that are pushed back by so much, or for ever, in turn.
const pushedBack = (ms) => Array.from({ length: ROUNDS }, (_, n) => n % 2 ? 'flaky 2 14 -1' : `flaky 2 14 ${ms}`);

// Calls that are given up, and whose callee works on: half of them by hand, half at their deadlines.
async function givesUp(afterwards) {
  const cancel = (call) => setTimeout(() => call.cancel(), SHORT);
  await rounds(ROUNDS / 2, async () => {
    let since = nowNs();
    await next.call('Get', 'slow 1200', { deadline: Date.now() + GENEROUS }, trace(), undefined, { started: cancel });
    await sleep(1000);
    afterwards(since, false);
    since = nowNs();
    await get('slow 1200', SHORT);
    await sleep(1000);
    afterwards(since, true);
  });
}

const handedOn = () => rounds(2 * ROUNDS, () => get('ok'));

const neverReady = () => new Promise((resolve) => next.client.waitForReady(Date.now() + STORM, resolve));

const CALLERS = {
  no_deadline: () => rounds(ROUNDS, async () => { await get('ok', 0); await get('ok'); }),
  // The timeout is computed before the request is written, which takes tens of milliseconds the first time: then the call seems
  // to have been given up before its deadline.
  deadline_exceeded: () => rounds(ROUNDS, async () => { await get('ok'); await get('hang', SHORT); }),
  deadline_reset: handedOn,
  deadline_dropped: handedOn,
  ignores_cancellation: () => rounds(ROUNDS / 2, async () => {
    const cancel = (call) => setTimeout(() => call.cancel(), 500);
    await next.call('Get', 'cancelled', { deadline: Date.now() + GENEROUS }, trace(), undefined, { started: cancel });
    await sleep(2000);
  }),
  retry_not_retryable: () => rounds(ROUNDS, async () => {
    const since = nowNs();
    await get('flaky 2 3');
    for (let attempt = 0; attempt < 2; attempt += 1) {
      both('retry_not_retryable', since, { rpc_method: SERVICE + 'Get' });
    }
  }),
  retry_storm: async () => {
    const since = nowNs();
    await rounds(12 * ROUNDS, () => get('flaky 2 14'));
    both('retry_storm', since, { rpc_method: SERVICE + 'Get', lasts: true });
  },
  // A retry layer of one's own, with a backoff of its own.
  retry_pushback_ignored: async () => {
    for (const text of pushedBack(2000)) {
      const [cause, of] = [text.endsWith('-1') ? 'do_not_retry' : 'too_early', trace()];
      for (let attempts = 0; attempts < 3; attempts += 1) {
        const since = nowNs();
        await next.call('Get', text, { deadline: Date.now() + GENEROUS }, of, undefined, { attempts });
        if (attempts) both('retry_pushback_ignored', since, { rpc_method: SERVICE + 'Get', cause });
        await sleep(50);
      }
    }
  },
  // gRPC's own retries.
  obedient: async () => {
    for (const text of pushedBack(300)) await get(text);
  },
  max_connection_age: async () => {
    let [since, peer, changes] = [nowNs(), null, 4];
    while (changes) {
      const now = (await get('peer')).reply;
      if (peer && now && now !== peer) {
        both('goaway', since, { cause: 'max_age' });
        [since, changes] = [nowNs(), changes - 1];
      }
      peer = now ?? peer;
      await sleep(20);
    }
  },
  too_many_pings: async () => {
    // Calls reset the count of PINGs, so there are none until the connection must be gone.
    const [since, peer] = [nowNs(), (await get('peer')).reply];
    await sleep(8000);
    if ((await get('peer')).reply !== peer) both('connection_error', since, { cause: 'too_many_pings' });
  },
  stream_limit: () => rounds(ROUNDS / 2, async () => {
    const since = nowNs();
    const slow = Array.from({ length: LIMIT }, () => get('slow 1000'));
    await sleep(300);
    await Promise.all([...slow, ...Array.from({ length: 5 }, () => get('ok'))]);
    both('stream_limit', since, { cause: 'at_limit' });
  }),
  slow_reader: () => rounds(ROUNDS / 2, async () => {
    const stream = next.stream('list 256 16384');
    let stopped;
    stream.once('data', () => { stream.pause(); stopped = nowNs(); });
    await sleep(2000);
    both('flow_control_stall', stopped, { cause: 'slow_receiver' });
    const ended = new Promise((resolve) => stream.on('end', resolve));
    stream.on('data', () => {});
    stream.resume();
    await ended;
  }),
  leaked_stream: async () => {
    const since = nowNs();
    const call = next.stream('endless 0 0');
    await sleep(8000);
    both('half_closed_leak', since, { cause: 'server_silent', rpc_method: SERVICE + 'List', lasts: true });
    call.cancel();
  },
  kept_alive: silence,
  idle_stream: async () => {
    const since = nowNs();
    await silence();
    both('idle_stream', since, { rpc_method: SERVICE + 'List', lasts: true });
  },
  ping_unanswered: async () => {
    await get('ok');
    // The callee's own PINGs are answered by then.
    await sleep(1000);
    const since = nowNs();
    say({ idle: true });
    // Nothing of grpc-js keeps an idle process alive.
    const awake = setInterval(() => {}, 1000);
    await new Promise((resolve) => {
      next.client.getChannel().watchConnectivityState(grpc.connectivityState.READY, Infinity, resolve);
    });
    clearInterval(awake);
    provokes('ping_unanswered', since, { side: 'client', cause: 'peer' });
  },
  // What the gateway answers: an HTTP status, and a gRPC status if it has one.
  http_status_mismatch: () => rounds(ROUNDS / 2, async () => {
    const answers = { '204 14': 'error', '429 8': 'error', '500 0': 'ok', '401 16': null, '502': null, '200 5': null };
    for (const [answer, cause] of Object.entries(answers)) {
      const since = nowNs();
      const { code } = await get(`answer ${answer}`);
      if (!cause) continue;
      if (String(code) !== answer.split(' ')[1]) throw new Error(`${answer} is ${code}`);
      both('http_status_mismatch', since, { rpc_method: SERVICE + 'Get', cause });
    }
  }),
  // A backoff that is far too short.
  reconnect_storm: async () => {
    provokes('reconnect_storm', nowNs(), { side: 'client', lasts: true });
    await neverReady();
  },
  patient: () => neverReady(),
  deadline_fixed: async () => {
    const since = nowNs();
    // While these are open, nothing tells to which call another one belongs.
    const held = [get('here 8000'), get('here 8000')];
    await sleep(1000);
    await rounds(4 * ROUNDS, () => get('ok'));
    provokes('deadline_fixed', since, { side: 'client', rpc_method: SERVICE + 'Get', service: args.callee, lasts: true });
    await Promise.all(held);
  },
  heeded: () => givesUp(() => {}),
  work_after_end: () => givesUp((since, atDeadline) => {
    const of = { side: 'server', service: args.callee };
    provokes('work_after_end', since, of);
    if (atDeadline) provokes('deadline_exceeded', since, { ...of, rpc_method: SERVICE + 'Get' });
  }),
  server_dies: async () => {
    await get('ok');
    const streams = Array.from({ length: 5 }, () => next.stream('endless 1 10'));
    await Promise.all(streams.map((stream) => new Promise((resolve) => stream.once('data', resolve))));
    const since = nowNs();
    const ended = streams.map((stream) => new Promise((resolve) => stream.once('status', resolve)));
    say({ open: true });
    await Promise.all(ended);
    for (const _ of streams) both('abrupt_end', since, { cause: 'connection_lost', rpc_method: SERVICE + 'List' });
  },
  pinned: () => {
    provokes('pinned_connection', nowNs(), { side: 'client', lasts: true });
    return load();
  },
  balanced: load,
  healthy: load,
  chain: load,
};

async function call() {
  if (!['reconnect_storm', 'patient'].includes(args.scenario)) await next.ready();
  await CALLERS[args.scenario]();
  await sleep(LINGER_MS);
  next.client.close();
  writeCalls();
  say({ done: true });
  setTimeout(() => process.exit(0), LINGER_MS);
}

if (args.serve) serve();
else call();
