// The dashboard. Everything that comes from the relay is shown by textContent: names are hostile until proven
// otherwise. Order of the file: the API, formats, elements, session, live feed, charts, panels, table, detail,
// actions.

const WINDOW_MS = 300_000;
const FIRST_WINDOW_MS = 60_000;
const LIST_MS = 2_000;
const STATUS_MS = 4_000;
const DETAIL_MS = 1_000;
const SILENCE_MS = 6_000;
const REQUEST_MS = 10_000;
const RETRY_MS = [500, 1_000, 2_000, 4_000, 8_000, 15_000];
const TOKEN_KEY = "turnpike.token";
const THEME_KEY = "turnpike.theme";

// ---- The API ----

class ApiError extends Error {
  constructor(status, message, retryAfterSecs) {
    super(message);
    this.status = status;
    this.retryAfterSecs = retryAfterSecs;
  }
}

async function send(method, path, body, signal) {
  const headers = { authorization: `Bearer ${session.token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(path, {
      method, headers, signal, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, navigator.onLine ? "The relay does not answer." : "This computer is offline.");
  }
}

async function api(method, path, body) {
  const response = await send(method, path, body, AbortSignal.timeout(REQUEST_MS));
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

/** RFC 9457 problem details, or what the status code says. */
async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const said = problem.detail || problem.title || response.statusText || "no reason given";
  const retryAfter = Number(response.headers.get("retry-after")) || undefined;
  const message = {
    401: "This token is not accepted.",
    403: `This token does not permit that: ${said}`,
    404: "It is no longer there.",
    429: `Too many attempts.${retryAfter ? ` Try again in ${retryAfter} s.` : " Wait a moment."}`,
  }[response.status] ?? `The relay answered ${response.status}: ${said}`;
  return new ApiError(response.status, message, retryAfter);
}

// ---- Formats ----

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function scaled(value, unit) {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let step = 0;
  while (Math.abs(value) >= 999.5 && step < prefixes.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${prefixes[step]}${unit}`;
}

const bits = (value) => scaled(value, "bit/s");
const bytes = (value) => scaled(value, "B");
const rate = (value) => `${value > 0 && value < 10 ? value.toFixed(1) : whole.format(value)}/s`;
const packetRate = (value) => scaled(value, "/s");
const plural = (count, noun) => `${whole.format(count)} ${noun}${count === 1 ? "" : "s"}`;
const limitText = (value) => (value > 0 ? bits(value) : "\u2013");

const countText = (value) => (value > 0 ? whole.format(value) : "\u2013");

function duration(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s / 3600) % 24} h`;
}

const clockTime = (unixSecs) => new Date(unixSecs * 1000).toLocaleTimeString("en-GB");
const nowSecs = () => Date.now() / 1000 + session.clockSkewSecs;

/** Characters that would vanish, or turn the line around, become visible. */
function visible(text) {
  const hidden = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
  return String(text).replace(hidden, (c) => `\\u{${c.charCodeAt(0).toString(16)}}`);
}

const words = (name) => visible(name.replace(/^(drop|pass)_/, "").replaceAll("_", " "));

// ---- Elements ----

const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A number large, its unit small. */
function setValue(node, text) {
  const [number, unit] = text.split(" ");
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  node.replaceChildren(number, ...(unit ? [el("span", { class: "unit" }, unit)] : []));
}

/** A user's name, isolated from the direction of the text around it. */
const userName = (name) => el("bdi", {}, visible(name) || "(empty)");

function toast(message, bad = false) {
  const node = el("div", { class: bad ? "toast bad" : "toast" }, message);
  $("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 9_000 : 4_500);
  while ($("toasts").children.length > 4) $("toasts").firstChild.remove();
}

// ---- Session ----

const session = { token: null, generation: 0, clockSkewSecs: 0, status: null };

/** Runs `work` again and again until this session ends, pausing while the page is hidden. */
async function repeat(everyMs, work) {
  const { generation } = session;
  while (generation === session.generation) {
    if (!document.hidden) {
      try {
        await work();
        if (generation === session.generation) problemSolved();
      } catch (error) {
        if (generation === session.generation) handleFailure(error);
      }
    }
    await Promise.race([sleep(everyMs), pageShown()]);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function pageShown() {
  return new Promise((resolve) => {
    if (document.hidden) document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

function handleFailure(error) {
  if (error.status === 401) {
    logOut("The token is no longer accepted. Please log in again.");
  } else {
    showProblem(error instanceof ApiError ? error.message : `This page has a fault: ${error.message}`);
  }
}

function showProblem(message) {
  setText($("problem"), `${message} The numbers below are old; trying again.`);
  $("problem").hidden = false;
}

function problemSolved() {
  $("problem").hidden = true;
}

async function logIn(token) {
  session.token = token;
  const status = await api("GET", "/v1/status");
  sessionStorage.setItem(TOKEN_KEY, token);
  session.generation += 1;
  $("login").hidden = true;
  $("app").hidden = false;
  $("token").value = "";
  feed.reset();
  charts.forEach((chart) => chart.update());
  showStatus(status);
  feed.follow();
  repeat(STATUS_MS, async () => showStatus(await api("GET", "/v1/status")));
  repeat(LIST_MS, () => list.refresh({ hold: true }));
  repeat(LIST_MS, refreshTalkers);
}

function logOut(message = "") {
  session.generation += 1;
  session.token = null;
  sessionStorage.removeItem(TOKEN_KEY);
  feed.stop();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  list.clear();
  $("app").hidden = true;
  $("login").hidden = false;
  setText($("login-error"), message);
  $("token").focus();
}

async function submitLogin(event) {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!token) return failLogin("Please enter a token.");
  $("login-button").disabled = true;
  setText($("login-error"), "");
  try {
    await logIn(token);
  } catch (error) {
    session.token = null;
    failLogin(error.message);
  } finally {
    $("login-button").disabled = false;
  }
}

function failLogin(message) {
  setText($("login-error"), message);
  $("token").setAttribute("aria-invalid", "true");
  $("token").focus();
  $("token").select();
}

// ---- Live feed: server-sent events by fetch (EventSource can't send the token), else polling ----

const feed = {
  points: [],
  last: null,
  controller: null,
  reset() {
    this.stop();
    this.points = [];
    this.last = null;
  },
  stop() {
    this.controller?.abort();
    this.controller = null;
  },

  async follow() {
    const { generation } = session;
    for (let failures = 0; generation === session.generation; failures += 1) {
      try {
        await this.stream(() => { failures = 0; });
      } catch (error) {
        if (generation !== session.generation) return;
        if (error.status === 401) return handleFailure(error);
      }
      if (generation !== session.generation) return;
      await this.pollFor(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], failures);
    }
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
    showConnection("live", "Live");
    if (name === "totals") this.handleTotals(JSON.parse(data.join("\n")));
  },

  /** Without a stream: asks for the totals until it is time to try the stream again. */
  async pollFor(ms, failures) {
    const { generation } = session;
    const until = Date.now() + ms;
    if (failures === 0) showConnection("connecting", "Reconnecting");
    do {
      await sleep(Math.min(LIST_MS, Math.max(0, until - Date.now())));
      if (generation !== session.generation || document.hidden) continue;
      try {
        this.handleTotals(await api("GET", "/v1/totals"));
        if (failures > 0) showConnection("polling", "Polling");
      } catch (error) {
        if (generation !== session.generation) return;
        if (error.status === 401) return handleFailure(error);
        showConnection("offline", "No connection");
      }
    } while (generation === session.generation && Date.now() < until);
  },

  handleTotals(totals) {
    const previous = this.last;
    this.last = totals;
    session.clockSkewSecs = totals.as_of_unix_millis / 1000 - Date.now() / 1000;
    const seconds = previous ? (totals.as_of_unix_millis - previous.as_of_unix_millis) / 1000 : 0;
    if (previous && seconds <= 0) return;
    if (previous) this.points.push(pointBetween(previous, totals, seconds));
    const oldest = totals.as_of_unix_millis - WINDOW_MS - 5_000;
    while (this.points.length > 0 && this.points[0].at < oldest) this.points.shift();
    charts.forEach((chart) => chart.update());
    showTiles(totals, this.points.at(-1));
    showDrops(totals, this.points);
  },
};

/** Rates between two readings; a counter that shrank means a restart, and no rate. */
function pointBetween(before, after, seconds) {
  const per = (pick) => Math.max(0, (pick(after) - pick(before)) / seconds);
  const ways = (key) => ({
    toPeer: { kernel: per((t) => t.sum.to_peer.kernel[key]), userspace: per((t) => t.sum.to_peer.userspace[key]) },
    toClient: { kernel: per((t) => t.sum.to_client.kernel[key]), userspace: per((t) => t.sum.to_client.userspace[key]) },
  });
  const inBytes = ways("bytes");
  for (const way of Object.values(inBytes)) {
    way.kernel *= 8;
    way.userspace *= 8;
  }
  const drops = dropsByReason(after);
  return {
    at: after.as_of_unix_millis,
    bits: inBytes,
    packets: ways("packets"),
    drops,
    dropsPerSec: per((t) => sumOf(dropsByReason(t))),
    created: per((t) => t.sum.allocations_created),
  };
}

/** Both planes together, by the name of the reason. */
function dropsByReason(totals) {
  const drops = new Map();
  for (const verdicts of [totals.sum.verdicts, totals.offload.verdicts]) {
    for (const [name, count] of Object.entries(verdicts)) {
      if (name.startsWith("drop_") && count > 0) drops.set(name, (drops.get(name) ?? 0) + count);
    }
  }
  return drops;
}

const sumOf = (map) => [...map.values()].reduce((sum, value) => sum + value, 0);

function showConnection(state, text) {
  if ($("connection").dataset.state === state) return;
  $("connection").dataset.state = state;
  setText($("connection-text"), text);
}

// ---- Charts: two directions mirrored around zero, the two data paths stacked ----

function createChart(figure, title, pick, format) {
  const plot = el("div", { class: "plot", tabindex: "0", role: "img" });
  const spoken = el("span", { class: "hidden", "aria-live": "polite" });
  const picture = svg("svg", { "aria-hidden": "true" });
  plot.append(picture);
  figure.append(plot, spoken);
  const legend = createLegend(figure.querySelector(".legend"));
  let cursor = null;

  function shownPoint() {
    return cursor ?? feed.points.at(-1);
  }

  function update() {
    if (cursor && !feed.points.includes(cursor)) cursor = null;
    const width = plot.clientWidth || 600;
    const height = plot.clientHeight || 200;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawPlot(picture, feed.points, { pick, format, width, height, cursor });
    const point = shownPoint();
    legend(point && pick(point), cursor ? `${duration((feed.points.at(-1).at - cursor.at) / 1000)} ago` : "now", format);
    const value = point && pick(point);
    plot.setAttribute("aria-label", value
      ? `${title}: now ${format(total(value.toPeer))} to peers, ${format(total(value.toClient))} to clients. Arrow keys read earlier values.`
      : `${title}: no values yet`);
  }

  function point(index) {
    cursor = feed.points[index] ?? null;
    update();
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const end = feed.points.at(-1)?.at ?? 0;
    const at = end - windowMs(feed.points) * ((box.right - event.clientX) / (box.width - AXIS_WIDTH));
    point(nearest(feed.points, at));
  });
  for (const name of ["pointerleave", "blur"]) plot.addEventListener(name, () => point(-1));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
    if (step === undefined || feed.points.length === 0) return;
    event.preventDefault();
    const from = cursor ? feed.points.indexOf(cursor) : feed.points.length - 1;
    point(Math.min(feed.points.length - 1, Math.max(0, from + step)));
    const value = pick(shownPoint());
    setText(spoken, `${format(total(value.toPeer))} to peers, ${format(total(value.toClient))} to clients`);
  });
  new ResizeObserver(update).observe(plot);
  return { update };
}

const total = (way) => way.kernel + way.userspace;

/** Grows with what there is to show, from one minute to five. */
function windowMs(points) {
  const span = points.length > 0 ? points.at(-1).at - points[0].at : 0;
  return Math.min(WINDOW_MS, Math.max(FIRST_WINDOW_MS, span));
}

function nearest(points, at) {
  let best = -1;
  points.forEach((point, index) => {
    if (best < 0 || Math.abs(point.at - at) < Math.abs(points[best].at - at)) best = index;
  });
  return best;
}

function createLegend(node) {
  const cell = (className, text = "") => node.appendChild(el("span", { class: className }, text));
  const when = cell("when");
  cell("head", "\u2191 to peers");
  cell("head", "\u2193 to clients");
  const rows = ["kernel", "userspace"].map((path) => {
    cell(`key ${path}`, path);
    return { path, up: cell("number"), down: cell("number") };
  });
  return (value, whenText, format) => {
    setText(when, whenText);
    for (const { path, up, down } of rows) {
      setText(up, value ? format(value.toPeer[path]) : "\u2013");
      setText(down, value ? format(value.toClient[path]) : "\u2013");
    }
  };
}

const AXIS_HEIGHT = 18;
const AXIS_WIDTH = 74;
/** The smaller direction gets at least this share of the height. */
const LEAST_SHARE = 0.25;

function drawPlot(picture, points, { pick, format, width, height, cursor }) {
  const values = points.map(pick);
  const scale = scaleOf(values, height - AXIS_HEIGHT);
  const end = points.at(-1)?.at ?? 0;
  const shownMs = windowMs(points);
  const x = (point) => width - ((end - point.at) / shownMs) * (width - AXIS_WIDTH);
  const level = (value, className) => svg("line", { class: className, x1: AXIS_WIDTH, x2: width, y1: scale.y(value), y2: scale.y(value) });
  const nodes = [scale.up, scale.up / 2, -scale.down / 2, -scale.down].map((value) => level(value, "grid"));
  for (const run of unbroken(points)) {
    for (const [way, sign] of [["toPeer", 1], ["toClient", -1]]) {
      const line = (edge) => run.map((index) => `${x(points[index]).toFixed(1)},${scale.y(sign * edge(values[index][way])).toFixed(1)}`);
      const area = (path, low, high) => svg("path", { class: `area ${path}`, d: `M${line(high).join("L")}L${line(low).reverse().join("L")}Z` });
      nodes.push(area("kernel", () => 0, (value) => value.kernel), area("userspace", (value) => value.kernel, total));
    }
  }
  nodes.push(level(0, "zero"));
  if (cursor) nodes.push(svg("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: 0, y2: height - AXIS_HEIGHT }));
  if (points.length === 0) {
    nodes.push(svg("text", { class: "waiting", x: width / 2, y: scale.y(0) - 10 }, "Waiting for the first numbers"));
  } else {
    const label = (text, value, shift) => svg("text", { x: AXIS_WIDTH - 8, y: scale.y(value) + shift, "text-anchor": "end" }, text);
    nodes.push(label(short(format(scale.up)), scale.up, 9), label("0", 0, 4), label(short(format(scale.down)), -scale.down, 0));
    nodes.push(...timeLabels(shownMs, width, height));
  }
  picture.replaceChildren(...nodes);
}

/** One scale for both directions, around a zero line that leaves each the room that it needs. */
function scaleOf(values, height) {
  const most = (way) => niceCeiling(Math.max(0, ...values.map((value) => total(value[way]))));
  let [up, down] = values.length > 0 ? [most("toPeer"), most("toClient")] : [1, 1];
  up = niceCeiling(Math.max(up, down * LEAST_SHARE));
  down = niceCeiling(Math.max(down, up * LEAST_SHARE));
  const unit = (height - 4) / (up + down);
  return { up, down, y: (value) => 2 + (up - value) * unit };
}

/** "2.00 Gbit/s" on an axis is "2 Gbit/s". */
const short = (text) => text.replace(/\.0+(?= )/, "").replace(/(\.\d*?)0+(?= )/, "$1");

function timeLabels(shownMs, width, height) {
  const stepSecs = [10, 15, 30, 60].find((step) => shownMs / 1000 / step <= 6) ?? 60;
  const labels = [svg("text", { x: width, y: height - 3, "text-anchor": "end" }, "now")];
  for (let secs = stepSecs; secs * 1000 < shownMs - 2_000; secs += stepSecs) {
    const text = secs % 60 === 0 ? `\u2212${secs / 60} min` : `\u2212${secs} s`;
    labels.push(svg("text", { x: width - ((width - AXIS_WIDTH) * secs * 1000) / shownMs, y: height - 3, "text-anchor": "middle" }, text));
  }
  return labels;
}

/** Stretches without a gap: a line across a lost connection would be made up. */
function unbroken(points) {
  const runs = [];
  points.forEach((point, index) => {
    if (index === 0 || point.at - points[index - 1].at > 8_000) runs.push([]);
    runs.at(-1).push(index);
  });
  return runs;
}

function niceCeiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

// ---- Tiles and panels ----

function showTiles(totals, point) {
  const { sum } = totals;
  setValue($("tile-allocations"), whole.format(sum.allocations));
  setText($("tile-allocations-sub"), [
    `${whole.format(sum.allocations_offloaded)} in the kernel`,
    point && point.created > 0 ? `${rate(point.created)} new` : null,
  ].filter(Boolean).join(" \u00b7 "));
  setValue($("tile-load"), `${Math.round(100 * Math.max(0, ...totals.workers.map((worker) => worker.load.busy_ratio)))} %`);
  const ports = totals.ports.reduce((most, use) => Math.max(most, use.total ? use.used / use.total : 0), 0);
  setText($("tile-load-sub"), `${(100 * ports).toFixed(ports < 0.1 ? 1 : 0)} % of ports in use`);
  if (!point) return;
  for (const [way, id] of [["toPeer", "tile-to-peer"], ["toClient", "tile-to-client"]]) {
    setValue($(id), bits(total(point.bits[way])));
    setText($(`${id}-sub`), `${whole.format(total(point.packets[way]))} packets/s`);
  }
  const kernel = point.packets.toPeer.kernel + point.packets.toClient.kernel;
  const all = total(point.packets.toPeer) + total(point.packets.toClient);
  setValue($("tile-kernel"), all > 0 ? `${((100 * kernel) / all).toFixed(1)} %` : "\u2013");
  setText($("tile-kernel-sub"), all > 0 ? "of the packets now" : "no packets now");
  setValue($("tile-drops"), `${point.dropsPerSec > 0 && point.dropsPerSec < 10 ? point.dropsPerSec.toFixed(1) : whole.format(point.dropsPerSec)} /s`);
  setText($("tile-drops-sub"), `${whole.format(sumOf(point.drops))} since the start`);
}

function meter(name, number, share, kind, title) {
  const bar = el("i", { class: kind });
  bar.style.width = `${Math.max(share > 0 ? 1 : 0, Math.min(100, 100 * share))}%`;
  return el("li", { class: "meter", title },
    typeof name === "string" ? el("span", { class: "name" }, name) : name,
    el("span", { class: "number" }, ...[number].flat()),
    el("span", { class: "track", "aria-hidden": "true" }, bar));
}

function showDrops(totals, points) {
  const drops = [...dropsByReason(totals)].sort((a, b) => b[1] - a[1]);
  const before = points.find((point) => point.at >= totals.as_of_unix_millis - 10_000 && point !== points.at(-1));
  const seconds = before ? (totals.as_of_unix_millis - before.at) / 1000 : 0;
  const most = drops[0]?.[1] ?? 0;
  $("drops").replaceChildren(...drops.slice(0, 8).map(([name, count]) => {
    const perSec = before ? Math.max(0, (count - (before.drops.get(name) ?? 0)) / seconds) : 0;
    const number = [`${whole.format(count)} `, el("span", { class: "muted" }, perSec > 0 ? rate(perSec) : "quiet")];
    return meter(words(name), number, count / most, "bad", visible(name));
  }));
  if (drops.length === 0) $("drops").append(el("li", { class: "nothing" }, "Nothing was dropped since the start."));
  if (drops.length > 8) $("drops").append(el("li", { class: "nothing" }, `and ${drops.length - 8} more reasons, see /metrics`));
}

async function refreshTalkers() {
  const page = await api("GET", `/v1/allocations?${list.query({ sort: "rate", order: "desc", limit: 7, offset: 0 })}`);
  const speed = (allocation) => allocation.to_peer_bits_per_sec + allocation.to_client_bits_per_sec;
  const talkers = page.allocations.filter((allocation) => speed(allocation) > 0);
  const focused = document.activeElement?.dataset?.talker;
  $("talkers").replaceChildren(...talkers.map((allocation) => {
    const name = el("button", { type: "button", class: "link name", "data-talker": allocation.id }, userName(allocation.quota_user));
    name.addEventListener("click", () => detail.open(allocation.id));
    return meter(name, bits(speed(allocation)), speed(allocation) / speed(talkers[0]), allocation.offload.active ? "kernel" : "userspace", visible(allocation.user));
  }));
  if (talkers.length === 0) $("talkers").append(el("li", { class: "nothing" }, "Nobody is sending at the moment."));
  if (focused) document.querySelector(`[data-talker="${CSS.escape(focused)}"]`)?.focus();
}

function showStatus(status) {
  session.status = status;
  setText($("version"), `${visible(status.version)} \u00b7 ${visible(status.realm)} \u00b7 up ${duration(status.uptime_secs)}`);
  document.title = `${status.drain.draining ? "Draining" : whole.format(status.allocations)} \u00b7 Turnpike`;
  const { draining } = status.drain;
  const pill = $("readiness");
  pill.hidden = false;
  pill.dataset.state = draining ? "draining" : status.readiness.ready ? "ready" : "not-ready";
  setText(pill, draining ? "Draining" : status.readiness.ready ? "Ready" : "Not ready");
  pill.title = status.readiness.reasons.map(visible).join(" ");
  $("drain-button").hidden = draining;
  $("drain-notice").hidden = !draining;
  if (draining) setText($("drain-text"), drainText(status.drain));
  showPath(status);
}

function drainText(drain) {
  const where = drain.alternate_servers.length > 0
    ? `new ones are sent to ${drain.alternate_servers.join(", ")}`
    : "new ones are refused";
  const since = drain.since_unix_secs ? ` since ${clockTime(drain.since_unix_secs)}` : "";
  const end = drain.deadline_unix_secs ? ` The rest is ended at ${clockTime(drain.deadline_unix_secs)}.` : "";
  return `Draining${since}: ${whole.format(drain.allocations)} allocations live on, ${where}.${end}`;
}

function showPath(status) {
  const { offload } = status;
  const facts = [
    ["Kernel", fact(offload.active ? `on, ${whole.format(offload.routes)} of ${whole.format(offload.max_routes)} routes` : "off", offload.why)],
    ...offload.interfaces.map((face) => [visible(face.name), fact(face.attached ? `attached, ${face.mode ?? "unknown mode"}` : "not attached", face.why)]),
    ["Userspace", fact(visible(status.data_path.name), status.data_path.why)],
    ["Listeners", status.listeners.map((listener) => `${listener.address} ${listener.transport}`).join(", ")],
    ["Relay", status.relay_addresses.map((relay) => `${relay.address}${relay.external ? ` as ${relay.external}` : ""} : ${relay.first_port}\u2013${relay.last_port}`).join(", ")],
  ];
  $("path").replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  $("workers").replaceChildren(...status.workers.map((worker) =>
    meter(`#${worker.index} \u00b7 ${whole.format(worker.allocations)}`, `${Math.round(worker.busy_ratio * 100)} %`, worker.busy_ratio, "", `worker ${worker.index}: ${whole.format(worker.allocations)} allocations, ${whole.format(worker.relay_sockets)} sockets`)));
}

function fact(text, why) {
  return el("span", {}, text, why ? el("span", { class: "muted" }, ` \u2014 ${visible(why)}`) : null);
}

// ---- Table: the relay searches, sorts and pages; this page holds one page of rows ----

const COLUMNS = [
  { title: "User", sort: "user", className: "user" },
  { title: "Client", sort: "client", className: "mono client" },
  { title: "Relayed", className: "mono optional spare" },
  { title: "Age", sort: "created", className: "number optional" },
  { title: "Expires in", sort: "expires", className: "number optional spare" },
  { title: "To peers", className: "number", label: "\u2191" },
  { title: "To clients", className: "number", label: "\u2193" },
  { title: "Rate", sort: "rate", className: "number optional" },
  { title: "Traffic", sort: "traffic", className: "number optional" },
  { title: "Over limit", sort: "drops", className: "number optional" },
  { title: "Limit", className: "number optional" },
  { title: "Path", className: "path" },
];

const list = {
  offset: 0,
  sort: "rate",
  order: "desc",
  rows: new Map(),
  asked: 0,
  shown: null,

  query(parameters) {
    return new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "")).toString();
  },

  async refresh({ hold = false } = {}) {
    const asked = ++this.asked;
    const limit = Number($("page-size").value);
    const query = this.query({
      search: $("search").value.trim(), offloaded: $("path-filter").value,
      sort: this.sort, order: this.order, limit, offset: this.offset,
    });
    const page = await api("GET", `/v1/allocations?${query}`);
    // Only the answer to the last question counts.
    if (asked !== this.asked || !session.token) return;
    if (page.allocations.length === 0 && this.offset > 0) {
      this.offset = Math.max(0, Math.floor((page.matching - 1) / limit) * limit);
      return this.refresh();
    }
    // Under the pointer nothing moves by itself: a click must hit what it was meant for.
    if (hold && query === this.shown && $("rows").matches(":hover")) return this.update(page);
    this.shown = query;
    this.show(page);
  },

  /** Asks at once, for a reader who changed what is shown. */
  async reload({ offset = 0 } = {}) {
    this.offset = offset;
    try {
      await this.refresh();
    } catch (error) {
      handleFailure(error);
    }
  },

  /** New numbers in the rows that are there. */
  update(page) {
    for (const allocation of page.allocations) {
      const row = this.rows.get(allocation.id);
      if (row) fillRow(row, allocation, page.as_of_unix_millis / 1000);
    }
  },

  show(page) {
    const now = page.as_of_unix_millis / 1000;
    const rows = page.allocations.map((allocation) => {
      const row = this.rows.get(allocation.id) ?? this.createRow(allocation);
      fillRow(row, allocation, now);
      return row;
    });
    this.rows = new Map(page.allocations.map((allocation, index) => [allocation.id, rows[index]]));
    arrange($("rows"), rows);
    setText($("match-count"), page.matching === page.total ? whole.format(page.total) : `${whole.format(page.matching)} of ${whole.format(page.total)}`);
    const last = page.offset + page.allocations.length;
    setText($("page-range"), page.matching > 0 ? `${whole.format(page.offset + 1)}\u2013${whole.format(last)} of ${whole.format(page.matching)}` : "");
    $("previous-page").disabled = page.offset === 0;
    $("next-page").disabled = last >= page.matching;
    showEmpty(page);
  },

  createRow(allocation) {
    const row = el("tr", { "data-id": allocation.id });
    for (const column of COLUMNS) {
      row.append(el("td", { class: column.className, "data-label": column.label }));
    }
    const button = el("button", { type: "button", class: "link" }, userName(allocation.quota_user));
    row.firstChild.append(button);
    row.firstChild.title = visible(allocation.user);
    row.addEventListener("click", () => detail.open(allocation.id));
    return row;
  },

  clear() {
    this.rows.clear();
    $("rows").replaceChildren();
    $("talkers").replaceChildren();
    $("search").value = "";
    $("path-filter").value = "";
    this.offset = 0;
  },
};

function fillRow(row, allocation, now) {
  const both = (key) => [allocation.to_peer, allocation.to_client].reduce((sum, way) => sum + way.kernel[key] + way.userspace[key], 0);
  const texts = [
    allocation.client,
    allocation.relayed.join(", "),
    duration(now - allocation.created_unix_secs),
    duration(allocation.expires_unix_secs - now),
    bits(allocation.to_peer_bits_per_sec),
    bits(allocation.to_client_bits_per_sec),
    bits(allocation.to_peer_bits_per_sec + allocation.to_client_bits_per_sec),
    bytes(both("bytes")),
    countText(both("rate_drops")),
    limitText(allocation.max_bits_per_sec),
  ];
  texts.forEach((text, index) => setText(row.children[index + 1], text));
  const cell = row.lastChild;
  const state = pathText(allocation.offload);
  if (cell.textContent !== state.text) cell.replaceChildren(pathBadge(allocation.offload));
  cell.title = state.why;
}

function pathText(offload) {
  if (offload.active) return { text: "kernel", why: `${plural(offload.channels_active, "channel")} in the kernel` };
  const reason = visible(offload.why_not ?? "").replaceAll("_", " ");
  return { text: "userspace", why: visible(offload.explanation ?? reason) };
}

function pathBadge(offload) {
  const { text, why } = pathText(offload);
  return el("span", { class: `badge ${text}`, title: why }, text);
}

/** Brings children into an order, touching only those out of place, and keeps the focus. */
function arrange(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  children.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  while (parent.children.length > children.length) parent.lastChild.remove();
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}

function showEmpty(page) {
  $("empty").hidden = page.allocations.length > 0;
  if (page.allocations.length > 0) return;
  const [title, text] = page.total > 0
    ? ["No allocation matches.", "The search looks for a part of the user's name, of an address of client, relay or peer, or of the id."]
    : ["No allocations yet.", "They appear here as soon as a client has made one. Try it: turnpike credentials makes a user name and a password."];
  $("empty").replaceChildren(el("strong", {}, title), text);
}

function createHead() {
  for (const { title, sort, className } of COLUMNS) {
    const cell = el("th", { scope: "col", class: className.replace(/mono|client|path/g, "").trim() });
    if (sort) {
      const button = el("button", { type: "button", class: "sort" }, title);
      button.addEventListener("click", () => sortBy(sort));
      cell.append(button);
      cell.dataset.sort = sort;
      $("sort-select").append(el("option", { value: sort }, `By ${title.toLowerCase()}`));
    } else {
      cell.append(title);
    }
    $("table-head").append(cell);
  }
  $("sort-select").addEventListener("change", () => sortBy($("sort-select").value));
  markSort();
}

/** Texts from A to Z first, numbers from the largest; a second click turns it around. */
function sortBy(key) {
  const first = ["user", "client"].includes(key) ? "asc" : "desc";
  const other = first === "asc" ? "desc" : "asc";
  list.order = list.sort === key && list.order === first ? other : first;
  list.sort = key;
  markSort();
  list.reload();
}

function markSort() {
  $("sort-select").value = list.sort;
  for (const cell of $("table-head").children) {
    if (cell.dataset.sort === list.sort) cell.setAttribute("aria-sort", list.order === "asc" ? "ascending" : "descending");
    else cell.removeAttribute("aria-sort");
  }
}

// ---- Detail of one allocation ----

const SPARK_POINTS = 120;

const detail = {
  id: null,
  generation: 0,
  last: null,
  points: [],

  async open(id) {
    Object.assign(this, { id, last: null, points: [], generation: this.generation + 1 });
    const { generation } = this;
    $("detail-title").replaceChildren("\u2026");
    setText($("detail-id"), id);
    $("detail-body").replaceChildren();
    setActions(false);
    if (!$("detail").open) $("detail").showModal();
    while (generation === this.generation && $("detail").open && session.token) {
      try {
        this.take(await api("GET", `/v1/allocations/${id}`), generation);
      } catch (error) {
        if (generation !== this.generation) return;
        if (error.status === 404) return this.showGone();
        handleFailure(error);
      }
      await sleep(DETAIL_MS);
    }
  },

  take(allocation, generation) {
    if (generation !== this.generation) return;
    const seconds = this.last ? (allocation.as_of_unix_millis - this.last.as_of_unix_millis) / 1000 : 0;
    if (seconds > 0) {
      const speed = (way) => ["kernel", "userspace"].reduce((sum, path) => sum + (8 * (allocation[way][path].bytes - this.last[way][path].bytes)) / seconds, 0);
      this.points.push({ toPeer: Math.max(0, speed("to_peer")), toClient: Math.max(0, speed("to_client")) });
      this.points.splice(0, this.points.length - SPARK_POINTS);
    }
    this.last = allocation;
    setActions(true);
    showDetail(allocation, this.points);
  },

  showGone() {
    setActions(false);
    if (!this.last) setText($("detail-title"), "Allocation");
    $("detail-body").prepend(el("p", { class: "gone", role: "alert" }, "This allocation has ended. Below is the last that was seen of it."));
  },
};

function setActions(possible) {
  $("limit-button").disabled = !possible;
  $("disconnect-button").disabled = !possible;
}

function showDetail(allocation, points) {
  const title = visible(allocation.user);
  if ($("detail-title").textContent !== title) $("detail-title").replaceChildren(userName(allocation.user));
  const scroll = $("detail-body").scrollTop;
  $("detail-body").replaceChildren(
    sparkSection(allocation, points),
    factSection(allocation),
    trafficSection(allocation),
    channelSection(allocation),
    permissionSection(allocation),
  );
  $("detail-body").scrollTop = scroll;
}

function sparkSection(allocation, points) {
  const last = points.at(-1);
  const now = last ? { up: bits(last.toPeer), down: bits(last.toClient) } : { up: "\u2013", down: "\u2013" };
  const entry = (kind, label, value) => el("span", {}, el("i", { class: `swatch ${kind}` }), `${label} `, el("b", { "data-spark": kind }, value));
  return el("section", { "aria-label": "Throughput" },
    sparkline(points, allocation.max_bits_per_sec),
    el("div", { class: "spark-legend" },
      entry("to-peer", "to peers", now.up), entry("to-client", "to the client", now.down),
      allocation.max_bits_per_sec > 0 ? entry("limit", "limit", bits(allocation.max_bits_per_sec)) : null));
}

function sparkline(points, limit) {
  const picture = svg("svg", { viewBox: "0 0 120 32", preserveAspectRatio: "none", "aria-hidden": "true" });
  const most = Math.max(1, ...points.flatMap((point) => [point.toPeer, point.toClient]));
  const top = limit > 0 && limit < most * 4 ? Math.max(most, limit) : most;
  const y = (value) => (30 - 28 * (value / top)).toFixed(2);
  const step = 120 / (Math.max(30, points.length) - 1);
  const line = (key) => points.map((point, index) => `${(120 - (points.length - 1 - index) * step).toFixed(2)},${y(point[key])}`).join("L");
  if (limit > 0 && limit <= top) picture.append(svg("path", { class: "limit", d: `M0,${y(limit)}H120` }));
  if (points.length > 1) {
    picture.append(svg("path", { class: "to-peer", d: `M${line("toPeer")}` }), svg("path", { class: "to-client", d: `M${line("toClient")}` }));
  }
  return el("div", { class: "spark" }, picture);
}

function factSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const { offload } = allocation;
  const why = pathText(offload).why;
  const facts = [
    ["Client", el("span", { class: "mono" }, `${allocation.client} (${allocation.transport})`)],
    ["Server", el("span", { class: "mono" }, allocation.server)],
    ["Relayed as", el("span", { class: "mono" }, allocation.relayed.join(", "))],
    ["Created", `${clockTime(allocation.created_unix_secs)}, ${duration(now - allocation.created_unix_secs)} ago`],
    ["Expires in", duration(allocation.expires_unix_secs - now)],
    ["Limit", allocation.max_bits_per_sec > 0 ? `${bits(allocation.max_bits_per_sec)} in each direction` : "none"],
    ["Path", el("span", {}, pathBadge(offload), why ? el("span", { class: "muted" }, ` ${why}`) : null)],
  ];
  return el("section", {}, el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

function trafficSection(allocation) {
  const rows = [];
  for (const [way, name] of [["to_peer", "To peers"], ["to_client", "To client"]]) {
    for (const path of ["kernel", "userspace"]) {
      const { packets, bytes: payload, rate_drops: drops } = allocation[way][path];
      rows.push([name, path, whole.format(packets), bytes(payload), whole.format(drops)]);
    }
  }
  // Those over the limit are in the table.
  const drops = Object.entries(allocation.drops).filter(([name, count]) => count > 0 && !name.startsWith("drop_rate_"));
  return section("Traffic", simpleTable(["Direction", "Path", "Packets", "Bytes", "Over limit"], rows, 2),
    ...drops.map(([name, count]) => el("p", { class: "muted" }, `${whole.format(count)} dropped: ${words(name)}`)));
}

function channelSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const rows = allocation.channel_list.map((channel) => [
    `0x${channel.number.toString(16)}`, channel.peer, pathBadge(channel.offload), duration(channel.expires_unix_secs - now),
  ]);
  return section(`Channels (${rows.length})`, rows.length > 0
    ? simpleTable(["Number", "Peer", "Path", "Expires in"], rows, 3)
    : el("p", { class: "nothing" }, "None: data goes in Send and Data indications, always in userspace."));
}

function permissionSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const rows = allocation.permission_list.map((permission) => [permission.peer, duration(permission.expires_unix_secs - now)]);
  return section(`Permissions (${rows.length})`, rows.length > 0
    ? simpleTable(["Peer", "Expires in"], rows, 1)
    : el("p", { class: "nothing" }, "None: no peer may send to this allocation."));
}

const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

function simpleTable(heads, rows, firstNumber) {
  const className = (index) => (index >= firstNumber ? "number" : undefined);
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head, index) => el("th", { scope: "col", class: className(index) }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, index) => el("td", { class: className(index) }, cell))))));
}

// ---- Actions, each confirmed ----

const confirmation = { act: null };

function confirmAction({ title, text, button, danger = false, fields = [], act }) {
  confirmation.act = act;
  setText($("confirm-title"), title);
  $("confirm-text").replaceChildren(...[text].flat());
  $("confirm-fields").replaceChildren(...fields);
  setText($("confirm-error"), "");
  setText($("confirm-ok"), button);
  $("confirm-ok").classList.toggle("danger", danger);
  $("confirm-ok").disabled = false;
  $("confirm").showModal();
  ($("confirm-fields").querySelector("input") ?? $("confirm-cancel")).focus();
}

async function submitConfirmation(event) {
  event.preventDefault();
  $("confirm-ok").disabled = true;
  setText($("confirm-error"), "");
  try {
    toast(await confirmation.act());
    $("confirm").close();
    list.reload({ offset: list.offset });
  } catch (error) {
    setText($("confirm-error"), error.message);
    if (error.status === 401) handleFailure(error);
  } finally {
    $("confirm-ok").disabled = false;
  }
}

function field(id, label, hint, ...controls) {
  return el("div", { class: "field" }, el("label", { for: id }, label), ...controls, el("span", { id: `${id}-hint` }, hint));
}

function askLimit() {
  const { id, user, max_bits_per_sec: current } = detail.last;
  const input = el("input", { id: "limit-value", type: "number", min: "0", step: "any", inputmode: "decimal", "aria-describedby": "limit-value-hint", value: String(current / 1e6) });
  confirmAction({
    title: "Limit this allocation",
    text: ["It applies at once, in each direction, to ", el("strong", {}, userName(user)), "."],
    fields: [field("limit-value", "Mbit/s", "Payload bits per second. 0: no limit.", input)],
    button: "Set the limit",
    act: async () => {
      const megabits = Number(input.value);
      if (input.value === "" || !Number.isFinite(megabits) || megabits < 0) throw new Error("A number of Mbit/s, please; 0 means no limit.");
      const limit = Math.round(megabits * 1e6);
      await api("PATCH", `/v1/allocations/${id}`, { max_bits_per_sec: limit });
      return limit > 0 ? `Limited to ${bits(limit)} in each direction.` : "The limit is gone.";
    },
  });
}

function askDisconnect() {
  const { id, user, client } = detail.last;
  confirmAction({
    title: "Disconnect this allocation?",
    text: ["The call of ", el("strong", {}, userName(user)), ` from ${client} loses this relay at once. Its client may make a new allocation.`],
    button: "Disconnect",
    danger: true,
    act: async () => {
      await api("DELETE", `/v1/allocations/${id}`);
      $("detail").close();
      return "Disconnected.";
    },
  });
}

function askDrain() {
  const input = el("input", { id: "drain-minutes", type: "number", min: "0", max: "10080", step: "any", inputmode: "decimal", placeholder: "no deadline", "aria-describedby": "drain-minutes-hint" });
  confirmAction({
    title: "Drain this relay?",
    text: "It takes no new allocations and reports itself not ready. Those that exist live on until they end.",
    fields: [field("drain-minutes", "Deadline, minutes", "Then the rest is ended. Empty: none.", input)],
    button: "Drain",
    act: async () => {
      const minutes = Number(input.value);
      if (!Number.isFinite(minutes) || minutes < 0 || !input.validity.valid) throw new Error("Minutes, please, or nothing.");
      const body = input.value === "" ? {} : { deadline_secs: Math.round(minutes * 60) };
      await api("POST", "/v1/drain", body);
      showStatus(await api("GET", "/v1/status"));
      return "Draining.";
    },
  });
}

function askResume() {
  confirmAction({
    title: "Take new allocations again?",
    text: "The drain ends, also its deadline, and the relay reports itself ready.",
    button: "Take new allocations",
    act: async () => {
      await api("DELETE", "/v1/drain");
      showStatus(await api("GET", "/v1/status"));
      return "New allocations are welcome again.";
    },
  });
}

// ---- Theme and start ----

const THEMES = ["automatic", "light", "dark"];

function applyTheme(theme) {
  if (theme === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme-button").setAttribute("aria-label", `Theme: ${theme}`);
  $("theme-button").title = `Theme: ${theme}`;
}

function nextTheme() {
  const current = localStorage.getItem(THEME_KEY) ?? "automatic";
  const theme = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  localStorage.setItem(THEME_KEY, theme);
  applyTheme(theme);
}

function listen() {
  $("login-form").addEventListener("submit", submitLogin);
  $("token").addEventListener("input", () => $("token").removeAttribute("aria-invalid"));
  $("logout-button").addEventListener("click", () => logOut());
  $("theme-button").addEventListener("click", nextTheme);
  $("drain-button").addEventListener("click", askDrain);
  $("resume-button").addEventListener("click", askResume);
  $("limit-button").addEventListener("click", askLimit);
  $("disconnect-button").addEventListener("click", askDisconnect);
  $("confirm-form").addEventListener("submit", submitConfirmation);
  $("confirm-cancel").addEventListener("click", () => $("confirm").close());
  $("detail-close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("close", () => { detail.generation += 1; });
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  $("page-size").addEventListener("change", () => list.reload());
  $("previous-page").addEventListener("click", () => list.reload({ offset: Math.max(0, list.offset - Number($("page-size").value)) }));
  $("next-page").addEventListener("click", () => list.reload({ offset: list.offset + Number($("page-size").value) }));
  let typing;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => list.reload(), 250);
  });
  $("search-form").addEventListener("submit", (event) => { event.preventDefault(); list.reload(); });
  $("path-filter").addEventListener("change", () => list.reload());
}

const charts = [
  createChart($("chart-bits"), "Throughput", (point) => point.bits, bits),
  createChart($("chart-packets"), "Packets", (point) => point.packets, packetRate),
];

async function start() {
  applyTheme(localStorage.getItem(THEME_KEY) ?? "automatic");
  createHead();
  listen();
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (!token) return logOut();
  try {
    await logIn(token);
  } catch (error) {
    logOut(error.status === 401 ? "" : error.message);
  }
}

start();
