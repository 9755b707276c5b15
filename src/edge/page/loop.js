// The loop that asks: what is asked, how often, and what becomes of it.

const REFRESH_MS = 2000;
/** Rows that are asked for at most; beyond, a filter has to choose. */
const ROWS_MAX = 5000;
/** A refresh takes this part of the time at most, however long the daemon needs. */
const REFRESH_PART = 4;

const page = {
  tab: "ports",
  search: "",
  isPaused: false,
  /** When the last answer came, on the page's clock. */
  answeredAt: null,
  lostWhy: null,
  answer: null,
  totals: {},
  /** What the list says beside its rows. */
  listed: { total: 0, fault: null },
  timer: null,
  /** Counts refreshes, so that one that was overtaken is not shown. */
  turn: 0,
  needsHistory: true,
};

function schedule(ms) {
  clearTimeout(page.timer);
  if (token !== null && !page.isPaused && !document.hidden) page.timer = setTimeout(refresh, ms);
}

/** Refreshes at once, whatever is under way. */
function refreshSoon() {
  if (token === null || document.hidden) return;
  abandonRequests();
  refresh();
}

async function refresh() {
  clearTimeout(page.timer);
  page.turn += 1;
  const turn = page.turn;
  const beganAt = performance.now();
  try {
    const answer = await ask("shards");
    const serverNow = answer.started + answer.uptime_seconds;
    clock.set(serverNow);
    if (samples.started !== answer.started || page.needsHistory) {
      samples.take(answer);
      samples.recall(await ask("history"), serverNow);
      page.needsHistory = false;
    } else {
      samples.take(answer);
    }
    if (answer.state === "draining" && page.answer !== null) {
      // The daemon ends a connection with its next answer, and lets no other in: the rows stay as they were.
      if (turn === page.turn) showDraining(answer);
      return schedule(REFRESH_MS);
    }
    countTotals(answer);
    const rows = await askList();
    const refused = page.tab === "refused" ? null : await ask("refused?limit=1");
    if (turn !== page.turn) return;
    page.answer = answer;
    page.answeredAt = now();
    page.lostWhy = null;
    if (refused) page.totals.refused = refused.total;
    show(rows);
  } catch (error) {
    if (turn !== page.turn || error.message === "abandoned") return;
    fail(error);
  }
  schedule(Math.max(REFRESH_MS, (performance.now() - beganAt) * REFRESH_PART));
}

function showDraining(answer) {
  page.answer = answer;
  page.answeredAt = now();
  page.lostWhy = null;
  drawTop();
  shards.draw(answer);
}

/** What becomes of a refresh without an answer: the token is asked for again, or what is shown is old. */
function fail(error) {
  if (error.status === 401) lock("That token is not accepted.");
  else if (page.answer !== null) lose(error.message);
  else if (error.status === 429) lock("Too many wrong tokens came from this address. Wait a little.");
  else lock(`The daemon gave no answer: ${error.message}.`);
  // A fault of the page itself is also the console's to show.
  if (!(error instanceof NoAnswer)) reportError(error);
}

function countTotals({ shards: all }) {
  const total = (name) => sum(all.map((shard) => shard[name]));
  Object.assign(page.totals, { ports: total("ports"), drivers: total("sessions"), devices: total("devices") });
}

/** The rows of the list that is shown; none where the search is not understood, with the reason. */
async function askList() {
  const { tab } = page;
  const filter = readFilter(tab, page.search);
  if (filter.fault) return { tab, items: [], total: 0, fault: filter.fault, filter };
  try {
    // In the order of ids no row is met twice or missed; another matters only where some are left out.
    const parameters = { ...filter.parameters };
    if (page.totals[tab] > ROWS_MAX) parameters.sort = serverSort(tab, list.chosen);
    const found = await askRows(tab, parameters, ROWS_MAX, KINDS[tab].key);
    return { tab, ...found, fault: null, filter };
  } catch (error) {
    // A filter that the daemon does not take: it says why.
    if (error.status !== 400) throw error;
    return { tab, items: [], total: 0, fault: `${error.body.parameter}: ${error.body.restriction}`, filter };
  }
}
