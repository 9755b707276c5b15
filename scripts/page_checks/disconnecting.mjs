// Disconnecting: what is said before, and what is done.

import assert from "node:assert/strict";
import { enter, visit } from "./browser.mjs";
import { eventually } from "./daemon.mjs";

async function opened(browser, { daemon }, tab, search) {
  const page = await visit(browser, daemon);
  await enter(page);
  await page.click(`#tab-${tab}`);
  await page.fill("#search", search);
  await page.waitForFunction(() => /^1 \w+ found/.test(document.getElementById("found").textContent));
  await page.click("#list-body .row:not([hidden])");
  return page;
}

async function asked(page, button = 1) {
  await page.click(`#details-actions button:nth-child(${button})`);
  await page.waitForSelector("#confirm[open]");
  return page.textContent("#confirm");
}

const ends = (socket) => eventually("the socket ends", () => socket.destroyed);

export const checks = {
  "a device is disconnected after it is named and asked": async (browser, place) => {
    const device = place.silent[40];
    const page = await opened(browser, place, "devices", `port:${place.ports.meters} :${device.localPort}`);
    const { items } = await place.daemon.ask(`devices?port=${place.ports.meters}&address=${device.localAddress}`);
    const text = await asked(page);
    assert.ok(text.includes(`Disconnect device ${items[0].id} of tcp ${place.ports.meters}?`), text);
    assert.ok(text.includes(`${device.localAddress}:${device.localPort}`), text);
    assert.match(text, /Its drivers are told CLOSED/);
    // Whoever presses Enter or Escape by habit has done nothing.
    assert.equal(await page.evaluate(() => document.activeElement.id), "confirm-cancel");
    await page.keyboard.press("Escape");
    assert.ok(await page.isHidden("#confirm"));
    assert.ok(await page.isVisible("#details"), "Escape put away one thing alone");
    assert.ok(!device.destroyed);
    await asked(page);
    await page.click("#confirm-go");
    await ends(device);
    await page.waitForFunction(() => document.getElementById("said").textContent === "1 was disconnected.");
    await page.waitForSelector("#details-gone:not([hidden])");
    assert.ok(await page.isDisabled("#details-actions button"));
    assert.deepEqual(page.faults, []);
  },

  "a device that leaves while it is asked is said to have left": async (browser, place) => {
    const device = place.silent[41];
    const address = device.localAddress;
    const page = await opened(browser, place, "devices", `port:${place.ports.meters} :${device.localPort}`);
    await asked(page);
    device.destroy();
    await eventually("it has left", async () => (await place.daemon.ask(`devices?port=${place.ports.meters}&address=${address}`)).total === 0);
    await page.click("#confirm-go");
    await page.waitForFunction(() => document.getElementById("said").textContent === "It had left already.");
  },

  "a driver is disconnected, and what that does to its port is said": async (browser, place) => {
    const { daemon } = place;
    const { meters, doors } = place.ports;
    let page = await opened(browser, place, "drivers", "mod-meters-a");
    await asked(page);
    await page.waitForFunction((port) => document.getElementById("confirm-more").textContent.includes(`tcp ${port} has 1 other driver and stays open`), meters);
    await page.click("#confirm-cancel");
    page = await opened(browser, place, "drivers", "mod-doors");
    await asked(page);
    await page.waitForFunction(() => /the port closes, and its 120 devices are disconnected/.test(document.getElementById("confirm-more").textContent));
    assert.match(await page.textContent("#confirm-text"), /close code 1008/);
    await page.click("#confirm-go");
    await page.waitForFunction(() => document.getElementById("said").textContent === "1 was disconnected.");
    await eventually("the port is closed", async () => (await daemon.ask(`drivers?port=${doors}`)).total === 0);
  },

  "all devices of a port are disconnected where as many are there as was said": async (browser, place) => {
    const { daemon } = place;
    const { slow, lights } = place.ports;
    let page = await opened(browser, place, "ports", `port:${lights}`);
    const { total } = await daemon.ask(`devices?port=${lights}&limit=1`);
    assert.match(await asked(page, 2), new RegExp(`Disconnect ${total} devices of tcp ${lights}`));
    place.talking[0].destroy();
    await eventually("one has left", async () => (await daemon.ask(`devices?port=${lights}&limit=1`)).total === total - 1);
    await page.click("#confirm-go");
    await page.waitForFunction((left) => document.getElementById("said").textContent.startsWith(`${left} match by now: nobody was disconnected`), total - 1);
    assert.equal((await daemon.ask(`devices?port=${lights}&limit=1`)).total, total - 1);
    page = await opened(browser, place, "ports", `port:${slow}`);
    await asked(page, 1);
    await page.click("#confirm-go");
    await page.waitForFunction(() => document.getElementById("said").textContent === "1 was disconnected.");
    await eventually("the port is closed", async () => (await daemon.ask(`ports?port=${slow}`)).total === 0);
  },
};
