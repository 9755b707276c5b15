// The API: the token, which is held here alone, and requests with it.

const API = new URL("api/dispatch/v1/", document.baseURI);
const ANSWER_MS_MAX = 10_000;
const PAGE_ROWS = 1_000;

let token = null;
let visit = new AbortController();

/** Why a request has no answer that can be shown. */
class NoAnswer extends Error {
  /** `status` is that of HTTP, or 0 where none came. */
  constructor(status, message, body = {}) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** Ends what is under way, as when the page is hidden. */
function abandonRequests() {
  visit.abort();
  visit = new AbortController();
}

/** Asks the API; the answer's JSON, or a NoAnswer. */
async function ask(path, method = "GET") {
  // What changes something is not abandoned: its answer says whether it was done.
  const late = AbortSignal.timeout(ANSWER_MS_MAX);
  const signal = method === "GET" ? AbortSignal.any([visit.signal, late]) : late;
  const headers = { Authorization: `Bearer ${token}` };
  let response;
  let body;
  try {
    response = await fetch(new URL(path, API), { method, headers, signal, cache: "no-store", credentials: "omit" });
    body = await response.json().catch(() => ({}));
  } catch (error) {
    if (error.name === "AbortError") throw new NoAnswer(0, "abandoned");
    throw new NoAnswer(0, error.name === "TimeoutError" ? "it took too long to answer" : "it could not be reached");
  }
  if (response.ok) return body;
  const why = [body.error, body.parameter, body.restriction].filter(Boolean).join(": ");
  throw new NoAnswer(response.status, why || `status ${response.status}`, body);
}

/**
 * Rows of a list, page by page, up to so many; `total` says how many match. A row that moved from one page to the next
 * meanwhile is taken once, as it was last.
 */
async function askRows(path, parameters, rowsMax, keyOf) {
  const rows = new Map();
  let total = 0;
  let after = null;
  do {
    const query = new URLSearchParams({ ...parameters, limit: Math.min(PAGE_ROWS, rowsMax - rows.size) });
    if (after) query.set("after", after);
    const page = await ask(`${path}?${query}`);
    page.items.forEach((row) => rows.set(keyOf(row), row));
    total = page.total;
    after = page.next;
  } while (after && rows.size < rowsMax);
  // One that came or went meanwhile is no reason to speak of rows that are left out.
  return { items: [...rows.values()], total: after ? total : rows.size };
}
