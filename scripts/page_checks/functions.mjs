// What the page shows and what its keys, tabs and search do.

import assert from "node:assert/strict";
import { cells, enter, texts, visit } from "./browser.mjs";
import { TOKEN, eventually, sleep } from "./daemon.mjs";

/** Searches, and waits until the list has answered. */
async function search(page, text) {
  await page.fill("#search", text);
  await sleep(200);
  await page.waitForLoadState("networkidle");
  await sleep(150);
}

async function entered(browser, { daemon }, options) {
  const page = await visit(browser, daemon, options);
  await enter(page);
  return page;
}

const number = (text) => Number(text.replaceAll(",", ""));

export const checks = {
  "the token is asked for once and kept nowhere": async (browser, { daemon }) => {
    const page = await visit(browser, daemon);
    assert.equal(await page.evaluate(() => document.activeElement.id), "token");
    await page.fill("#token", "wrong");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("gate-fault").textContent.includes("not accepted"));
    assert.ok(await page.isHidden("#app"));
    await page.fill("#token", "no\u00e9");
    await page.keyboard.press("Enter");
    assert.ok(await page.isVisible("#gate-fault"));
    await enter(page);
    assert.equal(await page.inputValue("#token"), "");
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
    assert.ok(!kept.includes(TOKEN), kept);
    assert.ok(page.requests.every((url) => !url.includes(TOKEN)));
    await page.reload();
    assert.ok(await page.isVisible("#gate"));
    assert.deepEqual(page.faults, []);
  },

  "nothing is asked of anyone but the daemon": async (browser, place) => {
    const page = await entered(browser, place);
    for (const key of "1234") {
      await page.keyboard.press(key);
      await sleep(300);
    }
    const strangers = page.requests.filter((url) => !url.startsWith(place.daemon.url));
    assert.deepEqual(strangers, []);
    assert.deepEqual(page.faults, []);
  },

  "the policy stops what is not in the page": async (browser, { daemon }) => {
    const page = await visit(browser, daemon);
    const ran = await page.evaluate(async () => {
      const script = document.createElement("script");
      try {
        script.textContent = "window.intruder = true";
      } catch {
        return "refused by trusted types";
      }
      document.head.append(script);
      return window.intruder ? "ran" : "refused";
    });
    assert.match(ran, /refused/);
    await page.evaluate(() => document.body.setAttribute("style", "color: red"));
    const left = await page.evaluate(() => fetch("http://127.0.0.2:9/").then(() => "left", () => "stayed"));
    assert.equal(left, "stayed");
    assert.ok(page.faults.length >= 2, "the policy says nothing of it");
  },

  "the top says what runs, since when, and how": async (browser, place) => {
    const page = await entered(browser, place);
    const { version } = await (await fetch(`${place.daemon.url}api/server/version`)).json();
    assert.equal(await page.textContent(".top .version"), `v${version}`);
    assert.equal(await page.textContent("#state-text"), "Serving");
    assert.match(await page.textContent("#uptime"), /^up \d+ (s|min|h)/);
    assert.equal(await page.textContent("#shard-count"), "2 shards");
    assert.equal(await page.textContent("#age"), "Every 2 s");
  },

  "tiles show the numbers and five minutes of each": async (browser, place) => {
    const page = await entered(browser, place);
    const { shards } = await place.daemon.ask("shards");
    const devices = shards.reduce((all, shard) => all + shard.devices, 0);
    const [shown, drivers] = await texts(page, ".reading.level .value");
    assert.deepEqual([number(shown), number(drivers)], [devices, 7]);
    await eventually("rates are shown", async () => (await texts(page, ".reading .value")).every((text) => text !== "–"));
    for (const tile of ["devices", "drivers", "messages", "bytes"]) {
      const label = await page.getAttribute(`[data-tile=${tile}] svg`, "aria-label");
      assert.match(label, /last five minutes/);
      // The daemon remembers what was before the page was opened.
      const points = (await page.getAttribute(`[data-tile=${tile}] path.line`, "d")).split("L").length;
      assert.ok(points >= 2, `${tile}: ${points} points`);
    }
    await page.hover("[data-tile=devices] svg");
    assert.match(await page.textContent("[data-tile=devices] .note"), /ago/);
  },

  "shards are listed with times, ports, sessions and devices": async (browser, place) => {
    const page = await entered(browser, place);
    const { shards } = await place.daemon.ask("shards");
    await eventually("times are known", async () => !(await texts(page, "#shard-rows td")).includes("–"));
    const rows = await page.$$eval("#shard-rows tr", (all) => all.map((row) => [...row.children].map((cell) => cell.textContent)));
    assert.equal(rows.length, 2);
    rows.forEach(([shard, turn, lag, ports, sessions, devices, buffers], at) => {
      assert.equal(shard, String(at));
      for (const time of [turn, lag]) assert.match(time, /^[\d.]+ (µs|ms|s)$/);
      assert.deepEqual([ports, sessions, devices].map(number), [shards[at].ports, shards[at].sessions, shards[at].devices]);
      assert.match(buffers, /%$/);
    });
  },

  "tabs have counts, and digits and arrows choose them": async (browser, place) => {
    const page = await entered(browser, place);
    await eventually("counts are shown", async () => (await texts(page, ".tabs .number")).every(Boolean));
    const [ports, drivers, devices, refused] = (await texts(page, ".tabs .number")).map(number);
    assert.deepEqual([ports, drivers], [6, 7]);
    assert.ok(devices > 1000 && refused >= 2, `${devices} ${refused}`);
    for (const [key, tab] of [["3", "devices"], ["2", "drivers"], ["4", "refused"], ["1", "ports"]]) {
      await page.keyboard.press(key);
      assert.equal(await page.getAttribute(`#tab-${tab}`, "aria-selected"), "true");
      await eventually("rows are shown", async () => (await cells(page, 0)).length > 0);
    }
    await page.focus("#tab-ports");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.evaluate(() => document.activeElement.id), "tab-drivers");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    assert.equal(await page.evaluate(() => document.activeElement.id), "tab-refused");
  },

  "ports come with problems first, then by rate": async (browser, place) => {
    const page = await entered(browser, place);
    const rows = await eventually("rates are shown", async () => {
      const [states, ports, rates] = await Promise.all([cells(page, 0), cells(page, 1), cells(page, 4)]);
      return rates.every((rate) => rate !== "–") && states.some((state) => state.includes("stalls")) && states.map((state, at) => [state, ports[at], rates[at]]);
    });
    const isCalm = ([state]) => ["carries", "quiet", "no device"].includes(state);
    const firstCalm = rows.findIndex(isCalm);
    assert.ok(firstCalm > 0, JSON.stringify(rows));
    assert.ok(rows.slice(firstCalm).every(isCalm), JSON.stringify(rows));
    const { slow, quiet, doors } = place.ports;
    assert.match(rows.find(([, port]) => port === `tcp ${slow}`)[0], /stalls/);
    const place_of = (port) => rows.findIndex(([, name]) => name === `tcp ${port}`);
    assert.ok(place_of(doors) < place_of(quiet), JSON.stringify(rows));
  },

  "drivers are listed with outbox, credit and stalls": async (browser, place) => {
    const page = await entered(browser, place);
    await page.keyboard.press("2");
    const modules = await eventually("drivers are shown", async () => (await cells(page, 0)).length === 7 && cells(page, 0));
    assert.equal(modules[0], "mod-archive");
    assert.ok(modules.includes("no id"));
    const [outbox] = await cells(page, 6);
    assert.match(outbox, /100 %/, `the one that does not read: ${outbox}`);
    assert.ok(number((await cells(page, 8))[0]) > 0);
    const heads = await texts(page, "#list-head [role=columnheader]");
    for (const wanted of ["Module", "Address", "Port", "Joined for", "Outbox", "Credit", "Stalls"]) {
      assert.ok(heads.some((head) => head.startsWith(wanted) || head.endsWith(wanted)), `${wanted} in ${heads}`);
    }
  },

  "of a thousand devices the longest silent comes first": async (browser, place) => {
    const page = await entered(browser, place);
    await page.keyboard.press("3");
    await eventually("devices are shown", async () => (await cells(page, 0)).length > 10);
    // Of the slow driver's devices nobody has heard either, since its outbox was full.
    const { meters, slow } = place.ports;
    assert.ok((await cells(page, 2)).slice(0, 10).every((port) => [`tcp ${meters}`, `tcp ${slow}`].includes(port)));
    assert.equal(await page.getAttribute("#list", "aria-rowcount"), String(1 + (await place.daemon.ask("devices?limit=1")).total));
    assert.ok((await page.$$("#list-body .row")).length < 80, "all rows are in the document");
  },

  "a column orders, then the other way round, then as before": async (browser, place) => {
    const page = await entered(browser, place);
    await page.keyboard.press("3");
    await eventually("devices are shown", async () => (await cells(page, 0)).length > 10);
    const usual = (await cells(page, 0))[0];
    const head = "[data-column=address]";
    await page.click(head);
    assert.equal(await page.getAttribute("[role=columnheader]:has([data-column=address])", "aria-sort"), "ascending");
    await eventually("the first is the lowest", async () => (await cells(page, 0))[0].startsWith("127.1.0.1:"));
    await page.click(head);
    await eventually("the first is the highest", async () => (await cells(page, 0))[0].startsWith("127.4.0."));
    await page.click(head);
    await eventually("the order is the usual one", async () => (await cells(page, 0))[0] === usual);
  },

  "the search finds by each of its words": async (browser, place) => {
    const page = await entered(browser, place);
    const { lights, meters, slow, doors } = place.ports;
    await page.keyboard.press("3");
    const found = async (text) => {
      await search(page, text);
      return eventually(`the search for ${text} is answered`, async () => {
        const said = /^([\d,]+) \w+ found/.exec(await page.textContent("#found"));
        return said && number(said[1]) + 1;
      }).then((one) => one - 1);
    };
    assert.equal(await found(`port:${lights}`), 600);
    assert.equal(await found("127.3.0.0/16"), 120);
    assert.equal(await found("127.4.0."), 4);
    assert.equal(await found("module:mod-doors"), 120);
    assert.equal(await found("module:mod-lights-7Qm"), 600, "module ids keep their case");
    assert.equal(await found(`tcp:${slow}`), 4);
    assert.equal(await found(`port:${meters} 127.2.0.7:`), 1);
    assert.ok((await found("silent:3s")) >= 300);
    assert.equal(await found("silent:9d"), 0);
    assert.match(await page.textContent("#empty-text"), /No devices match/);
    await search(page, "port:x");
    await page.waitForFunction(() => document.getElementById("empty-text").textContent.includes("1 to 65535"));
    await search(page, "300.0.0.0/8");
    await page.waitForFunction(() => document.getElementById("empty-text").textContent.startsWith("address:"));
    await page.click("#empty-clear");
    await page.waitForFunction(() => document.getElementById("empty").hidden);
    await page.keyboard.press("Escape");
    await page.keyboard.press("1");
    assert.equal(await found("is:stalled"), 1);
    assert.equal(await found(`is:carrying port:${doors}`), 1);
    assert.equal(await found("shard:7"), 0);
    assert.deepEqual(page.faults, []);
  },

  "each problem is a filter, and there is no strip without one": async (browser, place) => {
    const page = await entered(browser, place);
    await page.waitForSelector(".problem[data-kind=stall]");
    await page.waitForSelector(".problem[data-kind=refuse]");
    assert.match(await page.textContent("#problems-said"), /Stalls .*Refusals/);
    await page.click(".problem[data-kind=stall]");
    assert.equal(await page.getAttribute("#tab-drivers", "aria-selected"), "true");
    await eventually("only the slow driver is left", async () => (await cells(page, 0)).join() === "mod-archive");
    assert.equal(await page.getAttribute(".problem[data-kind=stall]", "aria-pressed"), "true");
    await page.click(".problem[data-kind=refuse]");
    await eventually("refusals are shown", async () => (await cells(page, 1)).includes("device"));
    assert.ok((await cells(page, 1)).includes("token"));
    await page.click(".problem[data-kind=refuse]");
    assert.equal(await page.inputValue("#search"), "");
  },

  "keys find, open and put away": async (browser, place) => {
    const page = await entered(browser, place);
    const focused = () => page.evaluate(() => document.activeElement.id);
    await page.keyboard.press("/");
    assert.equal(await focused(), "search");
    await page.keyboard.type("12/3 ");
    await sleep(600);
    assert.equal(await page.inputValue("#search"), "12/3 ", "what is typed stays as it is");
    await page.keyboard.press("Escape");
    assert.equal(await page.inputValue("#search"), "");
    await page.keyboard.press("Escape");
    await page.keyboard.press("3");
    await eventually("devices are shown", async () => (await cells(page, 0)).length > 10);
    for (const key of ["ArrowDown", "ArrowDown", "ArrowUp", "PageDown", "End"]) await page.keyboard.press(key);
    const total = Number(await page.getAttribute("#list", "aria-rowcount"));
    const active = () => page.$eval("#list-body [aria-selected=true]:not([hidden])", (row) => Number(row.getAttribute("aria-rowindex")));
    assert.equal(await active(), total);
    assert.equal(await page.getAttribute("#list", "aria-activedescendant"), `row-${total - 2}`);
    await page.keyboard.press("Home");
    assert.equal(await active(), 2);
    await page.keyboard.press("Enter");
    assert.ok(await page.isVisible("#details"));
    assert.equal(await focused(), "details-title");
    await page.keyboard.press("Escape");
    assert.ok(await page.isHidden("#details"));
    assert.equal(await focused(), "list");
  },

  "details have a command that can be copied, and lead on": async (browser, place) => {
    const page = await entered(browser, place);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.keyboard.press("3");
    await search(page, `port:${place.ports.meters} 127.2.0.9:`);
    await page.click("#list-body .row:not([hidden])");
    const origin = place.daemon.url.slice(0, -1);
    const [watch, tshark] = await texts(page, ".command code");
    const tap = new RegExp(`^dispatch tap tcp ${place.ports.meters} --device 127\\.2\\.0\\.9:\\d+`);
    assert.match(watch, tap);
    assert.ok(watch.endsWith(`--url ${origin}`));
    assert.match(tshark, tap);
    assert.ok(tshark.endsWith(" --pcap - --url ".concat(origin, " | tshark -r -")), tshark);
    await page.click(".command button");
    await eventually("it is copied", async () => (await page.evaluate(() => navigator.clipboard.readText())) === watch);
    assert.match(await page.textContent("#said"), /copied/);
    // Without a clipboard, as over plain HTTP, the old way is taken.
    await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true }));
    await page.click(".command:nth-child(2) button");
    await page.evaluate(() => delete navigator.clipboard);
    await eventually("it is copied, too", async () => (await page.evaluate(() => navigator.clipboard.readText())) === tshark);
    await page.click("#details-related button:first-child");
    await eventually("its drivers are shown", async () => (await cells(page, 0)).join() === "mod-meters-a,mod-meters-b");
    await page.click("#list-body .row:not([hidden])");
    assert.match((await texts(page, ".command code"))[0], / --driver=mod-meters-a /);
    await page.keyboard.press("1");
    await search(page, `udp port:${place.ports.traps}`);
    await page.click("#list-body .row:not([hidden])");
    assert.ok((await texts(page, ".command code"))[0].startsWith(`dispatch tap udp ${place.ports.traps} --url `));
  },

  "rows stay still under the pointer": async (browser, place) => {
    const page = await entered(browser, place);
    await page.keyboard.press("3");
    await search(page, `port:${place.ports.meters}`);
    await eventually("devices are shown", async () => (await cells(page, 0)).length > 10);
    const before = await cells(page, 0);
    await page.hover("#list-body .row:not([hidden])");
    // The first one speaks, another leaves: both would move.
    const [first, second] = before.map((address) => place.silent.find((device) => address.endsWith(`:${device.localPort}`)));
    first.write("here I am");
    second.destroy();
    await eventually("the one that left is marked", async () => (await cells(page, 0))[1] === `left: ${before[1]}`);
    const held = await cells(page, 0);
    assert.deepEqual(held.map((address) => address.replace("left: ", "")), before);
    assert.ok(await page.isVisible("#held"));
    // Another search is another list: what it leaves out has not left.
    await page.focus("#search");
    await page.keyboard.press("End");
    await page.keyboard.type(` ${before[5].split(":")[0]}:`);
    await eventually("one is found", async () => (await cells(page, 0)).join() === before[5]);
    await search(page, `port:${place.ports.meters}`);
    await page.mouse.move(5, 5);
    await eventually("the order is that of silence", async () => (await cells(page, 0))[0] === before[2]);
    assert.ok(await page.isHidden("#held"));
  },

  "a pause stops the refresh and says how old the data is": async (browser, place) => {
    const page = await entered(browser, place);
    await page.keyboard.press("p");
    assert.equal(await page.textContent("#pause-text"), "Resume");
    await page.waitForLoadState("networkidle");
    const asked = page.requests.length;
    await sleep(4500);
    assert.equal(page.requests.length, asked);
    assert.ok(Number(/^Paused, data (\d+) s old$/.exec(await page.textContent("#age"))[1]) >= 4);
    await page.click("#pause");
    await eventually("it is asked again", () => page.requests.length > asked);
    assert.equal(await page.textContent("#age"), "Every 2 s");
  },

  "nothing is asked while the page is hidden": async (browser, place) => {
    const page = await entered(browser, place);
    const hide = (isHidden) => page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
    await hide(true);
    await sleep(300);
    const asked = page.requests.length;
    await sleep(5000);
    assert.equal(page.requests.length, asked);
    await hide(false);
    await eventually("it is asked at once", () => page.requests.slice(asked).some((url) => url.endsWith("/history")));
    assert.ok(await page.isHidden("#lost"));
  },

  "a phone has everything, and nothing sticks out": async (browser, place) => {
    const page = await entered(browser, place, { size: "phone" });
    for (const tab of ["ports", "drivers", "devices", "refused"]) {
      await page.tap(`#tab-${tab}`);
      await eventually("rows are shown", async () => (await cells(page, 0)).length > 0);
      const [width, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(width <= inner, `${tab}: ${width} of ${inner}`);
    }
    await page.tap("#tab-devices");
    await eventually("devices are shown", async () => (await cells(page, 0)).length > 5);
    await page.evaluate(() => scrollTo(0, 20_000));
    await eventually("rows far down are shown", async () => page.$$eval("#list-body .row:not([hidden])", (rows) => rows.some((row) => Number(row.getAttribute("aria-rowindex")) > 300)));
    await page.evaluate(() => scrollTo(0, 0));
    await page.tap("#list-body .row:not([hidden])");
    const box = await page.locator("#details").boundingBox();
    assert.deepEqual([box.x, box.width], [0, 390]);
    await page.tap("#details-close");
    assert.ok(await page.isHidden("#details"));
  },
};
