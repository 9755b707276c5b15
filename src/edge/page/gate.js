// The token's form.

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
    if (!/^[\x20-\x7e]+$/.test(token)) return lock(token ? "That token is not accepted." : "Type the token.");
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
