// The daemon's life as the page sees it: empty, full of troubles, gone, back, about to stop.

import assert from "node:assert/strict";
import { enter, findFaults, picture, texts, visit } from "./browser.mjs";
import { Daemon, eventually, freePort, sleep } from "./daemon.mjs";

export const checks = {
  "an empty daemon has no strip, and lists say what would be there": async (browser) => {
    const daemon = await Daemon.start();
    try {
      const page = await visit(browser, daemon);
      await enter(page);
      assert.ok(await page.isHidden("#problems"));
      for (const [key, text] of [["1", "No port is open"], ["2", "No driver is joined"], ["3", "No TCP device is connected"], ["4", "Nobody was refused"]]) {
        await page.keyboard.press(key);
        await page.waitForFunction((said) => document.getElementById("empty-text").textContent.startsWith(said), text);
      }
      await page.keyboard.press("1");
      await sleep(500);
      assert.deepEqual(await findFaults(page), []);
      await picture(page, "empty-light");
      await page.emulateMedia({ colorScheme: "dark" });
      await picture(page, "empty-dark");
    } finally {
      await daemon.stop();
    }
  },

  "drops and buffers out are problems, too": async (browser) => {
    const daemon = await Daemon.start("--receive-buffers", "8", "--outbox-bytes-max", "204800", "--stall-ms-max", "3600000");
    try {
      const [udp, tcp] = [await freePort(), await freePort()];
      await daemon.driver("udp", udp, "127.0.0.0/8", "mod-slow", "stall");
      await daemon.driver("tcp", tcp, "127.0.0.0/8", "mod-busy");
      const page = await visit(browser, daemon);
      await enter(page);
      const devices = await daemon.devices(tcp, 100, 5);
      const flood = setInterval(() => {
        for (let at = 0; at < 20; at += 1) daemon.datagram(udp, Buffer.alloc(60_000)).catch(() => {});
        devices.forEach((device) => device.write(Buffer.alloc(20_000)));
      }, 100);
      try {
        await page.waitForSelector(".problem[data-kind=drop]");
        await page.waitForSelector(".problem[data-kind=buffers]");
      } finally {
        clearInterval(flood);
      }
      await page.click(".problem[data-kind=drop]");
      await eventually("the port that drops is found", async () => (await texts(page, "#list-body .row:not([hidden]) [role=gridcell]:nth-child(2)")).join() === `udp ${udp}`);
      await page.click(".problem[data-kind=buffers]");
      assert.match(await page.inputValue("#search"), /^shard:[01]$/);
      await picture(page, "problems");
    } finally {
      await daemon.stop();
    }
  },

  "what is lost is greyed with its age, and comes back": async (browser) => {
    const daemon = await Daemon.start();
    try {
      const tcp = await freePort();
      await daemon.driver("tcp", tcp, "127.0.0.0/8", "mod-1");
      await daemon.devices(tcp, 40, 6);
      const page = await visit(browser, daemon);
      await enter(page);
      await eventually("devices are counted", async () => (await page.textContent("[data-tile=devices] .value")) === "40");
      daemon.process.kill("SIGKILL");
      await daemon.ended;
      await page.waitForSelector("#lost:not([hidden])");
      assert.equal(await page.textContent("#state-text"), "No answer");
      await page.waitForFunction(() => /is [3-9] s old/.test(document.getElementById("lost-text").textContent));
      assert.match(await page.evaluate(() => getComputedStyle(document.querySelector(".content")).filter), /grayscale/);
      assert.equal(await page.textContent("[data-tile=devices] .value"), "40", "what was known last is still shown");
      assert.deepEqual(await findFaults(page), []);
      for (const scheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme: scheme });
        await picture(page, `lost-${scheme}`);
      }
      await daemon.spawn();
      await page.waitForSelector("#lost", { state: "hidden" });
      assert.equal(await page.textContent("#state-text"), "Serving");
      await eventually("the new one has none", async () => (await page.textContent("[data-tile=devices] .value")) === "0");
      assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector(".content")).filter), "none");
    } finally {
      await daemon.stop();
    }
  },

  "a drain is seen": async (browser) => {
    const daemon = await Daemon.start("--outbox-bytes-max", "204800", "--socket-bytes", "4096");
    try {
      const tcp = await freePort();
      await daemon.driver("tcp", tcp, "127.0.0.0/8", "mod-1", "stall");
      const [device] = await daemon.devices(tcp, 1, 7);
      const page = await visit(browser, daemon);
      await enter(page);
      device.write(Buffer.alloc(8 << 20));
      await sleep(1000);
      daemon.process.kill("SIGTERM");
      await page.waitForFunction(() => document.getElementById("state-text").textContent === "Draining");
      await picture(page, "draining");
    } finally {
      await daemon.stop();
    }
  },
};
