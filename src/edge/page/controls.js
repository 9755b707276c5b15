// Tabs, search, keys and the pause.

/** Shows a list with a search. */
function goTo(tab, search = page.search) {
  const isOther = tab !== page.tab;
  if (search !== page.search) {
    list.isOther = true;
    page.listed = {};
  }
  page.search = search;
  // What is being typed may end in a blank.
  if (byId("search").value.trim() !== search) byId("search").value = search;
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
  setText(byId("found"), search ? "searching" : "");
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
