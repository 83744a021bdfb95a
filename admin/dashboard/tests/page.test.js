// The page against a relay that exists in memory only: everything that needs no real packet.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { METRICS_TOKEN, READ_TOKEN, TOKEN, api, faultsOf, logIn, openPage, startFake, until } from "./support.js";

const rows = (page) => page.locator("#rows tr");
const firstRow = (page) => rows(page).first();

async function opened(t, { fake = {}, options = {} } = {}) {
  const relay = await startFake(t, fake);
  return { relay, page: await openPage(t, relay.url, options) };
}

async function loggedIn(t, setup = {}) {
  const all = await opened(t, setup);
  await logIn(all.page);
  await firstRow(all.page).waitFor();
  return all;
}

/** Runs in the page: notes each moment in which the bar says that nothing is known, and yet that all is well. */
function watchForContradictions() {
  window.contradictions = [];
  const look = () => {
    const isSilent = document.querySelector("#connection-text").textContent === "Not answering";
    const isReady = document.querySelector("#readiness").checkVisibility();
    const isTold = document.querySelector("#silence").checkVisibility();
    if (isSilent && (isReady || !isTold)) window.contradictions.push(`ready: ${isReady}, told: ${isTold}`);
  };
  new MutationObserver(look).observe(document.querySelector("#app"), { subtree: true, childList: true, attributes: true, characterData: true });
}

/** Runs in the page: labels of a chart that lie on one another. */
function overlaps() {
  const labels = [...document.querySelectorAll("#chart-bits .plot text")].map((node) => [node.textContent, node.getBoundingClientRect()]);
  const touch = ([, one], [, other]) => one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
  return labels.flatMap((one, index) => labels.slice(index + 1).filter((other) => touch(one, other)).map(([text]) => `${one[0]} ${text}`));
}

// Most of the time each test waits: several at once.
describe("the page", { concurrency: 4 }, () => {
  test("a wrong token is refused, a right one opens the page, and logging out forgets it", async (t) => {
    const { page } = await opened(t);
    await logIn(page, "not-the-token");
    const alert = page.locator("#login-error");
    await until("the refusal is shown", async () => (await alert.textContent()).includes("not accepted"));
    assert.equal(await page.locator("#app").isVisible(), false);
    await logIn(page);
    await firstRow(page).waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 1);
    assert.equal(await page.evaluate((token) => JSON.stringify(localStorage).includes(token) || document.cookie.includes(token) || location.href.includes(token), TOKEN), false);
    await page.reload();
    await firstRow(page).waitFor();
    await page.getByRole("button", { name: "Log out" }).click();
    assert.equal(await page.locator("#login").isVisible(), true);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    assert.equal(await rows(page).count(), 0, "nothing of the relay stays in the page");
    assert.deepEqual(await faultsOf(page), []);
  });

  test("too many wrong tokens are told how long to wait", async (t) => {
    const { relay, page } = await opened(t);
    const guess = () => api(relay.url, "/v1/status", { token: "a-guess" }).catch((error) => error.message);
    await until("the wait is shown", async () => {
      await Promise.all(Array.from({ length: 12 }, guess));
      await logIn(page, "wrong-again");
      await page.locator("#login-error", { hasText: /Too many attempts.*\d+ s/ }).waitFor({ timeout: 1_000 });
      return true;
    });
  });

  test("hostile names are shown as they are, and do nothing", async (t) => {
    const { page } = await loggedIn(t, { fake: { allocations: 24 } });
    const names = await page.locator("#rows td.user").allTextContents();
    assert.ok(names.some((name) => name.includes("<img src=x onerror=")), "markup is text");
    assert.ok(names.some((name) => name === "\"'><script>alert(2)</script>&amp;`${7*7}`"), "so are quotes and entities");
    assert.ok(names.some((name) => name.includes("\\u{202e}")), "a character that turns the line around is visible");
    assert.ok(names.every((name) => !/[\u202a-\u202e\u2066-\u2069]/.test(name)));
    assert.equal(await page.locator("#app img, #app script, #app iframe").count(), 0);
    for (const part of ["<img", "dave", "<script>", "without-an-end"]) {
      await page.locator("#rows button", { hasText: part }).first().click();
      await page.locator("#detail-body .facts").waitFor();
      await page.getByRole("button", { name: "Disconnect" }).click();
      await page.locator("#confirm").waitFor();
      await page.keyboard.press("Escape");
      await page.keyboard.press("Escape");
    }
    assert.deepEqual(await faultsOf(page), []);
  });

  test("16,000 allocations are paged, searched and sorted by the server", async (t) => {
    const { page } = await loggedIn(t, { fake: { allocations: 16_000 } });
    const range = page.locator("#page-range");
    await until("the first page", async () => /^1–25 of 1[56],\d{3}/.test(await range.textContent()));
    assert.equal(await rows(page).count(), 25);
    await page.getByRole("button", { name: "Next" }).click();
    await until("the second page", async () => (await range.textContent()).startsWith("26–50 of"));
    await page.locator("#page-size").selectOption("100");
    await until("a longer page", async () => await rows(page).count() === 100);

    const found = await firstRow(page).locator("td.client").textContent();
    await page.getByRole("searchbox", { name: "Search" }).fill(found);
    await until("the search", async () => await rows(page).count() === 1);
    assert.match(await page.locator("#match-count").textContent(), /^1 of 1[56],\d{3}$/);
    await page.getByRole("searchbox", { name: "Search" }).fill("nobody has this name");
    await page.getByText("No allocation matches.").waitFor();
    assert.equal(await rows(page).count(), 0);
    await page.getByRole("searchbox", { name: "Search" }).fill("");

    await page.locator("#path-filter").selectOption("false");
    await until("only userspace", async () => {
      const paths = await page.locator("#rows td.path").allTextContents();
      return paths.length > 0 && paths.every((path) => path === "userspace");
    });
    await page.locator("#path-filter").selectOption("");
    for (const [transport, matching] of [["tls", /^3,\d{3} of 1/], ["tcp", /^3,\d{3} of 1/], ["udp", /^9,\d{3} of 1/]]) {
      await page.locator("#transport-filter").selectOption(transport);
      await until(`only ${transport}`, async () => {
        const shown = await page.locator("#rows td.transport").allTextContents();
        return shown.length > 0 && shown.every((text) => text === transport.toUpperCase()) && matching.test(await page.locator("#match-count").textContent());
      });
    }
    await page.locator("#transport-filter").selectOption("");
    await page.getByRole("button", { name: "User", exact: true }).click();
    const sorted = page.locator('th[aria-sort="ascending"]');
    await sorted.waitFor();
    assert.equal(await sorted.textContent(), "User");
  });

  test("what a client's TLS has agreed on is in its details", async (t) => {
    const { page } = await loggedIn(t);
    const facts = page.locator("#detail-body .facts");
    for (const [transport, shown] of [["tls", "TLS1.3, TLS_CHACHA20_POLY1305_SHA256, ALPN stun.turn"], ["tcp", null]]) {
      await page.locator("#transport-filter").selectOption(transport);
      await until(`only ${transport}`, async () => (await page.locator("#rows td.transport").allTextContents()).every((text) => text === transport.toUpperCase()));
      await firstRow(page).locator("button").click();
      await facts.waitFor();
      const text = await facts.textContent();
      assert.equal(text.includes("TLS_"), shown !== null, text);
      if (shown) assert.ok(text.includes(shown), text);
      await page.keyboard.press("Escape");
    }
    assert.deepEqual(await faultsOf(page), []);
  });

  test("the numbers move, and both charts have both paths", async (t) => {
    const { page } = await loggedIn(t);
    await until("a rate", async () => /bit\/s/.test(await page.locator("#tile-to-peer").textContent()));
    for (const chart of ["#chart-bits", "#chart-packets"]) {
      for (const path of ["kernel", "userspace"]) {
        const area = page.locator(`${chart} .area.${path}`).first();
        await until(`${chart} ${path} has a shape`, async () => (await area.getAttribute("d")).length > 40);
      }
    }
    const before = await page.locator("#chart-bits .area.kernel").first().getAttribute("d");
    await until("the chart moves", async () => await page.locator("#chart-bits .area.kernel").first().getAttribute("d") !== before);
    assert.match(await page.locator("#connection-text").textContent(), /Live/);
    await page.locator("#chart-bits .plot").focus();
    await page.keyboard.press("ArrowLeft");
    assert.match(await page.locator("#chart-bits .legend .when").textContent(), /ago/);
    assert.ok(await page.locator("#drops .meter").count() > 0);
    assert.ok(await page.locator("#talkers .meter").count() > 0);
  });

  test("a limit is set, is followed by the rate, and can be taken away", async (t) => {
    const { relay, page } = await loggedIn(t);
    await firstRow(page).locator("button").click();
    const id = await page.locator("#detail-id").textContent();
    await page.locator("#limit-button").click();
    const field = page.getByLabel("Mbit/s", { exact: true });
    await field.fill("-1");
    await page.getByRole("button", { name: "Set the limit" }).click();
    await page.getByText("A number of Mbit/s, please").waitFor();
    await field.fill("0.2");
    await page.getByRole("button", { name: "Set the limit" }).click();
    await page.getByText("Limited to 200 kbit/s").waitFor();
    assert.equal((await api(relay.url, `/v1/allocations/${id}`)).max_bits_per_sec, 200_000);
    await page.locator('[data-spark="limit"]').waitFor();
    await page.locator("#limit-button").click();
    await field.fill("0");
    await page.getByRole("button", { name: "Set the limit" }).click();
    await page.getByText("The limit is gone.").waitFor();
    assert.equal((await api(relay.url, `/v1/allocations/${id}`)).max_bits_per_sec, 0);
  });

  test("a disconnect is asked for twice, and an ended allocation says so", async (t) => {
    const { relay, page } = await loggedIn(t);
    const id = async () => await page.locator("#detail-id").textContent();
    await firstRow(page).locator("button").click();
    const first = await id();
    await page.getByRole("button", { name: "Disconnect" }).click();
    await page.getByRole("button", { name: "Cancel" }).click();
    assert.ok(await api(relay.url, `/v1/allocations/${first}`), "cancelled: it lives");
    await page.getByRole("button", { name: "Disconnect" }).click();
    await page.locator("#confirm-ok").click();
    await page.getByText("Disconnected.").waitFor();
    await assert.rejects(api(relay.url, `/v1/allocations/${first}`), /404/);

    await page.mouse.move(0, 0);
    await page.locator(`#rows tr[data-id="${first}"]`).waitFor({ state: "detached" });
    await firstRow(page).locator("button").click();
    await page.locator("#detail-body .facts").waitFor();
    await api(relay.url, `/v1/allocations/${await id()}`, { method: "DELETE" });
    await page.getByText("This allocation has ended.").waitFor();
    assert.equal(await page.locator("#disconnect-button").isDisabled(), true);
  });

  test("a drain is shown, told to readiness, and ended", async (t) => {
    const { relay, page } = await loggedIn(t);
    await page.getByRole("button", { name: "Drain" }).click();
    await page.getByLabel("Deadline, minutes").fill("90");
    await page.locator("#confirm-ok").click();
    await page.locator("#drain-text", { hasText: "Draining" }).waitFor();
    assert.equal(await page.locator("#readiness").textContent(), "Draining");
    const { draining, deadline_unix_secs: deadline } = await api(relay.url, "/v1/drain");
    assert.ok(draining && deadline > Date.now() / 1000 + 5300);
    assert.equal((await fetch(`${relay.url}/readyz`)).status, 503);
    await page.getByRole("button", { name: "Take new allocations again" }).click();
    await page.locator("#confirm-ok").click();
    await until("it is ready again", async () => await page.locator("#readiness").textContent() === "Ready");
    assert.equal((await fetch(`${relay.url}/readyz`)).status, 200);
  });

  test("a relay that has stopped looks it, and is found again", async (t) => {
    const { relay, page } = await loggedIn(t);
    const stale = () => page.evaluate(() => document.querySelector("#app").classList.contains("stale"));
    const colors = () => page.evaluate(() => ["#tile-to-peer", ".tile .sub"].map((part) => getComputedStyle(document.querySelector(part)).color));
    const isGrey = async () => { const [value, sub] = await colors(); return value === sub; };
    await until("live", async () => await page.locator("#connection-text").textContent() === "Live");
    await until("a rate", async () => /bit\/s/.test(await page.locator("#tile-to-peer").textContent()));
    assert.equal(await stale(), false);
    await page.evaluate(watchForContradictions);

    // It hangs: connections are taken, and nothing is answered.
    relay.program.child.kill("SIGSTOP");
    await page.locator("#silence", { hasText: /Not answering since \d\d:\d\d:\d\d/ }).waitFor();
    assert.equal(await stale(), true);
    assert.equal(await isGrey(), true, "no value passes for a live one");
    assert.equal(await page.locator("#connection-text").textContent(), "Not answering");
    assert.match(await page.locator("#chart-bits .when").textContent(), /^at \d\d:/);
    await page.setViewportSize({ width: 390, height: 844 });
    await until("no label lies on another one", async () => (await page.evaluate(overlaps)).length === 0);
    assert.equal(await page.locator("#readiness").isVisible(), false);
    assert.equal(await page.title(), "Not answering \u00b7 Turnpike");
    relay.program.child.kill("SIGCONT");
    await page.locator("#silence").waitFor({ state: "hidden" });
    assert.equal(await isGrey(), false);

    // It is gone, and another one comes.
    await relay.program.stop();
    await page.locator("#silence").waitFor();
    await until("offline", async () => await page.locator("#connection-text").textContent() === "Not answering");
    await startFake(t, { port: new URL(relay.url).port });
    await until("live again", async () => await page.locator("#connection-text").textContent() === "Live");
    await page.locator("#silence").waitFor({ state: "hidden" });
    await until("its title, too", async () => /^\d+ · Turnpike$/.test(await page.title()));
    assert.deepEqual(await page.evaluate(() => window.contradictions), []);
  });

  test("the charts begin with what the relay remembers", async (t) => {
    const { relay, page } = await opened(t);
    await until("there is history", async () => (await api(relay.url, "/v1/history")).samples.length >= 3);
    await page.route("**/v1/events", (route) => route.abort());
    await page.route("**/v1/totals", (route) => route.abort());
    await logIn(page);
    const path = async () => await page.locator("#chart-bits .area.kernel").first().getAttribute("d");
    await until("a shape", async () => (await path())?.length > 40);
    await page.locator("#chart-bits .plot").focus();
    await page.keyboard.press("ArrowLeft");
    assert.match(await page.locator("#chart-bits .legend .when").textContent(), /^\d+ s ago$/);
  });

  test("why calls fail: code, reason, user, client, age, number and remedy", async (t) => {
    const { relay, page } = await loggedIn(t);
    const row = page.locator("#refusal-rows tr", { hasText: "peer denied" });
    await row.waitFor();
    const { refusals } = await api(relay.url, "/v1/refusals");
    const denied = refusals.find(({ reason }) => reason === "peer-denied");
    const text = await row.textContent();
    for (const part of ["403", "create permission", denied.client, denied.peer, denied.remedy, " ago"]) {
      assert.ok(text.includes(part), `${part} in ${text}`);
    }
    assert.ok(await page.locator("#refusal-rows tr", { hasText: "expired 3600 s ago" }).isVisible());
    assert.match(await page.locator("#refusal-reasons .chip", { hasText: "expired credential" }).textContent(), /^401 .* \d+$/);
    const names = await page.locator("#refusal-rows td.user").allTextContents();
    assert.ok(names.some((name) => name.includes("<img src=x")), "a hostile name is text");
    assert.equal(await page.locator("#refusal-rows img").count(), 0);
    await page.getByRole("button", { name: "Show 2 more" }).click();
    assert.equal(await page.locator("#refusal-rows tr").count(), refusals.length);
    assert.deepEqual(await faultsOf(page), []);
  });

  test("only what this host lost is red", async (t) => {
    const { page } = await opened(t);
    const totals = (overflow) => ({
      as_of_unix_millis: Date.now(), workers: [], ports: [], total_quota: 0,
      sum: { to_peer: zero(), to_client: zero(), allocations: 0, allocations_offloaded: 0, allocations_created: 0, verdicts: { drop_not_turn: 50, drop_rate_to_peer: 9, drop_socket_overflow: overflow }, streams: { closed: {}, fallback: {} } },
      offload: { verdicts: {} },
    });
    const zero = () => ({ kernel: { packets: 0, bytes: 0 }, userspace: { packets: 0, bytes: 0 } });
    let overflow = 0;
    await page.route("**/v1/history", (route) => route.fulfill({ json: { period_secs: 5, samples: [] } }));
    await page.route("**/v1/events", (route) => route.abort());
    await page.route("**/v1/totals", (route) => route.fulfill({ json: totals(overflow) }));
    await logIn(page);
    await page.locator("#tile-drops-sub", { hasText: "none a fault" }).waitFor();
    await page.locator("#drops .meter", { hasText: "not turn sender" }).waitFor();
    await page.locator("#drops .meter", { hasText: "rate to peer policy" }).waitFor();
    assert.equal(await page.locator("#drops .track .bad").count(), 0);
    overflow = 3;
    await page.locator("#tile-drops-sub.bad-text", { hasText: "3 faults of this host" }).waitFor();
    assert.match(await page.locator("#drops .meter").first().textContent(), /^socket overflow relay/, "faults come first");
    assert.equal(await page.locator("#drops .track .bad").count(), 1);
  });

  test("connections that are passed to a website are shown, where there is one", async (t) => {
    const { relay, page } = await loggedIn(t);
    const section = page.locator("#fallback");
    await section.waitFor();
    await page.locator("#fallback-accepted", { hasText: "1,200" }).waitFor();
    for (const text of ["3", "to 127.0.0.1:8443", "450 kB to it, 38.0 MB back", "7", "5 unreachable, 2 cap"]) {
      assert.ok((await section.textContent()).includes(text), `${text} in ${await section.textContent()}`);
    }
    assert.equal(await page.locator("#fallback-refused-sub.bad-text").count(), 1, "a website that is not there is a fault");
    const { tls_fallback: address, ...without } = await api(relay.url, "/v1/status");
    assert.ok(address);
    await page.route("**/v1/status", (route) => route.fulfill({ json: without }));
    await section.waitFor({ state: "hidden" });
    assert.deepEqual(await faultsOf(page), []);
  });

  test("talkers are users, each once, and lead to their allocations", async (t) => {
    const { page } = await loggedIn(t, { fake: { allocations: 24 } });
    const carol = page.locator("#talkers .meter", { hasText: "carol" });
    await carol.waitFor();
    assert.equal(await carol.count(), 1);
    assert.match(await carol.textContent(), /\d allocations/);
    await carol.locator("button").click();
    await until("only hers", async () => {
      const names = await page.locator("#rows td.user").allTextContents();
      return names.length > 1 && names.every((name) => name === "carol");
    });
  });

  test("a token sees only the buttons that it may press", async (t) => {
    const { page } = await opened(t);
    await logIn(page, METRICS_TOKEN);
    await page.locator("#login-error", { hasText: "opens only metrics" }).waitFor();
    await logIn(page, READ_TOKEN);
    await firstRow(page).waitFor();
    assert.equal(await page.locator("#read-only").isVisible(), true);
    assert.equal(await page.locator("#drain-button").isVisible(), false);
    await firstRow(page).locator("button").click();
    await page.locator("#detail-body .facts").waitFor();
    assert.equal(await page.locator("#limit-button").isVisible() || await page.locator("#disconnect-button").isVisible(), false);
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: "Users" }).click();
    await page.locator("#user-rows", { hasText: "from-the-file" }).waitFor();
    assert.equal(await page.locator("#add-user").isVisible(), false);
    assert.equal(await page.locator("#credential-form").isVisible(), false);
    assert.equal(await page.locator("#user-rows button:visible").count(), 0);
    await page.getByRole("link", { name: "Configuration" }).click();
    await page.locator("#option-rows", { hasText: "realm" }).waitFor();
    assert.equal(await page.locator("#reload-button").isVisible(), false);

    await page.getByRole("button", { name: "Log out" }).click();
    await logIn(page);
    await page.locator("#reload-button").waitFor();
    assert.equal(await page.locator("#read-only").isVisible(), false);
  });

  test("a user is added, changed and deleted; those of the configuration are not", async (t) => {
    const { relay, page } = await loggedIn(t);
    await page.getByRole("link", { name: "Users" }).click();
    const row = (name) => page.locator("#user-rows tr", { hasText: name });
    await row("from-the-file").waitFor();
    assert.equal(await row("from-the-file").getByRole("button").count(), 1, "it can be disconnected only");
    const name = "<b>/né?#%";
    await page.getByRole("button", { name: "Add a user" }).click();
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.locator("#confirm-ok").click();
    await page.getByText("A new user needs a password.").waitFor();
    await page.getByLabel("Password").fill("a-password-of-the-tests");
    await page.getByLabel("Allocations at once").fill("3");
    await page.getByLabel("Mbit/s", { exact: true }).fill("1.5");
    await page.locator("#confirm-ok").click();
    await row(name).waitFor();
    const stored = async () => await api(relay.url, `/v1/users/${encodeURIComponent(name)}`);
    assert.deepEqual([(await stored()).quota, (await stored()).max_bits_per_sec], [3, 1_500_000]);

    await page.getByRole("button", { name: "Add a user" }).click();
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByLabel("Password").fill("another");
    await page.locator("#confirm-ok").click();
    await page.getByText("There is a user of that name already.").waitFor();
    await page.getByRole("button", { name: "Cancel" }).click();

    await row(name).getByRole("button", { name: "Change" }).click();
    assert.equal(await page.getByLabel("Allocations at once").inputValue(), "3");
    await page.getByLabel("Allocations at once").fill("");
    await page.getByLabel("Password").fill("a-new-password");
    await page.locator("#confirm-ok").click();
    await until("the quota is the default again", async () => (await stored()).quota === undefined);
    assert.equal((await stored()).max_bits_per_sec, 1_500_000, "what was not touched stays");

    await page.locator("#confirm").waitFor({ state: "hidden" });
    await row(name).getByRole("button", { name: "Delete" }).click();
    await page.locator("#confirm-ok").click();
    await row(name).waitFor({ state: "detached" });
    await assert.rejects(stored(), /404/);
    assert.deepEqual(await faultsOf(page), []);
  });

  test("credentials are made, shown and copied", async (t) => {
    const { page } = await loggedIn(t, { options: { permissions: ["clipboard-read", "clipboard-write"] } });
    await page.getByRole("link", { name: "Users" }).click();
    await page.locator("#credential-user").fill("a:b");
    await page.getByRole("button", { name: "Make credentials" }).click();
    await page.locator("#credential-error", { hasText: "neither a colon" }).waitFor();
    await page.locator("#credential-user").fill("carol");
    await page.locator("#credential-ttl").selectOption("600");
    await page.getByRole("button", { name: "Make credentials" }).click();
    const name = await page.getByLabel("User name", { exact: true }).inputValue();
    const [expiry, user] = name.split(":");
    assert.equal(user, "carol");
    assert.ok(Math.abs(Number(expiry) - Date.now() / 1000 - 600) < 30);
    await page.getByRole("button", { name: "Copy Entry of iceServers" }).click();
    await page.getByText("Copied.").waitFor();
    const entry = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
    assert.deepEqual([entry.username, entry.urls], [name, ["turn:192.0.2.10:3478?transport=udp"]]);
    assert.ok(entry.credential.length > 0);
    await page.getByRole("button", { name: "Log out" }).click();
    assert.equal(await page.locator("#credentials").textContent(), "", "nothing secret stays in the page");
  });

  test("events appear as they happen, and can be held", async (t) => {
    const { relay, page } = await loggedIn(t);
    await page.getByRole("link", { name: "Events" }).click();
    const events = page.locator("#event-rows .event");
    await events.first().waitFor();
    const [{ id, client }] = (await api(relay.url, "/v1/allocations?limit=1")).allocations;
    await api(relay.url, `/v1/allocations/${id}`, { method: "DELETE" });
    await page.locator("#event-rows .event", { hasText: client }).filter({ hasText: "disconnected after" }).waitFor();
    await page.getByLabel("Kind of event").selectOption("created");
    await until("only of that kind", async () => (await events.locator(".badge").allTextContents()).every((kind) => kind === "created"));
    await page.getByLabel("Hold still").check();
    const before = await page.locator("#event-rows").textContent();
    await page.locator("#events-held", { hasText: "waiting" }).waitFor();
    assert.equal(await page.locator("#event-rows").textContent(), before);
    await page.getByLabel("Hold still").uncheck();
    await until("what waited is shown", async () => await page.locator("#event-rows").textContent() !== before);
  });

  test("the configuration is shown without its secrets, and can be reloaded", async (t) => {
    const { page } = await loggedIn(t);
    await page.getByRole("link", { name: "Configuration" }).click();
    const secret = page.locator("#option-rows tr", { hasText: "auth-secret" });
    await secret.waitFor();
    assert.match(await secret.textContent(), /1 secret, not shown.*on reload/);
    assert.equal(await page.getByText("hunter2").count(), 0);
    await page.getByRole("searchbox", { name: "Search options" }).fill("example.org");
    await secret.waitFor({ state: "detached" });
    assert.match(await page.locator("#option-rows").textContent(), /realm/);
    await page.getByRole("button", { name: "Reload" }).click();
    await page.locator("#confirm-ok").click();
    await page.getByText("Applied: auth-secret.").waitFor();
    await page.reload();
    await page.locator("#option-rows tr").first().waitFor();
    assert.equal(await page.locator("#view-configuration").isVisible(), true, "the address remembers the view");
  });

  test("without a stream of events the page polls", async (t) => {
    const { page } = await opened(t);
    await page.route("**/v1/events", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: '{"status":503,"title":"Service Unavailable","code":"too_many_streams","detail":"there are 32 streams already"}' }));
    await logIn(page);
    await until("polling", async () => await page.locator("#connection-text").textContent() === "Polling");
    await until("a rate all the same", async () => /bit\/s/.test(await page.locator("#tile-to-peer").textContent()));
  });

  test("errors of the relay are shown, and a token that is withdrawn ends the session", async (t) => {
    const { page } = await loggedIn(t);
    await page.route("**/v1/allocations?*", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: '{"status":503,"title":"Service Unavailable","code":"busy","detail":"worker 1 did not answer <b>in time</b>"}' }));
    await page.locator("#problem", { hasText: "worker 1 did not answer <b>in time</b>" }).waitFor();
    await page.unroute("**/v1/allocations?*");
    await page.locator("#problem").waitFor({ state: "hidden" });
    await page.route("**/v1/**", (route) => route.fulfill({ status: 401, contentType: "application/problem+json", body: "{}" }));
    await page.getByText("The token is no longer accepted.").waitFor();
    assert.deepEqual(await faultsOf(page), []);
  });

  test("an empty relay says what will be here", async (t) => {
    const { page } = await opened(t, { fake: { allocations: 0 } });
    await page.route("**/v1/allocations?*", (route) => route.fulfill({ json: { as_of_unix_millis: Date.now(), total: 0, matching: 0, offset: 0, allocations: [] } }));
    await page.route("**/v1/talkers?*", (route) => route.fulfill({ json: { as_of_unix_millis: Date.now(), total: 0, talkers: [] } }));
    await logIn(page);
    await page.getByText("No allocations yet.").waitFor();
    await page.getByText("Nobody is sending at the moment.").waitFor();
  });

  test("on a phone, in the dark, by keyboard", async (t) => {
    const { page } = await loggedIn(t, { options: { viewport: { width: 390, height: 844 }, colorScheme: "dark", hasTouch: true } });
    const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    assert.equal(await background(), "rgb(13, 17, 23)");
    await page.getByRole("button", { name: "Theme: automatic" }).click();
    assert.equal(await background(), "rgb(244, 246, 248)", "light was chosen");
    await page.reload();
    await firstRow(page).waitFor();
    assert.equal(await background(), "rgb(244, 246, 248)", "and is remembered");

    assert.equal(await page.locator("#allocations thead").isVisible(), false);
    assert.equal(await page.locator("#sort-select").isVisible(), true);
    await firstRow(page).locator("button").focus();
    await page.keyboard.press("Enter");
    await page.locator("#detail-body .facts").waitFor();
    const sheet = await page.locator("#detail").boundingBox();
    assert.deepEqual([sheet.x, sheet.width], [0, 390]);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("#detail").isVisible(), false);
    const focused = await page.evaluate(() => document.activeElement.className);
    assert.equal(focused, "link", "the focus is back in the table");
  });
});
