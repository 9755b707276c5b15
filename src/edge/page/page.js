// Begins: everything before this has only been declared.

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
