// Runs the checks in order, and says of each whether it passed.

import { launch, picturesTo } from "./browser.mjs";
import { town } from "./daemon.mjs";
import { checks as functions } from "./functions.mjs";
import { checks as disconnecting } from "./disconnecting.mjs";
import { checks as life } from "./life.mjs";
import { checks as looks } from "./looks.mjs";
import { checks as speed } from "./speed.mjs";
import { checks as story } from "./story.mjs";

const option = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? null : process.argv[at + 1];
};
const only = option("--only") ?? "";
picturesTo(option("--pictures") ?? ".page/pictures");

const wanted = (checks) => Object.entries(checks).filter(([name]) => name.includes(only));
const browser = await launch();
console.log(`Chromium ${browser.version()}`);
let failed = 0;
let passed = 0;

async function run(name, check, place) {
  const began = Date.now();
  try {
    await check(browser, place);
    passed += 1;
    console.log(`ok     ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  } finally {
    for (const context of browser.contexts()) await context.close();
  }
}

try {
  const shared = wanted({ ...looks, ...functions, ...story, ...disconnecting });
  if (shared.length) {
    const place = await town();
    for (const [name, check] of shared) await run(name, check, place);
    await place.stop();
  }
  // These have daemons of their own, as they stop them or fill them.
  for (const [name, check] of wanted({ ...life, ...speed })) await run(name, check);
} finally {
  await browser.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
