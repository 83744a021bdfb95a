// Chromium's own WebRTC through the real relay, and through nothing else.

import assert from "node:assert/strict";
import { test } from "node:test";

import { api, openPage, startRelay, until } from "./support.js";

const [USER, PASSWORD] = ["steady", "a-password-of-the-tests"];
const MESSAGES = 100;

/** Runs in the page: two ends, both behind the relay, and an echo. */
async function callThroughTheRelay({ server, username, credential, messages }) {
  const config = { iceServers: [{ urls: `turn:${server}?transport=udp`, username, credential }], iceTransportPolicy: "relay" };
  const ends = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
  ends.forEach((end, index) => { end.onicecandidate = ({ candidate }) => ends[1 - index].addIceCandidate(candidate); });
  const channel = ends[0].createDataChannel("echo");
  ends[1].ondatachannel = ({ channel: other }) => { other.onmessage = ({ data }) => other.send(data); };
  const echoed = [];
  const all = new Promise((resolve, reject) => {
    channel.onopen = () => { for (let number = 0; number < messages; number += 1) channel.send(`${number} ${"x".repeat(1_000)}`); };
    channel.onmessage = ({ data }) => { if (echoed.push(parseInt(data, 10)) === messages) resolve(); };
    ends[0].onconnectionstatechange = () => { if (ends[0].connectionState === "failed") reject(new Error("no connection")); };
  });
  await ends[0].setLocalDescription(await ends[0].createOffer());
  await ends[1].setRemoteDescription(ends[0].localDescription);
  await ends[1].setLocalDescription(await ends[1].createAnswer());
  await ends[0].setRemoteDescription(ends[1].localDescription);
  await all;
  const stats = [...(await ends[0].getStats()).values()];
  const pair = stats.find(({ type, nominated, state }) => type === "candidate-pair" && nominated && state === "succeeded");
  const kinds = [pair.localCandidateId, pair.remoteCandidateId].map((id) => stats.find((stat) => stat.id === id).candidateType);
  ends.forEach((end) => end.close());
  return { echoed, kinds };
}

test("Chromium calls through the relay alone, and nothing is left of it", async (t) => {
  const relay = await startRelay(t, { users: { [USER]: PASSWORD } });
  const page = await openPage(t, "about:blank");
  const { echoed, kinds } = await page.evaluate(callThroughTheRelay, { server: relay.server, username: USER, credential: PASSWORD, messages: MESSAGES });
  assert.deepEqual(echoed, Array.from({ length: MESSAGES }, (_, number) => number));
  assert.deepEqual(kinds, ["relay", "relay"]);

  // What a worker reports is up to a second old.
  const gone = await until("nothing is left", async () => {
    const { sum, ports } = await api(relay.url, "/v1/totals");
    return sum.allocations_created >= 2 && sum.allocations === 0 && ports.every(({ used }) => used === 0) && sum;
  });
  assert.deepEqual(gone.allocations_ended, { deleted: gone.allocations_created });
  assert.ok(gone.to_peer.userspace.packets > MESSAGES, "by the relay");
  const { totals } = await api(relay.url, "/v1/refusals");
  assert.deepEqual(totals, [], "nobody was refused");
});
