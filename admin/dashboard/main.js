// The dashboard: this file connects its parts and starts it.
//
//   main ─► session ─► api            who is logged in, what is asked
//        ─► feed ─► charts, panels    what moves each second
//        ─► table, detail, refusals, users, events, configuration
//        ─► actions ─► dialog         what an operator does

import { askDisconnect, askDrain, askLimit, askReload, askResume } from "./actions.js";
import { api } from "./api.js";
import { createChart } from "./chart.js";
import { clearConfiguration, refreshConfiguration, showOptions } from "./configuration.js";
import { clearCredentials, submitCredentials } from "./credentials.js";
import { detail } from "./detail.js";
import { submitConfirmation } from "./dialog.js";
import { $ } from "./dom.js";
import { clearEvents, filterEvents, showEvents, takeEvent } from "./events.js";
import { clearFallback, showFallback, showFallbackAddress } from "./fallback.js";
import { feed, onFeed, showSilence } from "./feed.js";
import { bits, packetRate } from "./format.js";
import { clearPanels, learnCauses, refreshTalkers, showDrops, showStale, showStatus, showTiles } from "./panels.js";
import { clearRefusals, refreshRefusals } from "./refusals.js";
import { handleFailure, keptToken, logIn, logOut, on, repeat, submitLogin } from "./session.js";
import { createHead, list } from "./table.js";
import { askAddUser, clearUsers, nextUsers, previousUsers, refreshUsers, reloadUsers } from "./users.js";
import { followAddress, isShown } from "./views.js";

const LIST_MS = 2_000;
const STATUS_MS = 4_000;
const EVENTS_MS = 500;
const USERS_MS = 5_000;
const CONFIGURATION_MS = 10_000;
const TYPING_MS = 250;
const THEME_KEY = "turnpike.theme";
const THEMES = ["automatic", "light", "dark"];

const charts = [
  createChart($("chart-bits"), "Throughput", (point) => point.bits, bits),
  createChart($("chart-packets"), "Packets", (point) => point.packets, packetRate),
];
const updateCharts = () => charts.forEach((chart) => chart.update());

function show(status) {
  showStatus(status);
  showFallbackAddress(status);
}

async function open(status) {
  feed.reset();
  updateCharts();
  show(status);
  // Before the first drops are shown.
  await learnCauses().catch(handleFailure);
  feed.follow();
  const inView = (view) => () => isShown(view);
  repeat(STATUS_MS, async () => show(await api("GET", "/v1/status")));
  repeat(LIST_MS, () => list.refresh({ hold: true }), inView("overview"));
  repeat(LIST_MS, refreshTalkers, inView("overview"));
  repeat(LIST_MS, refreshRefusals, inView("overview"));
  repeat(USERS_MS, refreshUsers, inView("users"));
  repeat(EVENTS_MS, async () => showEvents(), inView("events"));
  repeat(CONFIGURATION_MS, refreshConfiguration, inView("configuration"));
}

function close() {
  feed.reset();
  for (const clear of [list.clear.bind(list), clearPanels, clearFallback, clearRefusals, clearUsers, clearCredentials, clearEvents, clearConfiguration]) clear();
}

/** A view that was just opened is filled at once. */
async function fillView(view) {
  const refresh = { overview: () => list.refresh(), users: refreshUsers, events: showEvents, configuration: refreshConfiguration }[view];
  if ($("app").hidden) return;
  try {
    await refresh();
  } catch (error) {
    handleFailure(error);
  }
}

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

const click = (id, act) => $(id).addEventListener("click", act);

/** Searches when the reader pauses, or presses Enter. */
function whenTyped(inputId, formId, search) {
  let typing;
  $(inputId).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, TYPING_MS);
  });
  $(formId).addEventListener("submit", (event) => { event.preventDefault(); search(); });
}

function listenToSession() {
  $("login-form").addEventListener("submit", submitLogin);
  $("token").addEventListener("input", () => $("token").removeAttribute("aria-invalid"));
  click("logout-button", () => logOut());
  click("theme-button", nextTheme);
  on("open", open);
  on("close", close);
  on("stale", showStale);
  on("stale", updateCharts);
  on("stale", showSilence);
  onFeed("points", updateCharts);
  onFeed("totals", showTiles);
  onFeed("totals", showDrops);
  onFeed("totals", showFallback);
  onFeed("event", takeEvent);
  window.addEventListener("hashchange", () => followAddress(fillView));
}

function listenToActions() {
  click("drain-button", askDrain);
  click("resume-button", askResume);
  click("limit-button", askLimit);
  click("disconnect-button", askDisconnect);
  click("reload-button", askReload);
  click("add-user", askAddUser);
  $("confirm-form").addEventListener("submit", submitConfirmation);
  click("confirm-cancel", () => $("confirm").close());
  $("credential-form").addEventListener("submit", submitCredentials);
  document.addEventListener("changed", () => {
    if (isShown("overview")) list.reload({ offset: list.offset });
    if (isShown("users")) reloadUsers();
    if (isShown("configuration")) refreshConfiguration().catch(handleFailure);
  });
}

function listenToLists() {
  click("detail-close", () => $("detail").close());
  $("detail").addEventListener("close", () => { detail.generation += 1; });
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  $("page-size").addEventListener("change", () => list.reload());
  click("previous-page", () => list.reload({ offset: Math.max(0, list.offset - Number($("page-size").value)) }));
  click("next-page", () => list.reload({ offset: list.offset + Number($("page-size").value) }));
  whenTyped("search", "search-form", () => list.reload());
  for (const id of ["path-filter", "transport-filter"]) $(id).addEventListener("change", () => list.reload());
  whenTyped("user-search", "user-search-form", () => reloadUsers(0));
  click("users-previous", previousUsers);
  click("users-next", nextUsers);
  $("event-kind").addEventListener("change", filterEvents);
  $("events-pause").addEventListener("change", showEvents);
  whenTyped("option-search", "option-search-form", showOptions);
}

async function start() {
  applyTheme(localStorage.getItem(THEME_KEY) ?? "automatic");
  createHead();
  listenToSession();
  listenToActions();
  listenToLists();
  followAddress(fillView);
  const token = keptToken();
  if (!token) return logOut();
  try {
    await logIn(token);
  } catch (error) {
    logOut(error.status === 401 ? "" : error.message);
  }
}

start();
