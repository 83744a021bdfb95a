// The live feed: server-sent events by fetch (EventSource can't send the token), else polling. It begins with
// what the relay remembers of the last minutes.

import { api, heard, problemOf, send } from "./api.js";
import { $, setText } from "./dom.js";
import { handleFailure, session, sleep } from "./session.js";

export const WINDOW_MS = 900_000;
const SILENCE_MS = 6_000;
const POLL_MS = 2_000;
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000, 15_000];

/** What others do with what comes: totals with the points until then, and each other event. */
const listeners = { totals: [], event: [], points: [] };
export const onFeed = (what, act) => listeners[what].push(act);

export const feed = {
  points: [],
  last: null,
  controller: null,

  reset() {
    this.controller?.abort();
    this.controller = null;
    this.points = [];
    this.last = null;
  },

  async follow() {
    const { generation } = session;
    for (let failures = 0; generation === session.generation; failures += 1) {
      try {
        await this.fill(generation);
        await this.stream(() => { failures = 0; });
      } catch (error) {
        if (generation !== session.generation) return;
        if (error.status === 401) return handleFailure(error);
      }
      if (generation !== session.generation) return;
      await this.pollFor(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], failures);
    }
  },

  /** What happened before this page looked, or while it couldn't. */
  async fill(generation) {
    const { samples } = await api("GET", "/v1/history");
    if (generation !== session.generation || samples.length === 0) return;
    const known = samples.map(fromSample);
    const points = known.slice(1).map((after, index) => pointBetween(known[index], after)).filter(Boolean);
    // What this page has seen is finer: history only fills what is missing.
    const missing = points.filter((point) => !this.points.some((seen) => Math.abs(seen.at - point.at) < 6_000));
    this.points = [...this.points, ...missing].sort((one, other) => one.at - other.at);
    if (!this.last || this.last.at < known.at(-1).at) this.last = known.at(-1);
    listeners.points.forEach((act) => act());
  },

  /** Reads events until the stream ends, or is silent for too long. */
  async stream(onEvent) {
    const controller = new AbortController();
    this.controller = controller;
    let watchdog = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const response = await send("GET", "/v1/events", undefined, controller.signal);
      if (!response.ok) throw await problemOf(response);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let pending = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => controller.abort(), SILENCE_MS);
        const parts = (pending + value).split(/\r?\n\r?\n/);
        pending = parts.pop();
        for (const part of parts) {
          onEvent();
          this.handleEvent(part);
        }
      }
    } finally {
      clearTimeout(watchdog);
      controller.abort();
    }
  },

  handleEvent(text) {
    let name = "message";
    const data = [];
    for (const line of text.split(/\r?\n/)) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
    }
    heard();
    showConnection("live", "Live");
    if (data.length === 0) return;
    const value = JSON.parse(data.join("\n"));
    if (name === "totals") this.handleTotals(value);
    else listeners.event.forEach((act) => act(name, value));
  },

  /** Without a stream: asks for the totals until it is time to try the stream again. */
  async pollFor(ms, failures) {
    const { generation } = session;
    const until = Date.now() + ms;
    if (failures === 0) showConnection("connecting", "Reconnecting");
    do {
      await sleep(Math.min(POLL_MS, Math.max(0, until - Date.now())));
      if (generation !== session.generation || document.hidden) continue;
      try {
        this.handleTotals(await api("GET", "/v1/totals"));
        if (failures > 0) showConnection("polling", "Polling");
      } catch (error) {
        if (generation !== session.generation) return;
        if (error.status === 401) return handleFailure(error);
        showConnection("connecting", "Reconnecting");
      }
    } while (generation === session.generation && Date.now() < until);
  },

  handleTotals(totals) {
    const now = fromTotals(totals);
    const previous = this.last;
    this.last = now;
    session.clockSkewSecs = (now.at - Date.now()) / 1000;
    if (previous && now.at <= previous.at) return;
    const point = previous && pointBetween(previous, now);
    if (point) this.points.push(point);
    while (this.points.length > 0 && this.points[0].at < now.at - WINDOW_MS - 5_000) this.points.shift();
    listeners.points.forEach((act) => act());
    listeners.totals.forEach((act) => act(totals, this.points));
  },
};

/** Counters at one time, from the totals or from history: both are read alike. */
function fromTotals({ as_of_unix_millis: at, sum, offload }) {
  const drops = new Map();
  for (const verdicts of [sum.verdicts, offload.verdicts]) {
    for (const [name, count] of Object.entries(verdicts)) {
      if (name.startsWith("drop_") && count > 0) drops.set(name, (drops.get(name) ?? 0) + count);
    }
  }
  return { at, toPeer: sum.to_peer, toClient: sum.to_client, drops, created: sum.allocations_created };
}

function fromSample(sample) {
  return {
    at: sample.as_of_unix_millis, toPeer: sample.to_peer, toClient: sample.to_client,
    drops: new Map(Object.entries(sample.drops)), created: sample.allocations_created,
  };
}

/** Rates between two readings; a counter that shrank means a restart, and no rate. */
function pointBetween(before, after) {
  const seconds = (after.at - before.at) / 1000;
  if (seconds <= 0) return null;
  const per = (pick, factor = 1) => Math.max(0, (factor * (pick(after) - pick(before))) / seconds);
  const ways = (key, factor) => Object.fromEntries(["toPeer", "toClient"].map((way) => [way, {
    kernel: per((counters) => counters[way].kernel[key], factor),
    userspace: per((counters) => counters[way].userspace[key], factor),
  }]));
  return {
    at: after.at,
    bits: ways("bytes", 8),
    packets: ways("packets", 1),
    drops: after.drops,
    dropsPerSec: per(({ drops }) => sumOf(drops)),
    created: per(({ created }) => created),
  };
}

export const sumOf = (map) => [...map.values()].reduce((sum, value) => sum + value, 0);
export const total = (way) => way.kernel + way.userspace;

let connection = ["connecting", "Connecting"];

/** How the feed comes; whether the relay answers at all, the session alone decides. */
export function showConnection(...shown) {
  connection = shown;
  const [state, text] = session.stale ? ["offline", "Not answering"] : connection;
  $("connection").dataset.state = state;
  setText($("connection-text"), text);
}

export const showSilence = () => showConnection(...connection);
