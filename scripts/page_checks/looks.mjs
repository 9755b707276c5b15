// Pictures of each state, in both colour schemes, on a phone, at a desk and on a wall; and axe on each.

import assert from "node:assert/strict";
import { cells, enter, findFaults, picture, visit } from "./browser.mjs";
import { eventually, sleep } from "./daemon.mjs";

async function look(page, name) {
  await picture(page, name);
  assert.deepEqual(await findFaults(page), [], name);
}

async function lookAtAll(browser, place, size, scheme) {
  const page = await visit(browser, place.daemon, { size, scheme });
  const named = (state) => `${size}-${scheme}-${state}`;
  await look(page, named("token"));
  await page.fill("#token", "wrong");
  await page.click("#gate-go");
  await page.waitForFunction(() => document.getElementById("gate-fault").textContent);
  await look(page, named("token-wrong"));
  await enter(page);
  await sleep(2500);
  for (const tab of ["ports", "drivers", "devices", "refused"]) {
    await page.click(`#tab-${tab}`);
    await page.mouse.move(3, 3);
    await eventually("rows are shown", async () => (await cells(page, 0)).length > 0);
    await sleep(300);
    await look(page, named(tab));
    await page.click("#list-body .row:not([hidden])");
    await page.mouse.move(3, 3);
    await sleep(200);
    await look(page, named(`${tab}-details`));
    if (tab === "devices") {
      await page.click("#details-actions button");
      await look(page, named("confirm"));
      await page.click("#confirm-cancel");
    }
    await page.click("#details-close");
  }
  await page.click("#tab-devices");
  await page.fill("#search", "nobody");
  await page.waitForFunction(() => !document.getElementById("empty").hidden);
  await look(page, named("none-found"));
  assert.deepEqual(page.faults, []);
}

const sizes = [["desk", "light"], ["desk", "dark"], ["phone", "light"], ["phone", "dark"], ["wall", "dark"]];
export const checks = Object.fromEntries(sizes.map(([size, scheme]) => [
  `every state is seen and accessible: ${size}, ${scheme}`,
  (browser, place) => lookAtAll(browser, place, size, scheme),
]));
