// The page against a relay that exists in memory only: everything that needs no real packet.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { TOKEN, api, faultsOf, logIn, openPage, sleep, startFake, until } from "./support.js";

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

  test("a long name breaks no layout", async (t) => {
    const { page } = await loggedIn(t, { fake: { allocations: 24 } });
    for (const width of [1440, 1000, 390]) {
      await page.setViewportSize({ width, height: 844 });
      await sleep(100);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(overflow <= 0, `at ${width} px the page is ${overflow} px too wide`);
    }
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
    await page.getByRole("button", { name: "User", exact: true }).click();
    const sorted = page.locator('th[aria-sort="ascending"]');
    await sorted.waitFor();
    assert.equal(await sorted.textContent(), "User");
  });

  test("the numbers move, and both charts have both paths", async (t) => {
    const { page } = await loggedIn(t);
    await until("a rate", async () => /bit\/s/.test(await page.locator("#tile-to-peer").textContent()), 5_000);
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

  test("a lost connection is visible, and found again", async (t) => {
    const { relay, page } = await loggedIn(t);
    await until("live", async () => await page.locator("#connection-text").textContent() === "Live");
    await relay.program.stop();
    await until("offline", async () => await page.locator("#connection-text").textContent() === "No connection");
    await page.locator("#problem", { hasText: "does not answer" }).waitFor();
    await startFake(t, { port: new URL(relay.url).port });
    await until("live again", async () => await page.locator("#connection-text").textContent() === "Live", 15_000);
    await page.locator("#problem").waitFor({ state: "hidden" });
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

  test("every control has a name, and text has contrast", async (t) => {
    for (const colorScheme of ["light", "dark"]) {
      const { page } = await loggedIn(t, { options: { colorScheme } });
      const nameless = await page.evaluate(() => [...document.querySelectorAll("button, input, select")]
        .filter((control) => control.checkVisibility() && !control.textContent.trim() && !control.getAttribute("aria-label") && control.labels?.length === 0)
        .map((control) => control.outerHTML));
      assert.deepEqual(nameless, []);
      const poor = await page.evaluate(poorContrasts);
      assert.deepEqual(poor, [], colorScheme);
    }
  });
});

/** Runs in the page: texts whose colour is too near to what is behind them (WCAG 2.2 s. 1.4.3). */
function poorContrasts() {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => rgb.slice(0, 3)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = new Set();
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!hasText || !node.checkVisibility() || node.closest("svg, :disabled, .hidden, .skip, option")) continue;
    const [a, b] = [luminance(channels(getComputedStyle(node).color)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.add(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return [...found];
}
