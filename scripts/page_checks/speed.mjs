// Five thousand rows: no frame takes longer than a person notices.

import assert from "node:assert/strict";
import { cells, enter, picture, visit } from "./browser.mjs";
import { Daemon, eventually, freePort, sleep } from "./daemon.mjs";

const ROWS = 5000;
const FRAME_MS_MAX = 100;
/** Other programs take the processor at times: the best of so many is the page's own. */
const TRIES = 3;
/** Where an empty page has frames as long as this, the machine is too busy for frames to say anything. */
const NOISE_MS_MAX = 50;

/** The longest frame while something is done, and the longest task of the page's thread by its own time. */
async function longest(page, act) {
  const session = await page.context().newCDPSession(page);
  const tasks = [];
  session.on("Tracing.dataCollected", ({ value }) => tasks.push(...value.filter(({ name, tdur }) => name.endsWith("RunTask") && tdur)));
  await session.send("Tracing.start", { categories: "disabled-by-default-devtools.timeline,toplevel", transferMode: "ReportEvents" });
  await page.evaluate(() => {
    window.frames_ms = [];
    let last = performance.now();
    const next = (at) => {
      window.frames_ms.push(at - last);
      last = at;
      window.frames_end || requestAnimationFrame(next);
    };
    window.frames_end = false;
    requestAnimationFrame(next);
  });
  await act();
  const frames = await page.evaluate(() => {
    window.frames_end = true;
    return window.frames_ms;
  });
  const complete = new Promise((resolve) => session.once("Tracing.tracingComplete", resolve));
  await session.send("Tracing.end");
  await complete;
  await session.detach();
  return { frame: Math.max(...frames), frames: frames.length, task: Math.max(0, ...tasks.map(({ tdur }) => tdur / 1000)) };
}

/** The longest frame of a page that does nothing. */
async function noise(browser) {
  const page = await browser.newPage();
  const { frame } = await longest(page, () => sleep(5000));
  await page.close();
  return frame;
}

async function use(page) {
  const box = await page.locator("#list").boundingBox();
  await page.mouse.move(box.x + 200, box.y + 200);
  for (let turn = 0; turn < 60; turn += 1) {
    await page.mouse.wheel(0, 900);
    await sleep(16);
  }
  await page.mouse.move(3, 3);
  await page.focus("#list");
  for (const key of ["End", "Home", "PageDown", "PageDown"]) await page.keyboard.press(key);
  for (const column of ["address", "in", "seen"]) {
    await page.click(`[data-column=${column}]`);
    await sleep(300);
  }
  await page.keyboard.press("/");
  await page.keyboard.type("127.8.1.");
  await sleep(800);
  await page.keyboard.press("Escape");
  // A refresh or two of everything.
  await sleep(5000);
}

export const checks = {
  "five thousand rows move without a frame over 100 ms": async (browser) => {
    const daemon = await Daemon.start();
    try {
      const ports = [await freePort(), await freePort(), await freePort()];
      for (const port of ports) await daemon.driver("tcp", port, "127.0.0.0/8", `mod-${port}`, "echo");
      const devices = [];
      for (const [at, port] of ports.entries()) devices.push(...(await daemon.devices(port, Math.ceil(ROWS / 3), 8 + at)));
      const talk = setInterval(() => devices.forEach((device, at) => at % 50 === 0 && device.write("hello")), 500);
      const page = await visit(browser, daemon);
      await enter(page);
      await page.keyboard.press("3");
      await eventually("all rows are there", async () => Number(await page.getAttribute("#list", "aria-rowcount")) > ROWS);
      await eventually("rows are shown", async () => (await cells(page, 0)).length > 10);
      let best;
      let noiseLeast = Infinity;
      for (let turn = 0; turn < TRIES && !(best?.frame <= FRAME_MS_MAX); turn += 1) {
        const found = await longest(page, () => use(page));
        const around = await noise(browser);
        noiseLeast = Math.min(noiseLeast, around);
        console.log(`       longest frame ${found.frame.toFixed(0)} ms of ${found.frames}, longest task ${found.task.toFixed(0)} ms of processor; an empty page's frame ${around.toFixed(0)} ms`);
        if (!best || found.frame < best.frame) best = found;
      }
      clearInterval(talk);
      await picture(page, "five-thousand");
      if (best.frame > FRAME_MS_MAX && noiseLeast > NOISE_MS_MAX) console.log("       THE MACHINE IS BUSY: only processor time was judged");
      else assert.ok(best.frame <= FRAME_MS_MAX, `a frame took ${best.frame.toFixed(0)} ms`);
      assert.ok(best.task <= FRAME_MS_MAX, `a task took ${best.task.toFixed(0)} ms`);
      assert.deepEqual(page.faults, []);
    } finally {
      await daemon.stop();
    }
  },
};
