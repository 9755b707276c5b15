// The page: the token's form, the loop that asks, what stands at the top, tabs, search and keys.

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

// The loop.

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
    if (!(error instanceof NoAnswer)) throw error;
    if (error.status === 401) return lock("That token is not accepted.");
    if (error.status === 429 && page.answer === null) return lock("Too many wrong tokens came from this address. Wait a little.");
    if (page.answer === null) return lock(`The daemon gave no answer: ${error.message}.`);
    lose(error.message);
  }
  schedule(Math.max(REFRESH_MS, (performance.now() - beganAt) * REFRESH_PART));
}

/** The rows of the list that is shown; `null` where the search is not understood. */
async function askList() {
  const { tab } = page;
  const filter = readFilter(tab, page.search);
  if (filter.fault) return { tab, items: [], total: 0, fault: filter.fault, filter };
  try {
    const found = await askRows(tab, { ...filter.parameters, sort: serverSort(tab, list.chosen) }, ROWS_MAX);
    return { tab, ...found, fault: null, filter };
  } catch (error) {
    // A filter that the daemon does not take: it says why.
    if (error.status !== 400) throw error;
    return { tab, items: [], total: 0, fault: `${error.body.parameter}: ${error.body.restriction}`, filter };
  }
}

// What is shown.

function show(found) {
  const { answer } = page;
  unlock();
  limits.outbox = answer.limits.driver_backlog_bytes;
  limits.credit = answer.limits.driver_credit_bytes;
  const total = (name) => sum(answer.shards.map((shard) => shard[name]));
  Object.assign(page.totals, { ports: total("ports"), drivers: total("sessions"), devices: total("devices") });
  if (found.tab === "refused" && !page.search) page.totals.refused = found.total;
  document.body.classList.remove("is-lost");
  drawTop();
  drawProblems();
  tiles.drawAll();
  shards.draw(answer);
  if (found.tab !== page.tab) return;
  compareRows(found.tab, found.items, new Set(problems(answer).map((problem) => problem.kind)));
  const rows = found.items.filter((row) => found.filter.tests.every((test) => test(row)));
  page.listed = { ...found, shown: rows.length };
  list.put(rows);
  details.refresh();
  drawTabs();
}

function drawTop() {
  const { answer } = page;
  const isDraining = answer?.state === "draining";
  const [state, text, mark] = page.lostWhy
    ? ["lost", "No answer", "✕"]
    : isDraining ? ["draining", "Draining", "◐"] : ["serving", "Serving", "●"];
  byId("state").dataset.state = state;
  setText(byId("state-mark"), mark);
  setText(byId("state-text"), text);
  if (answer) {
    setText(byId("uptime"), `up ${span(clock.server() - answer.started)}`);
    byId("uptime").title = `Since ${moment(answer.started)}`;
    setText(byId("shard-count"), plural(answer.shards.length, "shard"));
  }
  drawAge();
}

/** How old the data is, each second. */
function drawAge() {
  const age = page.answeredAt === null ? 0 : now() - page.answeredAt;
  const text = page.isPaused ? `Paused, data ${span(age)} old` : page.lostWhy ? `Data ${span(age)} old` : "Every 2 s";
  setText(byId("age"), text);
  byId("lost").hidden = !page.lostWhy;
  if (page.lostWhy) setText(byId("lost-text"), `No answer from the daemon: ${page.lostWhy}. What is shown is ${span(age)} old.`);
  document.title = page.lostWhy ? "✕ dispatch" : "dispatch";
}

/** Greys what is shown: it is what the daemon said last. */
function lose(why) {
  page.lostWhy = why;
  page.needsHistory = true;
  document.body.classList.add("is-lost");
  drawTop();
}

const PROBLEM_MARKS = { stall: "◷", drop: "▽", refuse: "⊘", buffers: "▤" };

function drawProblems() {
  const found = problems(page.answer);
  const strip = byId("problems");
  const isShown = ({ tab, search }) => page.tab === tab && page.search === search;
  const kinds = found.map((problem) => problem.kind).join();
  if (strip.dataset.kinds !== kinds) {
    strip.dataset.kinds = kinds;
    strip.hidden = found.length === 0;
    const said = found.map((problem) => `${problem.label} ${problem.number}`).join(", ");
    setText(byId("problems-said"), said ? `In the last five minutes: ${said}` : "No problems in the last five minutes");
    const chips = found.map(({ kind }) => make("button", { type: "button", class: "problem", "data-kind": kind },
      make("span", { class: "mark", "aria-hidden": "true" }, PROBLEM_MARKS[kind]),
      make("span", { class: "label" }), make("strong", {}), make("span", { class: "text" })));
    byId("problem-list").replaceChildren(...chips);
  }
  found.forEach((problem, at) => {
    const chip = byId("problem-list").children[at];
    const [, label, number, text] = chip.children;
    setText(label, problem.label);
    setText(number, problem.number);
    setText(text, problem.text);
    chip.title = problem.text;
    chip.setAttribute("aria-pressed", isShown(problem));
    chip.onclick = () => (isShown(problem) ? goTo(problem.tab, "") : goTo(problem.tab, problem.search));
  });
}

function drawTabs() {
  for (const tab of TABS) {
    const button = byId(`tab-${tab}`);
    const isChosen = tab === page.tab;
    button.setAttribute("aria-selected", isChosen);
    button.tabIndex = isChosen ? 0 : -1;
    setText(button.querySelector(".number"), page.totals[tab] === undefined ? "" : count(page.totals[tab]));
  }
  const { shown = 0, total = 0, items = [], fault } = page.listed;
  const { one, title, empty } = KINDS[page.tab];
  const isCut = total > items.length;
  const found = page.search ? `${plural(shown, one)} found` : "";
  setText(byId("found"), isCut ? `${found ? `${found} in the` : "The"} first ${count(items.length)} of ${count(total)}: search to see others` : found);
  byId("empty").hidden = shown > 0;
  setText(byId("empty-text"), fault ?? (page.search ? `No ${title.toLowerCase()} match “${page.search}”.` : empty));
  byId("empty-clear").hidden = !page.search;
}

// Tabs, search and keys.

/** Shows a list with a search. */
function goTo(tab, search = page.search) {
  const isOther = tab !== page.tab;
  page.search = search;
  byId("search").value = search;
  byId("search-clear").hidden = !search;
  if (isOther) {
    details.close();
    page.tab = tab;
    page.listed = {};
    list.show(tab);
    byId("panel").setAttribute("aria-labelledby", `tab-${tab}`);
  }
  drawTabs();
  byId("empty").hidden = true;
  if (page.answer) drawProblems();
  refreshSoon();
}

function startTabs() {
  const chosen = (at) => {
    goTo(TABS[(at + TABS.length) % TABS.length], "");
    byId(`tab-${page.tab}`).focus();
  };
  TABS.forEach((tab, at) => {
    const button = byId(`tab-${tab}`);
    button.addEventListener("click", () => goTo(tab, ""));
    button.addEventListener("keydown", (event) => {
      const places = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 };
      if (event.key in places) {
        event.preventDefault();
        chosen(places[event.key]);
      }
    });
  });
}

function startSearch() {
  const box = byId("search");
  let timer;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => goTo(page.tab, box.value.trim()), 150);
  });
  byId("search-form").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["search-clear", "empty-clear"]) {
    byId(id).addEventListener("click", () => {
      goTo(page.tab, "");
      box.focus();
    });
  }
}

/** Puts away what is on top: the details, the search, the focus. */
function escape(event) {
  if (details.isOpen) details.close();
  else if (page.search || byId("search").value) goTo(page.tab, "");
  else document.activeElement.blur();
  event.preventDefault();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("confirm").open || token === null || byId("app").hidden) return;
  if (event.key === "Escape") return escape(event);
  const inBox = event.target === byId("search");
  if (inBox && event.key !== "ArrowDown") return;
  const digit = TABS[Number(event.key) - 1];
  if (event.key === "/") byId("search").focus();
  else if (digit) goTo(digit, "");
  else if (event.key === "p") pause(!page.isPaused);
  else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !list.root.contains(event.target)) {
    list.root.focus({ preventScroll: true });
    list.key(event);
  } else return;
  event.preventDefault();
}

function pause(isPaused) {
  page.isPaused = isPaused;
  const button = byId("pause");
  button.setAttribute("aria-pressed", isPaused);
  setText(byId("pause-text"), isPaused ? "Resume" : "Pause");
  drawAge();
  if (isPaused) clearTimeout(page.timer);
  else {
    page.needsHistory = true;
    refreshSoon();
  }
}

/** Says something to whoever looks or listens, for a while. */
function say(text) {
  setText(byId("said"), text);
  byId("said").classList.add("is-shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => byId("said").classList.remove("is-shown"), 6000);
}

// The token.

/** Forgets the token and asks for it. */
function lock(why) {
  token = null;
  page.answer = null;
  clearTimeout(page.timer);
  byId("app").hidden = true;
  byId("gate").hidden = false;
  byId("gate-go").disabled = false;
  setText(byId("gate-fault"), why);
  byId("token").setAttribute("aria-invalid", Boolean(why));
  byId("token").select();
  byId("token").focus();
}

function unlock() {
  if (byId("gate").hidden) return;
  byId("gate").hidden = true;
  byId("token").value = "";
  byId("app").hidden = false;
  list.fit();
  list.root.focus({ preventScroll: true });
}

function startGate() {
  byId("gate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = byId("token").value.trim();
    // What no header can hold is no token.
    if (!/^[\x21-\x7e]+$/.test(token)) return lock(token ? "That token is not accepted." : "Type the token.");
    byId("gate-go").disabled = true;
    refresh();
  });
}

async function showVersion() {
  try {
    const response = await fetch(new URL("version", API), { credentials: "omit" });
    const { version, commit } = await response.json();
    document.querySelectorAll(".version").forEach((element) => {
      setText(element, `v${version}`);
      element.title = `Commit ${commit}`;
    });
  } catch {
    // It is shown when there is one.
  }
}

list.start();
list.onOpen = (key) => details.open(page.tab, key);
list.onOrder = refreshSoon;
list.show("ports");
tiles.start();
details.start();
startTabs();
startSearch();
startGate();
showVersion();
byId("pause").addEventListener("click", () => pause(!page.isPaused));
byId("lost-again").addEventListener("click", refreshSoon);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(page.timer);
    abandonRequests();
  } else {
    page.needsHistory = true;
    if (!page.isPaused) refreshSoon();
  }
});
setInterval(() => document.hidden || token === null || drawAge(), 1000);
lock("");
