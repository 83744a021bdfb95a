// Who is logged in, what the token opens, and whether the relay still answers.

import { ApiError, api, connection, heard } from "./api.js";
import { $, setText } from "./dom.js";
import { clockTime } from "./format.js";

const TOKEN_KEY = "turnpike.token";
/** Events come each second: a relay that is silent for longer has stopped, or is out of reach. */
const SILENCE_MS = 4_000;
const LOOK_MS = 500;

export const session = { generation: 0, clockSkewSecs: 0, scopes: [], stale: false };

/** What others do when something happens to the session: `open`, `close`, `stale`. */
const listeners = { open: [], close: [], stale: [] };
export const on = (event, act) => listeners[event].push(act);
const tell = (event, value) => listeners[event].forEach((act) => act(value));

export const nowSecs = () => Date.now() / 1000 + session.clockSkewSecs;
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs `work` again and again until this session ends, pausing while nobody would see the result. */
export async function repeat(everyMs, work, isSeen = () => true) {
  const { generation } = session;
  while (generation === session.generation) {
    if (!document.hidden && isSeen()) {
      try {
        await work();
        if (generation === session.generation) problemSolved(work);
      } catch (error) {
        if (generation === session.generation) handleFailure(error, work);
      }
    }
    await Promise.race([sleep(everyMs), pageShown()]);
  }
}

function pageShown() {
  return new Promise((resolve) => {
    if (document.hidden) document.addEventListener("visibilitychange", resolve, { once: true });
  });
}

/** Whose work failed last: only its own success takes the message away. */
let failing = null;

export function handleFailure(error, work = null) {
  if (error.status === 401) return logOut("The token is no longer accepted. Please log in again.");
  // Silence has a message of its own.
  if (error.status === 0) return;
  failing = work;
  const message = error instanceof ApiError ? error.message : `This page has a fault: ${error.message}`;
  setText($("problem"), `${message} What it concerns is old; trying again.`);
  $("problem").hidden = false;
}

function problemSolved(work) {
  if (failing !== null && failing !== work) return;
  $("problem").hidden = true;
}

export async function logIn(token) {
  connection.token = token;
  const { scopes } = await api("GET", "/v1/token");
  if (!scopes.includes("read")) {
    throw new Error(`This token opens only ${scopes.join(", ")}. The dashboard needs one with the scope read.`);
  }
  const status = await api("GET", "/v1/status");
  sessionStorage.setItem(TOKEN_KEY, token);
  Object.assign(session, { generation: session.generation + 1, scopes, stale: false });
  // The style sheet hides what needs another scope (data-needs).
  document.body.dataset.scopes = scopes.join(" ");
  $("login").hidden = true;
  $("app").hidden = false;
  $("read-only").hidden = scopes.includes("admin");
  $("token").value = "";
  problemSolved(failing);
  watchSilence();
  tell("open", status);
}

export function logOut(message = "") {
  session.generation += 1;
  session.scopes = [];
  connection.token = null;
  sessionStorage.removeItem(TOKEN_KEY);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  tell("close");
  document.body.dataset.scopes = "";
  $("app").hidden = true;
  $("login").hidden = false;
  setText($("login-error"), message);
  $("token").focus();
}

/** The token that this tab has kept. */
export const keptToken = () => sessionStorage.getItem(TOKEN_KEY);

export async function submitLogin(event) {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!token) return failLogin("Please enter a token.");
  $("login-button").disabled = true;
  setText($("login-error"), "");
  try {
    await logIn(token);
  } catch (error) {
    connection.token = null;
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

/** A relay that has stopped must look it: old numbers are worse than none. */
async function watchSilence() {
  const { generation } = session;
  heard();
  setStale(false);
  while (generation === session.generation) {
    setStale(Date.now() - connection.heardAt > SILENCE_MS);
    await sleep(LOOK_MS);
  }
}

function setStale(stale) {
  $("app").classList.toggle("stale", stale);
  $("silence").hidden = !stale;
  if (stale) setText($("silence"), `Not answering since ${clockTime(connection.heardAt / 1000)}. Below is the last that was seen of it.`);
  if (stale === session.stale) return;
  session.stale = stale;
  tell("stale", stale);
}
