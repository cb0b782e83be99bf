// A reader of the demo's long streams, with @grpc/grpc-js: it stops reading now and then, and writes down for how long.
'use strict';

const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');

const METHOD = 'shop.v1.Inventory/ListStock';
// ListStockRequest{prefix: "bulk-paced"}: field 1, ten octets.
const REQUEST = Buffer.from('\x0a\x0abulk-paced', 'latin1');
const [ROUNDS, STOP_MS, READ_MS] = [3, 3000, 700];

function option(name) {
  return process.argv[process.argv.indexOf(name) + 1];
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const nowNs = () => Math.round((performance.timeOrigin + performance.now()) * 1e6);

async function main() {
  const client = new grpc.Client(option('--inventory'), grpc.credentials.createInsecure(), { 'grpc.enable_http_proxy': 0 });
  const identity = (octets) => octets;
  const deadline = Date.now() + 120_000;
  const stream = client.makeServerStreamRequest(`/${METHOD}`, identity, identity, REQUEST, { deadline });
  let failed = null;
  stream.on('data', () => {});
  stream.on('error', (error) => { failed ??= error; });
  for (let round = 0; round < ROUNDS; round += 1) {
    await sleep(READ_MS);
    const [since, sinceNs] = [performance.now(), nowNs()];
    stream.pause();
    await sleep(STOP_MS);
    stream.resume();
    const stopped = (performance.now() - since) / 1000;
    await sleep(READ_MS);
    if (failed) throw failed;
    fs.appendFileSync(option('--truth'), `${JSON.stringify({
      finding: 'flow_control_stall', cause: 'slow_receiver', service: process.env.OTEL_SERVICE_NAME,
      side: 'client', rpc_method: METHOD, from_ns: sinceNs, until_ns: nowNs(), stalled_seconds: stopped,
    })}\n`);
  }
  stream.cancel();
  // The reset shall reach the wire before the connection goes.
  await sleep(300);
  // Without the GOAWAY of `close`, which would be something else to find.
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
