// The @grpc/grpc-js test application: see ../README.md for its command lines, plan and truth.
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');

const SERVICE = 'live.test.Calls';
const OPTIONS = {
  'grpc.max_receive_message_length': 1 << 26,
  'grpc.max_send_message_length': 1 << 26,
  'grpc.enable_http_proxy': 0,
};
const FAILURE = 'bad thing: 100% \u00fcn\u00efcode\nline2';
// A reset of the last call shall reach the wire before the connection goes.
const LINGER_MS = 200;
const same = (bytes) => bytes;
const say = (record) => process.stdout.write(JSON.stringify(record) + '\n');
const nowNs = () => Math.round((performance.timeOrigin + performance.now()) * 1e6);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));

// A file of JSON lines, whole after each line.
function truthFile(path) {
  const file = fs.openSync(path, 'a');
  return (record) => fs.writeSync(file, JSON.stringify(record) + '\n');
}

// ---- server

// One call as its handler sees it; written once, when the handler ends or the call is cancelled.
class Handled {
  constructor(write, method, call) {
    Object.assign(this, { write, method, call, written: false });
    this.id = Number(call.metadata.get('x-call-id')[0] ?? -1);
    this.counts = { recv_msgs: 0, recv_bytes: 0, sent_msgs: 0, sent_bytes: 0 };
    call.on('cancelled', () => this.over(null));
  }
  received(message) {
    this.counts.recv_msgs += 1;
    this.counts.recv_bytes += message.length;
    return message;
  }
  sent(message) {
    this.counts.sent_msgs += 1;
    this.counts.sent_bytes += message.length;
    return message;
  }
  over(code) {
    if (this.written) return;
    this.written = true;
    const call = { side: 'server', id: this.id, method: `/${SERVICE}/${this.method}`, code };
    this.write({ ...call, ...this.counts, cancelled: code === null });
  }
}

function detail() {
  const metadata = new grpc.Metadata();
  metadata.set('x-detail', 'nope');
  metadata.set('blob-bin', Buffer.from([0, 1, 255]));
  return metadata;
}

const handlers = (write) => {
  // A unary method: `answer` calls back with (error, reply, trailer).
  const unary = (method, answer) => (call, callback) => {
    const handled = new Handled(write, method, call);
    handled.received(call.request);
    answer(call, (error, reply, trailer) => {
      if (!error && !call.cancelled) handled.sent(reply);
      handled.over(call.cancelled ? null : error ? error.code : 0);
      callback(error, reply, trailer);
    });
  };
  const numbers = (call) => call.request.toString().split(',').map(Number);
  const stream = (method, end) => async (call) => {
    const handled = new Handled(write, method, call);
    handled.received(call.request);
    const [count, size, last] = numbers(call);
    for (let index = 0; index < count && !call.cancelled; index += 1) {
      if (!call.write(handled.sent(Buffer.alloc(size, 's')))) {
        await new Promise((resolve) => { call.once('drain', resolve); call.once('cancelled', resolve); });
      }
      if (method === 'ServerStream' && last > 0) await sleep(last);
    }
    if (!call.cancelled) end(call, handled, last);
  };
  const first = (method, answer) => (call, callback) => {
    const handled = new Handled(write, method, call);
    call.once('data', (message) => answer(handled, handled.received(message), callback));
    call.on('error', () => {});
  };
  return {
    Unary: unary('Unary', (call, done) => done(null, call.request)),
    Big: unary('Big', (call, done) => done(null, Buffer.alloc(Number(call.request.toString()), 'b'))),
    Slow: unary('Slow', (call, done) => {
      const timer = setTimeout(() => done(null, call.request), Number(call.request.toString()));
      call.on('cancelled', () => clearTimeout(timer));
    }),
    Fail: unary('Fail', (call, done) =>
      done({ code: Number(call.request.toString()), details: FAILURE, metadata: detail() })),
    Metadata: unary('Metadata', (call, done) => {
      const initial = new grpc.Metadata();
      initial.set('x-init', '1');
      initial.set('x-init-bin', Buffer.from([0, 254]));
      call.sendMetadata(initial);
      const trailer = new grpc.Metadata();
      trailer.set('x-trail', 't'.repeat(200));
      done(null, call.request, trailer);
    }),
    ServerStream: stream('ServerStream', (call, handled) => { handled.over(0); call.end(); }),
    FailAfter: stream('FailAfter', (call, handled, code) => {
      handled.over(code);
      call.emit('error', { code, details: FAILURE });
    }),
    ClientStream: (call, callback) => {
      const handled = new Handled(write, 'ClientStream', call);
      call.on('data', (message) => handled.received(message));
      call.on('error', () => {});
      call.on('end', () => {
        const reply = Buffer.from(String(handled.counts.recv_bytes));
        handled.sent(reply);
        handled.over(0);
        callback(null, reply);
      });
    },
    Early: first('Early', (handled, _, callback) => {
      handled.over(8);
      callback({ code: 8, details: 'enough' });
    }),
    EarlyOk: first('EarlyOk', (handled, message, callback) => {
      handled.sent(message);
      handled.over(0);
      callback(null, message);
    }),
    Bidi: (call) => {
      const handled = new Handled(write, 'Bidi', call);
      call.on('data', (message) => call.write(handled.sent(handled.received(message))));
      call.on('error', () => {});
      call.on('end', () => { handled.over(0); call.end(); });
    },
  };
};

const TYPES = {
  Unary: 'unary', Big: 'unary', Slow: 'unary', Fail: 'unary', Metadata: 'unary',
  ServerStream: 'server_stream', FailAfter: 'server_stream',
  ClientStream: 'client_stream', Early: 'client_stream', EarlyOk: 'client_stream', Bidi: 'bidi',
};

function serve(options) {
  const definition = {};
  for (const [name, type] of Object.entries(TYPES)) {
    definition[name] = {
      path: `/${SERVICE}/${name}`,
      requestStream: type === 'client_stream' || type === 'bidi',
      responseStream: type === 'server_stream' || type === 'bidi',
      requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
    };
  }
  const server = new grpc.Server(OPTIONS);
  server.addService(definition, handlers(truthFile(options.truth)));
  const address = options.unix ? `unix:${options.unix}` : `127.0.0.1:${options.port}`;
  server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    say({ ready: true, port, pid: process.pid });
  });
}

// ---- client

const payload = (message) => typeof message === 'string' ? Buffer.from(message) : Buffer.alloc(message, 'x');

function metadataOf(plan) {
  const metadata = new grpc.Metadata();
  metadata.set('x-call-id', String(plan.id));
  if (plan.metadata !== 'none') {
    const trace = (BigInt(plan.id) * 0x9E3779B97F4A7C15n % (1n << 128n)).toString(16).padStart(32, '0');
    metadata.set('traceparent', `00-${trace}-${(plan.id + 1).toString(16).padStart(16, '0')}-01`);
  }
  if (plan.metadata === 'full') {
    metadata.set('k-bin', Buffer.from([...Array(20).keys()]));
    metadata.set('long', 'v'.repeat(300));
    metadata.set('user-key', 'user value');
  }
  return metadata;
}

// Makes one call; resolves with its truth.
function make(client, plan) {
  return new Promise((resolve) => {
    const path = `/${SERVICE}/${plan.method}`;
    const counts = { sent_msgs: 0, sent_bytes: 0, recv_msgs: 0, recv_bytes: 0 };
    const send = (message) => {
      const bytes = payload(message);
      counts.sent_msgs += 1;
      counts.sent_bytes += bytes.length;
      return bytes;
    };
    const receive = (message) => {
      counts.recv_msgs += 1;
      counts.recv_bytes += message.length;
    };
    const t0 = nowNs();
    const options = plan.timeout_ms === null ? {} : { deadline: Date.now() + plan.timeout_ms };
    const metadata = metadataOf(plan);
    const reply = (_, message) => { if (message) receive(message); };
    let call;
    if (plan.type === 'unary') {
      call = client.makeUnaryRequest(path, same, same, send(plan.send[0]), metadata, options, reply);
    } else if (plan.type === 'client_stream') {
      call = client.makeClientStreamRequest(path, same, same, metadata, options, reply);
    } else if (plan.type === 'server_stream') {
      call = client.makeServerStreamRequest(path, same, same, send(plan.send[0]), metadata, options);
    } else {
      call = client.makeBidiStreamRequest(path, same, same, metadata, options);
    }
    call.on('error', () => {});
    if (plan.type === 'server_stream' || plan.type === 'bidi') {
      call.on('data', (message) => {
        receive(message);
        if (counts.recv_msgs === plan.cancel_after_messages) call.cancel();
      });
    }
    if (plan.cancel_after_ms !== null) setTimeout(() => call.cancel(), plan.cancel_after_ms);
    call.on('status', (status) => setImmediate(() => resolve({
      side: 'client', id: plan.id, method: path, type: plan.type,
      timeout_ns: plan.timeout_ms === null ? null : plan.timeout_ms * 1e6,
      code: status.code, outcome: { 0: 'ok', 1: 'cancelled', 4: 'deadline' }[status.code] ?? 'error',
      ...counts, t0_ns: t0, t1_ns: nowNs(),
      cancelled_by_client: plan.cancel_after_messages !== null || plan.cancel_after_ms !== null,
    })));
    if (plan.type === 'client_stream' || plan.type === 'bidi') {
      for (const message of plan.send) call.write(send(message));
      call.end();
    }
  });
}

async function run(client, write, calls, concurrency, rate) {
  const begin = performance.now();
  let next = 0;
  const work = async () => {
    while (next < calls.length) {
      const index = next;
      next += 1;
      if (rate) await sleep(begin + index * 1000 / rate - performance.now());
      write(await make(client, calls[index]));
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
}

async function call(options) {
  const calls = fs.readFileSync(options.plan, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
  const write = truthFile(options.truth);
  const target = options.unix ? `unix:${options.unix}` : options.target;
  const client = new grpc.Client(target, grpc.credentials.createInsecure(), OPTIONS);
  const concurrency = Number(options.concurrency);
  const rate = options.rate ? Number(options.rate) : 0;
  say({ ready: true, pid: process.pid });
  await new Promise((resolve, reject) =>
    client.waitForReady(Date.now() + 60_000, (error) => error ? reject(error) : resolve()));
  const half = options.hold ? Math.floor(calls.length / 2) : calls.length;
  await run(client, write, calls.slice(0, half), concurrency, rate);
  if (options.hold) {
    say({ held: true });
    await new Promise((resolve) => readline.createInterface({ input: process.stdin }).once('line', resolve));
    await run(client, write, calls.slice(half), concurrency, rate);
  }
  await sleep(LINGER_MS);
  client.close();
  say({ done: true, calls: calls.length });
  process.exit(0);
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: 'string', default: '0' }, unix: { type: 'string' }, truth: { type: 'string' },
    target: { type: 'string' }, plan: { type: 'string' }, concurrency: { type: 'string', default: '1' },
    rate: { type: 'string' }, hold: { type: 'boolean', default: false },
  },
});
if (positionals[0] === 'server') serve(values);
else if (positionals[0] === 'client') call(values);
else throw new Error('say `server` or `client`');
