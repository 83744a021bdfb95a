// A real Prometheus scrapes the relay, and the alert rules and the Grafana dashboard name what is there.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { METRICS_TOKEN, Program, TOKEN, api, freePort, startFake, startLoad, startRelay, temporaryFolder, until } from "../../admin/dashboard/tests/support.js";

const path = (name) => new URL(name, import.meta.url).pathname;
const RULES = path("../prometheus/turnpike.rules.yml");
const RULE_TESTS = path("../prometheus/turnpike.rules.test.yml");
const SCRAPE = path("../prometheus/scrape.example.yml");
const GRAFANA = path("../grafana/turnpike.json");
const VERDICTS = path("../../ebpf/abi/src/verdict.rs");

const promtool = (...args) => execFileSync("promtool", args, { encoding: "utf8", stdio: "pipe" });

/** A datagram that is no TURN at all: the relay drops and counts it. */
function stray(server) {
  const [host, port] = server.split(":");
  const socket = createSocket("udp4");
  socket.send("GET / HTTP/1.0", Number(port), host, () => socket.close());
}

/** Every metric that a text names, without the suffixes of histograms. */
function metricsIn(text) {
  const names = text.match(/\b(turnpike|process)_[a-z0-9_]+/g) ?? [];
  return new Set(names.map((name) => name.replace(/_(bucket|sum|count)$/, "")));
}

test("promtool accepts the rules and the example, and each alert does what its test says", () => {
  promtool("check", "rules", RULES);
  promtool("check", "config", SCRAPE);
  assert.match(promtool("test", "rules", RULE_TESTS), /SUCCESS/);
});

test("each alert has a test, a summary and a paragraph in the documentation", () => {
  const rules = readFileSync(RULES, "utf8");
  const tests = readFileSync(RULE_TESTS, "utf8");
  const operations = readFileSync(path("../../docs/operations.md"), "utf8");
  const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  assert.ok(alerts.length > 15);
  assert.equal(rules.match(/summary:/g).length, alerts.length);
  assert.deepEqual(alerts.filter((name) => !tests.includes(name)), [], "alerts without a test");
  assert.deepEqual(alerts.filter((name) => !operations.includes(name)), [], "alerts without advice");
});

test("the reasons of drops in rules and dashboard exist", () => {
  const known = new Set(readFileSync(VERDICTS, "utf8").match(/drop_[a-z_]+/g));
  for (const file of [RULES, GRAFANA]) {
    for (const reason of readFileSync(file, "utf8").match(/drop_[a-z_]+/g)) assert.ok(known.has(reason), `${reason} in ${file}`);
  }
});

test("the Grafana dashboard says why calls fail, and how many", () => {
  const { panels } = JSON.parse(readFileSync(GRAFANA, "utf8"));
  const queries = panels.flatMap((panel) => panel.targets ?? []).map((target) => target.expr);
  assert.ok(queries.some((query) => /by \(method, code, reason\).*turnpike_refusals_total/.test(query)));
});

test("the Grafana dashboard is whole: unique ids, queries in each panel, one data source", () => {
  const dashboard = JSON.parse(readFileSync(GRAFANA, "utf8"));
  const panels = dashboard.panels.filter((panel) => panel.type !== "row");
  assert.equal(new Set(dashboard.panels.map((panel) => panel.id)).size, dashboard.panels.length);
  for (const panel of panels) {
    assert.ok(panel.description && panel.targets.length > 0, panel.title);
    for (const target of panel.targets) assert.equal(target.datasource.uid, "${datasource}", panel.title);
  }
});

test("a Prometheus scrapes, and understands each query of rules and dashboard", async (t) => {
  const relay = await startFake(t);
  const folder = temporaryFolder(t);
  const port = await freePort();
  const config = readFileSync(SCRAPE, "utf8")
    .replace("scrape_interval: 15s", "scrape_interval: 1s")
    .replace("credentials_file: turnpike-token", `credentials_file: ${join(folder, "token")}`)
    .replace("192.0.2.10:8080", new URL(relay.url).host)
    .replace("- turnpike.rules.yml", `- ${RULES}`);
  writeFileSync(join(folder, "token"), TOKEN, { mode: 0o600 });
  writeFileSync(join(folder, "prometheus.yml"), config);
  const prometheus = new Program(t, "prometheus", [
    `--config.file=${join(folder, "prometheus.yml")}`, `--storage.tsdb.path=${join(folder, "data")}`,
    `--web.listen-address=127.0.0.1:${port}`, "--log.level=warn",
  ]);
  const query = async (expression) => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/query?${new URLSearchParams({ query: expression })}`);
    const answer = await response.json();
    if (answer.status !== "success") throw new Error(`${expression}: ${answer.error}`);
    return answer.data.result;
  };
  await until("the relay is scraped", async () => (await query('up{job="turnpike"} == 1')).length === 1);
  await until("a rate is known", async () => (await query("sum(rate(turnpike_relayed_bytes_total[10s])) > 0")).length === 1);

  const instance = new URL(relay.url).host;
  for (const panel of JSON.parse(readFileSync(GRAFANA, "utf8")).panels) {
    for (const { expr } of panel.targets ?? []) {
      await query(expr.replaceAll("$instance", instance).replaceAll("$__rate_interval", "10s"));
    }
  }
  assert.equal((await query('ALERTS{alertname="TurnpikeDown"}')).length, 0);
  await prometheus.stop();
});

test("the real relay's scrape has each metric that rules and dashboard name, but those that need a failure, a certificate or the kernel data path first", async (t) => {
  const users = { alice: "a-password-of-the-tests" };
  const relay = await startRelay(t, { users });
  await startLoad(t, relay.server, { user: "alice", password: users.alice, clients: 1, seconds: 1 }).ended;
  await startLoad(t, relay.server, { user: "alice", password: "not-alices-password", clients: 1 }).ended;
  stray(relay.server);
  // Counters follow within a second.
  const page = await until("the end is counted", async () => {
    const text = await api(relay.url, "/metrics", { token: METRICS_TOKEN });
    return ["turnpike_allocations_ended_total", "turnpike_drops_total", "turnpike_refusals_total"].every((name) => text.includes(name)) && text;
  });
  await assert.rejects(api(relay.url, "/v1/status", { token: METRICS_TOKEN }), /403/);
  const failures = ["turnpike_allocations_limit", "turnpike_refusals_total", "turnpike_certificate_expires_seconds", "turnpike_certificate_fault"];
  const kernel = ["turnpike_offload_heartbeat_age_seconds", "turnpike_offload_interface_forwards", "turnpike_offload_interface_lost_total"];
  for (const file of [RULES, GRAFANA]) {
    const missing = [...metricsIn(readFileSync(file, "utf8"))].filter((name) => !metricsIn(page).has(name) && ![...failures, ...kernel].includes(name));
    assert.deepEqual(missing, [], file);
  }
});

test("each metric that rules and dashboard name is in a scrape", async (t) => {
  const relay = await startFake(t);
  const { allocations: [{ id }] } = await api(relay.url, "/v1/allocations?limit=1");
  await api(relay.url, `/v1/allocations/${id}`, { method: "DELETE" });
  const scraped = metricsIn(await api(relay.url, "/metrics"));
  for (const file of [RULES, GRAFANA]) {
    const missing = [...metricsIn(readFileSync(file, "utf8"))].filter((name) => !scraped.has(name));
    assert.deepEqual(missing, [], file);
  }
});
