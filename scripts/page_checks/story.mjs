// The whole way: among a thousand devices one falls silent; it is found, tapped, looked at in tshark, and disconnected.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { enter, texts, visit } from "./browser.mjs";
import { TOKEN, eventually } from "./daemon.mjs";

/** Runs a command that the page has given to copy, as a shell would; `text` is what it has printed. */
function run(command) {
  const shell = spawn("bash", ["-c", `dispatch() { exec "$DISPATCH_BIN" "$@"; }\n${command}`], {
    env: { PATH: process.env.PATH, DISPATCH_BIN: process.env.DISPATCH_BIN, PLACE_SERVER_SECRET: TOKEN, SECRETS_PATH: "/nonexistent" },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const ran = { text: "", said: "" };
  shell.stdout.on("data", (data) => (ran.text += data.toString("latin1")));
  shell.stderr.on("data", (data) => (ran.said += data));
  ran.stop = async () => {
    // The group is the shell's own, as it is detached.
    process.kill(-shell.pid, "SIGTERM");
    await once(shell, "close");
  };
  return ran;
}

function hasTshark() {
  try {
    execFileSync("tshark", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    console.log("       tshark is not there: the capture is only looked at by its first bytes");
    return false;
  }
}

export const checks = {
  "a device that falls silent is found, tapped, captured and disconnected": async (browser, { daemon, ports, talking }) => {
    const [device] = talking.splice(300, 1);
    const page = await visit(browser, daemon);
    await enter(page);
    await page.keyboard.press("3");
    await page.keyboard.press("/");
    await page.keyboard.type(`port:${ports.lights} silent:15s`);
    await page.waitForFunction(() => document.getElementById("found").textContent === "1 device found", null, { timeout: 60_000 });
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    assert.ok((await page.textContent("#details-facts")).includes(`${device.localAddress}:${device.localPort}`));
    const [watch, capture] = await texts(page, ".command code");
    const tap = run(watch);
    const captured = run(hasTshark() ? capture.replace("tshark -r -", "tshark -l -r - -x") : capture.replace(" | tshark -r -", ""));
    try {
      await eventually("both tap", () => [tap, captured].every(({ said }) => said.includes("tapping")));
      await eventually("what it sends is seen", () => {
        device.write("are you there\n");
        return tap.text.includes("are you there");
      });
      await eventually("it is in the capture", () => captured.text.includes("are you there") || captured.text.includes("61 72 65 20 79 6f 75"));
      await page.click("#details-actions button");
      await page.click("#confirm-go");
      await eventually("it is disconnected", () => device.destroyed);
      await eventually("the tap says so", () => /closed/i.test(tap.text));
    } catch (error) {
      error.message += `\ntap: ${tap.text}${tap.said}\ncapture: ${captured.text.slice(0, 500)}${captured.said}`;
      throw error;
    } finally {
      await Promise.all([tap.stop(), captured.stop()]);
    }
    assert.deepEqual(page.faults, []);
  },
};
