// A gateway that knows HTTP/2 and not gRPC (node:http2), and answers calls by itself: see ../README.md for its command line.
//
// `answer HTTP [GRPC]`: with that HTTP status, and that grpc-status, if there is one. With HTTP 500 and `grpc-status: 0` it has
// spoilt a good answer, and with 204 it does what a widely used recipe for nginx does.
'use strict';

const http2 = require('node:http2');
const { parseArgs } = require('node:util');

const { values: args } = parseArgs({
  options: { truth: { type: 'string' }, 'while-stdin': { type: 'boolean', default: false } },
});
const name = process.env.OTEL_SERVICE_NAME ?? 'gateway';
const GRPC = 'application/grpc';

function answer(stream, request) {
  const [, http, grpc] = request.subarray(5).toString().split(' ');
  const status = Number(http);
  if (grpc === undefined) {
    stream.respond({ ':status': status, 'content-type': 'text/html' });
    stream.end(`<html><body><h1>${http}</h1></body></html>`);
  } else if (grpc === '0') {
    stream.respond({ ':status': status, 'content-type': GRPC }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': grpc }));
    stream.end(request);
  } else {
    stream.respond({ ':status': status, 'content-type': GRPC, 'grpc-status': grpc }, { endStream: true });
  }
}

const server = http2.createServer();
const sessions = new Set();
server.on('session', (session) => {
  sessions.add(session);
  session.on('close', () => sessions.delete(session));
});
server.on('stream', (stream) => {
  const pieces = [];
  stream.on('error', () => {});
  stream.on('data', (piece) => pieces.push(piece));
  stream.on('end', () => answer(stream, Buffer.concat(pieces)));
});
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  process.stdout.write(JSON.stringify({ ready: name, address: `127.0.0.1:${port}`, pid: process.pid }) + '\n');
});
if (args['while-stdin']) {
  process.stdin.resume();
  process.stdin.on('end', () => {
    server.close();
    for (const session of sessions) session.close();
  });
}
