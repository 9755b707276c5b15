// What stands around the list: the top with its age, problems, tabs with their counts.

function show(found) {
  const { answer } = page;
  unlock();
  limits.outbox = answer.limits.driver_backlog_bytes;
  limits.credit = answer.limits.driver_credit_bytes;
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
