// The page against the real relay under a real load: what an operator sees and does is what happens.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  api, bitsPerSec, faultsOf, logIn, openPage, startLoad, startRelay, until,
} from "./support.js";

const HOSTILE = [`<img src=x onerror="document.title='taken'">`, `"'><svg onload=alert(1)>`, `long-${"name-".repeat(60)}`];
const PASSWORD = "a-password-of-the-tests";

const row = (page, name) => page.locator("#rows button", { hasText: name }).first();

test("an operator watches a load, limits it, disconnects it, and drains the relay", async (t) => {
  const users = Object.fromEntries([...HOSTILE, "steady"].map((name) => [name, PASSWORD]));
  const relay = await startRelay(t, { users });
  const page = await openPage(t, relay.url);
  await logIn(page);
  await page.getByText("No allocations yet.").waitFor();

  const load = startLoad(t, relay.server, { user: "steady", password: PASSWORD, clients: 2, packetsPerSec: 100, bytes: 1000 });
  for (const user of HOSTILE) startLoad(t, relay.server, { user, password: PASSWORD, clients: 1, packetsPerSec: 10, bytes: 200 });
  await until("all clients are there", async () => await page.locator("#rows tr").count() === 5);
  await until("the tile shows the load", async () => bitsPerSec(await page.locator("#tile-to-peer").textContent()) > 1_200_000);
  await until("so does the first talker", async () => bitsPerSec(await page.locator("#talkers .number").first().textContent()) > 1_000_000);
  assert.match(await page.locator("#path").textContent(), /io-uring|epoll/);
  assert.equal(await page.locator("#fallback").isVisible(), false, "there is no website on its port");

  // A client with a wrong password: the page says whose, from where, and why.
  const mistaken = startLoad(t, relay.server, { user: "steady", password: "not-the-password", clients: 1, seconds: 1 });
  assert.notEqual(await mistaken.ended, 0);
  const refusal = page.locator("#refusal-rows tr", { hasText: "steady" });
  await refusal.waitFor();
  assert.match(await refusal.textContent(), /401.*wrong key.*allocate.*steady.*127\.0\.0\.1:\d+.*ago/);

  // A limit: the rate in the page follows, in both directions.
  await row(page, "steady").click();
  const shown = async (way) => bitsPerSec(await page.locator(`[data-spark="${way}"]`).textContent());
  await until("its rate is known", async () => await shown("to-peer") > 600_000);
  await page.locator("#limit-button").click();
  await page.getByLabel("Mbit/s", { exact: true }).fill("0.2");
  await page.locator("#confirm-ok").click();
  await until("the rate follows the limit", async () => await shown("to-peer") < 230_000 && await shown("to-peer") > 150_000);
  await until("the other way, too", async () => await shown("to-client") < 230_000);
  const id = await page.locator("#detail-id").textContent();
  const detail = await api(relay.url, `/v1/allocations/${id}`);
  assert.equal(detail.max_bits_per_sec, 200_000);
  assert.ok(detail.to_peer.userspace.rate_drops > 0);
  await page.locator("#drops .meter", { hasText: "rate to peer" }).waitFor();

  // A disconnect: it is gone.
  await page.locator("#disconnect-button").click();
  await page.locator("#confirm-ok").click();
  await page.getByText("Disconnected.").waitFor();
  await until("it is gone", async () => (await api(relay.url, "/v1/allocations")).total === 4);
  await until("it is counted", async () => (await api(relay.url, "/v1/totals")).sum.allocations_ended.disconnected === 1);

  // Hostile names, also in their details.
  for (const name of HOSTILE) {
    await row(page, name).click();
    await page.locator("#detail-title", { hasText: name }).waitFor();
    await page.locator("#detail-body .facts").waitFor();
    await page.keyboard.press("Escape");
  }
  assert.match(await page.title(), /Turnpike$/);

  // A drain refuses new allocations, until it is ended.
  const attempt = async () => {
    const late = startLoad(t, relay.server, { user: "steady", password: PASSWORD, clients: 1, seconds: 1 });
    return await late.ended;
  };
  await page.getByRole("button", { name: "Drain" }).click();
  await page.locator("#confirm-ok").click();
  await page.locator("#drain-text", { hasText: "new ones are refused" }).waitFor();
  assert.notEqual(await attempt(), 0, "refused while draining");
  await page.getByRole("button", { name: "Take new allocations again" }).click();
  await page.locator("#confirm-ok").click();
  await until("it is ready again", async () => await page.locator("#readiness").textContent() === "Ready");
  assert.equal(await attempt(), 0, "accepted again");

  await load.stop();
  assert.deepEqual(await faultsOf(page), []);
});
