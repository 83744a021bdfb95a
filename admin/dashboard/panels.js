// Tiles, talkers, drops, data path: what is so now.

import { api } from "./api.js";
import { $, el, meter, nothing, setText, setValue, userName } from "./dom.js";
import { sumOf, total } from "./feed.js";
import { bits, clockTime, duration, plural, rate, visible, whole, words } from "./format.js";
import { session } from "./session.js";
import { list } from "./table.js";

const DROPS_SHOWN = 8;
const TALKERS_SHOWN = 7;

/** Who is to blame for a drop, by its name; the relay decides. */
const causes = new Map();
const CAUSE_ORDER = ["relay", "receiver", "sender", "policy"];
const CAUSE_TEXTS = {
  relay: "lost by this host: worth a look",
  receiver: "whoever it was for took too little of what came, or was gone",
  sender: "whoever sent it did something wrong",
  policy: "a limit or rule of the configuration did what it is for",
};

export async function learnCauses() {
  const { reasons } = await api("GET", "/v1/drop-reasons");
  causes.clear();
  for (const { name, cause } of reasons) causes.set(name, cause);
}

/** What nobody has explained is worth a look. */
const causeOf = (name) => causes.get(name) ?? "relay";

export function showTiles(totals, points) {
  const point = points.at(-1);
  const { sum } = totals;
  setValue($("tile-allocations"), whole(sum.allocations));
  setText($("tile-allocations-sub"), [
    `${whole(sum.allocations_offloaded)} in the kernel`,
    point && point.created > 0 ? `${rate(point.created)} new` : null,
  ].filter(Boolean).join(" \u00b7 "));
  setValue($("tile-load"), `${Math.round(100 * Math.max(0, ...totals.workers.map((worker) => worker.load.busy_ratio)))} %`);
  const ports = totals.ports.reduce((most, use) => Math.max(most, use.total ? use.used / use.total : 0), 0);
  setText($("tile-load-sub"), `${(100 * ports).toFixed(ports < 0.1 ? 1 : 0)} % of ports in use`);
  if (!point) return;
  for (const [way, id] of [["toPeer", "tile-to-peer"], ["toClient", "tile-to-client"]]) {
    setValue($(id), bits(total(point.bits[way])));
    setText($(`${id}-sub`), `${whole(total(point.packets[way]))} packets/s`);
  }
  const kernel = point.packets.toPeer.kernel + point.packets.toClient.kernel;
  const all = total(point.packets.toPeer) + total(point.packets.toClient);
  setValue($("tile-kernel"), all > 0 ? `${((100 * kernel) / all).toFixed(1)} %` : "\u2013");
  setText($("tile-kernel-sub"), all > 0 ? "of the packets now" : "no packets now");
  showDropTile(point);
}

function showDropTile(point) {
  const faults = sumOf(new Map([...point.drops].filter(([name]) => causeOf(name) === "relay")));
  setValue($("tile-drops"), `${point.dropsPerSec > 0 && point.dropsPerSec < 10 ? point.dropsPerSec.toFixed(1) : whole(point.dropsPerSec)} /s`);
  setText($("tile-drops-sub"), faults > 0 ? `${plural(faults, "fault")} of this host so far` : "none a fault of this host");
  $("tile-drops-sub").classList.toggle("bad-text", faults > 0);
}

/** Faults first: only they are red. */
export function showDrops(totals, points) {
  const newest = points.at(-1);
  // Of a relay that has just started, as far back as there is.
  const before = points.findLast((point) => point.at <= totals.as_of_unix_millis - 10_000) ?? points[0];
  const drops = [...newest?.drops ?? []]
    .map(([name, count]) => ({ name, count, cause: causeOf(name), quiet: before === newest || count === (before.drops.get(name) ?? 0) }))
    .sort((one, other) => CAUSE_ORDER.indexOf(one.cause) - CAUSE_ORDER.indexOf(other.cause) || other.count - one.count);
  const most = Math.max(1, ...drops.map(({ count }) => count));
  const seconds = before ? (newest.at - before.at) / 1000 : 0;
  $("drops").replaceChildren(...drops.slice(0, DROPS_SHOWN).map(({ name, count, cause, quiet }) => {
    const perSec = quiet ? "quiet" : rate(Math.max(0, count - (before.drops.get(name) ?? 0)) / seconds);
    const title = el("span", { class: "name" }, words(name), " ", el("span", { class: `cause ${cause}` }, cause));
    return meter(title, [`${whole(count)} `, el("span", { class: "muted" }, perSec)], count / most, cause === "relay" ? "bad" : "", `${visible(name)}: ${CAUSE_TEXTS[cause]}`);
  }));
  if (drops.length === 0) $("drops").append(nothing("Nothing was dropped since the start."));
  if (drops.length > DROPS_SHOWN) $("drops").append(nothing(`and ${drops.length - DROPS_SHOWN} more reasons, see /metrics`));
}

export async function refreshTalkers() {
  const page = await api("GET", `/v1/talkers?limit=${TALKERS_SHOWN}`);
  const speed = (talker) => talker.to_peer_bits_per_sec + talker.to_client_bits_per_sec;
  const talkers = page.talkers.filter((talker) => speed(talker) > 0);
  const focused = document.activeElement?.dataset?.talker;
  $("talkers").replaceChildren(...talkers.map((talker) => {
    const name = el("button", { type: "button", class: "link name", "data-talker": talker.user }, userName(talker.user));
    name.addEventListener("click", () => list.search(talker.user));
    const number = [bits(speed(talker)), el("span", { class: "muted" }, ` ${plural(talker.allocations, "allocation")}`)];
    const kind = 2 * talker.allocations_offloaded >= talker.allocations ? "kernel" : "userspace";
    return meter(name, number, speed(talker) / speed(talkers[0]), kind, `${visible(talker.user)}: ${whole(talker.allocations_offloaded)} of ${plural(talker.allocations, "allocation")} in the kernel`);
  }));
  if (talkers.length === 0) $("talkers").append(nothing("Nobody is sending at the moment."));
  if (focused !== undefined) document.querySelector(`[data-talker="${CSS.escape(focused)}"]`)?.focus();
}

export function clearPanels() {
  for (const id of ["talkers", "drops", "path", "workers"]) $(id).replaceChildren();
  for (const tile of document.querySelectorAll(".tile .value")) setValue(tile, "\u2013");
  for (const sub of document.querySelectorAll(".tile .sub")) setText(sub, "\u00a0");
}

export function showStatus(status) {
  setText($("version"), `${visible(status.version)} \u00b7 ${visible(status.realm)} \u00b7 up ${duration(status.uptime_secs)}`);
  const { draining } = status.drain;
  showTitle(draining ? "Draining" : whole(status.allocations));
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

export function showStale(stale) {
  if (stale) showTitle("Not answering");
}

function showTitle(state) {
  document.title = `${session.stale ? "Not answering" : state} \u00b7 Turnpike`;
}

function drainText(drain) {
  const where = drain.alternate_servers.length > 0
    ? `new ones are sent to ${drain.alternate_servers.join(", ")}`
    : "new ones are refused";
  const since = drain.since_unix_secs ? ` since ${clockTime(drain.since_unix_secs)}` : "";
  const end = drain.deadline_unix_secs ? ` The rest is ended at ${clockTime(drain.deadline_unix_secs)}.` : "";
  return `Draining${since}: ${plural(drain.allocations, "allocation")} live on, ${where}.${end}`;
}

function showPath(status) {
  const { offload } = status;
  const facts = [
    ["Kernel", fact(offload.active ? `on, ${whole(offload.routes)} of ${whole(offload.max_routes)} routes` : "off", offload.why)],
    ...offload.interfaces.map((face) => [visible(face.name), fact(face.attached ? `attached, ${face.mode ?? "unknown mode"}` : "not attached", face.why)]),
    ["Userspace", fact(visible(status.data_path.name), status.data_path.why)],
    ["Listeners", status.listeners.map((listener) => `${listener.address} ${listener.transport}`).join(", ")],
    ...status.certificates.map((certificate) => ["Certificate", certificateFact(certificate)]),
    ["Relay", status.relay_addresses.map((relay) => `${relay.address}${relay.external ? ` as ${relay.external}` : ""} : ${relay.first_port}\u2013${relay.last_port}`).join(", ")],
  ];
  $("path").replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  $("workers").replaceChildren(...status.workers.map((worker) =>
    meter(`#${worker.index} \u00b7 ${whole(worker.allocations)}`, `${Math.round(worker.busy_ratio * 100)} %`, worker.busy_ratio, "", `worker ${worker.index}: ${whole(worker.allocations)} allocations, ${whole(worker.relay_sockets)} sockets`)));
}

function certificateFact({ names, cert_file: file, expires_unix_secs: expires, fault }) {
  const days = Math.floor((expires - Date.now() / 1000) / 86400);
  const until = days < 0 ? "expired" : `${plural(days, "day")} left`;
  return fact(`${visible(names[0] ?? file)}, ${until}`, fault && `not renewed: ${fault}`);
}

function fact(text, why) {
  return el("span", {}, text, why ? el("span", { class: "muted" }, ` \u2014 ${visible(why)}`) : null);
}
