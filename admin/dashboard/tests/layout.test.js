// What must hold at every size, with any fonts, in both themes, for every reader.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { FONTS } from "./fonts.js";
import { TOKEN, barriersOf, logIn, openPage, sleep, startFake, until } from "./support.js";

const WIDTHS = [1440, 1280, 1000, 390, 320];
const VIEWS = ["Overview", "Users", "Events", "Configuration"];
const LONG = "a-name-without-an-end".repeat(20);

async function loggedIn(t, options) {
  const relay = await startFake(t, { allocations: 24 });
  await fetch(`${relay.url}/v1/users/${LONG}`, {
    method: "PUT", body: '{"password": "a-password-of-the-tests"}',
    headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
  });
  const page = await openPage(t, relay.url, options);
  await logIn(page);
  await page.locator("#rows tr").first().waitFor();
  await page.locator("#refusal-rows tr").first().waitFor();
  return page;
}

/** Opens a view and waits for what is in it. */
async function open(page, view) {
  await page.getByRole("link", { name: view }).click();
  await page.locator({ Overview: "#rows tr", Users: "#user-rows tr", Events: "#event-rows .event", Configuration: "#option-rows tr" }[view]).first().waitFor();
}

/** Runs in the page: what is wider than the room that it has. */
function overflows() {
  const found = [];
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) found.push(`the page by ${scrollWidth - clientWidth} px`);
  // Lists cut long names, and tables scroll: on purpose.
  for (const node of document.querySelectorAll(".tile, .tile *, .legend, .legend *, .bar, .bar *, .panel h2, .button, .chip, .cards td, .event, dialog[open], dialog[open] .facts, .sheet-body, .sheet-body > *")) {
    if (!node.checkVisibility() || node.closest("svg, .brand, .hidden, .skip")) continue;
    if (getComputedStyle(node).display === "inline") continue;
    if (node.scrollWidth > node.clientWidth + 1) found.push(`${node.tagName} ${node.id || node.className} by ${node.scrollWidth - node.clientWidth} px: ${node.textContent.slice(0, 40)}`);
  }
  return found;
}

describe("the page", { concurrency: 2 }, () => {
  for (const fonts of FONTS) {
    test(`fits at every width with the fonts of ${fonts}`, async (t) => {
      const page = await loggedIn(t, { fonts });
      for (const view of VIEWS) {
        await page.setViewportSize({ width: WIDTHS[0], height: 844 });
        await open(page, view);
        for (const width of WIDTHS) {
          await page.setViewportSize({ width, height: 844 });
          await sleep(100);
          await until(`${view} fits at ${width} px`, async () => {
            assert.deepEqual(await page.evaluate(overflows), []);
            return true;
          });
        }
      }
      await open(page, "Overview");
      await page.locator("#rows button", { hasText: "without-an-end" }).first().click();
      await page.locator("#detail-body .facts").waitFor();
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 844 });
        assert.deepEqual(await page.evaluate(overflows), [], `a detail at ${width} px`);
      }
    });
  }

  for (const colorScheme of ["light", "dark"]) {
    test(`no view has a barrier, in the ${colorScheme}`, async (t) => {
      const page = await loggedIn(t, { colorScheme });
      for (const view of VIEWS) {
        await open(page, view);
        assert.deepEqual(await barriersOf(page), [], view);
      }
      await open(page, "Users");
      await page.getByRole("button", { name: "Add a user" }).click();
      assert.deepEqual(await barriersOf(page), [], "a dialog");
      await page.keyboard.press("Escape");
      await open(page, "Overview");
      await page.locator("#rows button").first().click();
      await page.locator("#detail-body .facts").waitFor();
      assert.deepEqual(await barriersOf(page), [], "a detail");
      await page.keyboard.press("Escape");
      await page.setViewportSize({ width: 390, height: 844 });
      assert.deepEqual(await barriersOf(page), [], "on a phone");
      await page.getByRole("button", { name: "Log out" }).click();
      assert.deepEqual(await barriersOf(page), [], "the log-in");
    });
  }

  test("everything is reached by keyboard", async (t) => {
    const page = await loggedIn(t, {});
    await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
    const reached = new Set();
    for (let presses = 0; presses < 40 && !reached.has("search"); presses += 1) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute("href") || document.activeElement.className));
    }
    for (const control of ["#content", "drain-button", "theme-button", "logout-button", "#overview", "#users", "#events", "#configuration", "plot", "link name", "search"]) {
      const found = [...reached].some((name) => name.split(" ").includes(control) || name === control);
      assert.ok(found, `${control} in ${[...reached].join(", ")}`);
    }
  });
});
