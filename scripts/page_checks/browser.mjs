// The browser, and what every check does with the page.

import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { TOKEN } from "./daemon.mjs";

const require = createRequire(new URL("../../.page/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const SIZES = { phone: { width: 390, height: 844 }, desk: { width: 1440, height: 900 }, wall: { width: 3840, height: 2160 } };

export async function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
}

/** A page of the daemon; what it complains of fails the check. */
export async function visit(browser, daemon, { size = "desk", scheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: SIZES[size], colorScheme: scheme, hasTouch: size === "phone", isMobile: size === "phone" });
  const page = await context.newPage();
  page.faults = [];
  page.requests = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (message) => {
    // Chromium reports each answer of 400 or more, and each failed request; those are the daemon's.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
  });
  page.on("request", (request) => page.requests.push(request.url()));
  await page.goto(daemon.url);
  return page;
}

export async function enter(page) {
  await page.fill("#token", TOKEN);
  await page.click("#gate-go");
  await page.waitForSelector("#app:not([hidden])");
}

/** Looks for faults that matter. axe is run beside the page's policy, in a world of its own. */
export async function findFaults(page) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId: contextId } = await session.send("Page.createIsolatedWorld", { frameId: frameTree.frame.id });
  const run = async (expression) => {
    const { result, exceptionDetails } = await session.send("Runtime.evaluate", { expression, contextId, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  await run(axe);
  const found = JSON.parse(await run("axe.run().then((found) => JSON.stringify(found.violations))"));
  await session.detach();
  return found.filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.html.slice(0, 120)} ${node.failureSummary}`).join(" | ")}`);
}

let pictures = ".page/pictures";
export function picturesTo(folder) {
  pictures = folder;
}

export async function picture(page, name) {
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`) });
}

export const texts = (page, selector) => page.$$eval(selector, (elements) => elements.map((element) => element.textContent.trim()));
/** Texts of a column of the rows in sight, in the order of the screen. */
export const cells = (page, column) => page.$$eval("#list-body .row:not([hidden])", (rows, at) => rows
  .map((row) => [row.getBoundingClientRect().top, row.children[at].textContent])
  .sort((one, other) => one[0] - other[0]).map(([, text]) => text), column);
