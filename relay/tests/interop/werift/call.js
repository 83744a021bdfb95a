// A call with itself by werift, through the relay only: a data channel.
//
// Arguments: URL, user, password, the address of the URL's host, bytes of data. Trusted authorities are node's, and
// those of NODE_EXTRA_CA_CERTS; MODULES is the folder that has node_modules.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.MODULES, "call.js"));
const dns = require("node:dns");
const { RTCPeerConnection } = require("werift");

const [url, username, credential, address, wanted] = process.argv.slice(2);
const name = /^turns?:([^:?]+)/.exec(url)[1];
const CHUNK = 16_384;
const MOST_BUFFERED = 16 * CHUNK;
const PATIENCE_MS = 100_000;

// Its URLs hold no IPv6 addresses, so that a name stands for the relay's, as a resolver would say.
const { lookup } = dns;
dns.lookup = (host, ...rest) => lookup(host === name ? address : host, ...rest);

const dataFrom = (offset) => Buffer.alloc(CHUNK, (offset / CHUNK) % 256);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function connection() {
  return new RTCPeerConnection({ iceServers: [{ urls: url, username, credential }], iceTransportPolicy: "relay" });
}

async function connect(one, other) {
  await one.setLocalDescription(await one.createOffer());
  await other.setRemoteDescription(one.localDescription);
  await other.setLocalDescription(await other.createAnswer());
  await one.setRemoteDescription(other.localDescription);
}

async function send(channel) {
  for (let offset = 0; offset < Number(wanted); offset += CHUNK) {
    channel.send(dataFrom(offset));
    while (channel.bufferedAmount > MOST_BUFFERED) await sleep(1);
  }
}

function take(other, seen) {
  return new Promise((done) => {
    other.onDataChannel.subscribe((channel) => {
      channel.onMessage.subscribe((data) => {
        seen.wrong += data.equals(dataFrom(seen.received)) ? 0 : 1;
        seen.received += data.length;
        if (seen.received >= Number(wanted)) done();
      });
    });
  });
}

async function main() {
  const [one, other] = [connection(), connection()];
  const seen = { received: 0, wrong: 0 };
  const taken = take(other, seen);
  const channel = one.createDataChannel("data");
  channel.stateChanged.subscribe((state) => { if (state === "open") send(channel); });
  await connect(one, other);
  await Promise.race([taken, sleep(PATIENCE_MS)]);
  const kinds = one.localDescription.sdp.matchAll(/^a=candidate:.* typ (\w+)/gm);
  seen.candidates = [...new Set([...kinds].map(([, kind]) => kind))];
  console.log(JSON.stringify(seen));
  process.exit(0);
}

main();
