// What the tests start and end: relays, loads, browsers. Everything listens on loopback only.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

import { environmentWith } from "./fonts.js";

const TARGET = process.env.TARGET ?? new URL("../../../target", import.meta.url).pathname;
/** How long what has to come may take: many times what a busy machine needs. */
const PATIENCE_MS = 60_000;

export const TOKEN = "a-token-of-the-tests-0123456789";
/** May look, but not touch. */
export const READ_TOKEN = "a-token-of-a-reader-0123456789";
/** May scrape, and nothing else. */
export const METRICS_TOKEN = "a-token-for-scrapes-0123456789";
export const PROGRAMS = {
  fake: join(TARGET, "debug/examples/fake"),
  relay: process.env.TURNPIKE_BIN ?? join(TARGET, "release/turnpike"),
  loadtest: join(TARGET, "debug/turnpike-loadtest"),
};

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until `check` gives something, and fails with the last reason when it takes too long. */
export async function until(what, check) {
  const end = Date.now() + PATIENCE_MS;
  let reason = "";
  while (Date.now() < end) {
    try {
      const value = await check();
      if (value) return value;
    } catch (error) {
      reason = `: ${error.message}`;
    }
    await sleep(50);
  }
  throw new Error(`${what} did not happen${reason}`);
}

/** Ports that tests have. */
const given = new Set();

/** A port that nobody uses, below those that others get by themselves. */
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    if (!given.has(port) && await isFree(port)) {
      given.add(port);
      return port;
    }
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A folder that is removed with the test. */
export function temporaryFolder(test) {
  const folder = mkdtempSync(join(tmpdir(), "turnpike-test-"));
  test.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}

/** A child process that ends with the test. */
export class Program {
  constructor(test, path, args, options = {}) {
    this.output = "";
    this.child = spawn(path, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => { this.output = (this.output + text).slice(-20_000); });
    }
    this.ended = new Promise((resolve) => {
      this.child.once("error", (error) => { this.output += error.message; resolve(-1); });
      this.child.once("exit", (code, signal) => resolve(code ?? signal));
    });
    test.after(() => this.stop());
  }

  async stop(signal = "SIGTERM") {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill(signal);
    const impatience = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE_MS);
    await this.ended;
    // A timer that is left keeps the whole file of tests from ending.
    clearTimeout(impatience);
  }
}

async function answering(program, url) {
  await until(`${url}/healthz answers`, async () => {
    if (program.child.exitCode !== null) throw new Error(`it has ended: ${program.output}`);
    return (await fetch(`${url}/healthz`)).ok;
  });
}

const TOKENS = `${TOKEN},read:${READ_TOKEN},metrics:${METRICS_TOKEN}`;

/** A relay that exists in memory only. */
export async function startFake(test, { allocations = 42, port = null } = {}) {
  const url = `http://127.0.0.1:${port ?? await freePort()}`;
  const program = new Program(test, PROGRAMS.fake, [url.slice("http://".length), TOKENS, String(allocations)]);
  await answering(program, url);
  return { url, program };
}

/** The real relay on loopback, with these users (name to password). */
export async function startRelay(test, { users, options = {} }) {
  const folder = temporaryFolder(test);
  const [turn, admin] = [await freePort(), await freePort()];
  const settings = {
    listen: [`127.0.0.1:${turn}`],
    "relay-address": ["127.0.0.1"],
    "port-range": "50000-59999",
    "allow-loopback-peers": true,
    workers: 1,
    offload: "off",
    admin: `127.0.0.1:${admin}`,
    ...options,
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  writeFileSync(join(folder, "tokens"), `admin:${TOKEN}\nmetrics:${METRICS_TOKEN}\n`, { mode: 0o600 });
  lines.push(`admin-token-file = ${JSON.stringify([join(folder, "tokens")])}`);
  lines.push("[user]", ...Object.entries(users).map(([name, password]) => `${JSON.stringify(name)} = ${JSON.stringify(password)}`));
  const file = join(folder, "turnpike.toml");
  writeFileSync(file, `${lines.join("\n")}\n`, { mode: 0o600 });
  const program = new Program(test, PROGRAMS.relay, ["run", "--config", file]);
  const url = `http://127.0.0.1:${admin}`;
  await answering(program, url);
  return { url, program, server: `127.0.0.1:${turn}` };
}

/** Clients with an own echoing peer: a fixed rate for each, for as long as the test takes, and five minutes at most. */
export function startLoad(test, server, { user, password, clients = 4, packetsPerSec = 50, bytes = 500, seconds = 300 }) {
  const args = ["loss", server, "-u", user, "-c", clients, "-r", packetsPerSec, "-l", bytes, "-d", Math.min(300, seconds), "--threads", 1];
  const environment = { ...process.env, TURNPIKE_LOADTEST_PASSWORD: password };
  return new Program(test, PROGRAMS.loadtest, args.map(String), { env: environment });
}

/** The API, for the test's own eyes. */
export async function api(url, path, { method = "GET", token = TOKEN } = {}) {
  const response = await fetch(`${url}${path}`, { method, headers: { authorization: `Bearer ${token}` } });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.headers.get("content-type")?.startsWith("application/json") ? response.json() : response.text();
}

const MODULES = process.env.MODULES ?? join(TARGET, "dashboard");
const require = createRequire(join(MODULES, "tests.js"));

/** A browser for each set of fonts, one for all tests of a file. */
const browsers = new Map();

/** Debian's chromium, without anything that talks to others. */
function theBrowser(fonts) {
  // The promise, not the browser: tests that start at the same time share it too.
  if (!browsers.has(fonts)) browsers.set(fonts, startBrowser(fonts));
  return browsers.get(fonts);
}

async function startBrowser(fonts) {
  const { chromium } = require("playwright-core");
  return chromium.launch({
    env: fonts ? environmentWith(fonts, MODULES) : process.env,
    executablePath: "/usr/bin/chromium",
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
      // Calls also where there is no network.
      "--allow-loopback-in-peer-connection",
    ],
  });
}

after(async () => { for (const browser of browsers.values()) await (await browser).close(); });

/** A page in a profile of its own that notes what must never happen. */
export async function openPage(test, url, { fonts, ...options } = {}) {
  const context = await (await theBrowser(fonts)).newContext({ viewport: { width: 1440, height: 900 }, locale: "en", ...options });
  test.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => { page.faults.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) page.faults.push(`foreign request: ${request.url()}`);
  });
  page.on("console", (message) => {
    if (/content security policy/i.test(message.text())) page.faults.push(message.text());
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(url);
  return page;
}

export async function logIn(page, token = TOKEN) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

/** No script ran that shouldn't, no policy was violated, nobody else was asked. */
export async function faultsOf(page) {
  return [...page.faults, ...await page.evaluate(() => window.violations)];
}

/** "1.24 Mbit/s" as a number of bits per second. */
export function bitsPerSec(text) {
  const [, number, prefix] = text.match(/([\d.]+)\s*([kMGT]?)bit\/s/) ?? [];
  if (number === undefined) throw new Error(`not a rate: ${text}`);
  return Number(number) * { "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12 }[prefix];
}

/** What axe-core finds against WCAG 2.2 A and AA in what is shown now. */
export async function barriersOf(page) {
  if (!await page.evaluate(() => "axe" in window)) await page.evaluate(require("axe-core").source);
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const { violations } = await page.evaluate((values) => window.axe.run({ runOnly: { type: "tag", values } }), tags);
  return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).join("; ")}`);
}
