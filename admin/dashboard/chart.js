// Charts: two directions mirrored around zero, the two data paths stacked.

import { el, setText, svg } from "./dom.js";
import { WINDOW_MS, feed, total } from "./feed.js";
import { clockTime, duration, short } from "./format.js";
import { session } from "./session.js";

const FIRST_WINDOW_MS = 60_000;
/** A line across a longer silence would be made up. */
const GAP_MS = 12_000;

export function createChart(figure, title, pick, format) {
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
    legend(point && pick(point), whenText(cursor), format);
    const value = point && pick(point);
    plot.setAttribute("aria-label", value
      ? `${title}: ${session.stale ? "at last" : "now"} ${format(total(value.toPeer))} to peers, ${format(total(value.toClient))} to clients. Arrow keys read earlier values.`
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

/** Grows with what there is to show, from one minute to all that is kept. */
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

function whenText(cursor) {
  const newest = feed.points.at(-1);
  if (cursor) return `${duration((newest.at - cursor.at) / 1000)} ago`;
  return session.stale && newest ? `at ${clockTime(newest.at / 1000)}` : "now";
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
const LABEL_WIDTH = 52;
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

function timeLabels(shownMs, width, height) {
  const most = Math.max(2, Math.min(6, (width - AXIS_WIDTH) / LABEL_WIDTH));
  const stepSecs = [10, 15, 30, 60, 120, 180, 300].find((step) => shownMs / 1000 / step <= most) ?? 600;
  const last = session.stale ? "last seen" : "now";
  const labels = [svg("text", { x: width, y: height - 3, "text-anchor": "end" }, last)];
  // The last label, and half of another one, with any font.
  const taken = LABEL_WIDTH / 2 + 7 * last.length;
  for (let secs = stepSecs; secs * 1000 < shownMs - 2_000; secs += stepSecs) {
    const text = secs % 60 === 0 ? `\u2212${secs / 60} min` : `\u2212${secs} s`;
    const x = width - ((width - AXIS_WIDTH) * secs * 1000) / shownMs;
    if (x > width - taken) continue;
    labels.push(svg("text", { x, y: height - 3, "text-anchor": "middle" }, text));
  }
  return labels;
}

/** Stretches without a gap. */
function unbroken(points) {
  const runs = [];
  points.forEach((point, index) => {
    if (index === 0 || point.at - points[index - 1].at > GAP_MS) runs.push([]);
    runs.at(-1).push(index);
  });
  return runs;
}

function niceCeiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}
