// One allocation, on a sheet of its own.

import { api, connection } from "./api.js";
import { $, el, pathBadge, section, setText, simpleTable, svg, userName } from "./dom.js";
import { bits, bytes, clockTime, duration, pathText, visible, whole, words } from "./format.js";
import { handleFailure, sleep } from "./session.js";

const DETAIL_MS = 1_000;
const SPARK_POINTS = 120;

export const detail = {
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
    while (generation === this.generation && $("detail").open && connection.token) {
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

/** What is said of an allocation that relays TCP; most relay UDP. */
function relayedBy({ relayed_transport, connections }) {
  return relayed_transport === "tcp" ? ` (tcp, ${connections} ${connections === 1 ? "connection" : "connections"})` : "";
}

function factSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const { offload } = allocation;
  const why = pathText(offload).why;
  const facts = [
    ["Client", el("span", { class: "mono" }, `${allocation.client} (${allocation.transport}${allocation.proxy ? `, by proxy ${allocation.proxy}` : ""})`)],
    ...allocation.tls ? [["TLS", tlsText(allocation.tls)]] : [],
    ["Server", el("span", { class: "mono" }, allocation.server)],
    ["Relayed as", el("span", { class: "mono" }, allocation.relayed.join(", ") + relayedBy(allocation))],
    ["Created", `${clockTime(allocation.created_unix_secs)}, ${duration(now - allocation.created_unix_secs)} ago`],
    ["Expires in", duration(allocation.expires_unix_secs - now)],
    ["Limit", allocation.max_bits_per_sec > 0 ? `${bits(allocation.max_bits_per_sec)} in each direction` : "none"],
    ["Path", el("span", {}, pathBadge(offload), why ? el("span", { class: "muted" }, ` ${why}`) : null)],
  ];
  return el("section", {}, el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

const tlsText = ({ version, cipher_suite: suite, alpn }) =>
  `${visible(version)}, ${visible(suite)}${alpn ? `, ALPN ${visible(alpn)}` : ""}`;

function trafficSection(allocation) {
  const rows = [];
  for (const [way, name] of [["to_peer", "To peers"], ["to_client", "To client"]]) {
    for (const path of ["kernel", "userspace"]) {
      const { packets, bytes: payload, rate_drops: drops } = allocation[way][path];
      rows.push([name, path, whole(packets), bytes(payload), whole(drops)]);
    }
  }
  // Those over the limit are in the table.
  const drops = Object.entries(allocation.drops).filter(([name, count]) => count > 0 && !name.startsWith("drop_rate_"));
  return section("Traffic", simpleTable(["Direction", "Path", "Packets", "Bytes", "Over limit"], rows, 2),
    ...drops.map(([name, count]) => el("p", { class: "muted" }, `${whole(count)} dropped: ${words(name)}`)));
}

function channelSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const rows = allocation.channel_list.map((channel) => [
    `0x${channel.number.toString(16)}`, peerCell(channel.peer), pathBadge(channel.offload), duration(channel.expires_unix_secs - now),
  ]);
  return section(`Channels (${rows.length})`, rows.length > 0
    ? simpleTable(["Number", "Peer", "Path", "Expires in"], rows, 3)
    : el("p", { class: "nothing" }, "None: data goes in Send and Data indications, always in userspace."));
}

function permissionSection(allocation) {
  const now = allocation.as_of_unix_millis / 1000;
  const rows = allocation.permission_list.map((permission) => [peerCell(permission.peer), duration(permission.expires_unix_secs - now)]);
  return section(`Permissions (${rows.length})`, rows.length > 0
    ? simpleTable(["Peer", "Expires in"], rows, 1)
    : el("p", { class: "nothing" }, "None: no peer may send to this allocation."));
}

/** An IPv6 address may be longer than its column. */
const peerCell = (peer) => el("span", { class: "peer" }, peer);
