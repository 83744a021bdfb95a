// Questions to the relay, and what its answers mean.

const REQUEST_MS = 10_000;

/** The token of this session, and when the relay was last heard. */
export const connection = { token: null, heardAt: 0 };

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function heard() {
  connection.heardAt = Date.now();
}

export async function send(method, path, body, signal) {
  const headers = { authorization: `Bearer ${connection.token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, navigator.onLine ? "The relay does not answer." : "This computer is offline.");
  }
  // A proxy in front of a relay that has stopped answers too: never with problem details.
  if (response.status < 500 || isProblem(response)) heard();
  return response;
}

export async function api(method, path, body) {
  const response = await send(method, path, body, AbortSignal.timeout(REQUEST_MS));
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

/** A query without what is empty. */
export function query(parameters) {
  return new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "")).toString();
}

const isProblem = (response) => response.headers.get("content-type")?.startsWith("application/problem+json");

/** RFC 9457 problem details, or what the status code says. */
export async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const said = problem.detail || problem.title || response.statusText || "no reason given";
  const retryAfter = Number(response.headers.get("retry-after")) || undefined;
  const message = {
    401: "This token is not accepted.",
    403: `This token does not permit that: ${said}`,
    404: "It is no longer there.",
    409: `Not possible: ${said}`,
    422: `Not possible: ${said}`,
    429: `Too many attempts.${retryAfter ? ` Try again in ${retryAfter} s.` : " Wait a moment."}`,
  }[response.status] ?? `The relay answered ${response.status}: ${said}`;
  return new ApiError(response.status, message);
}
