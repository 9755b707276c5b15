#!/usr/bin/env node
// A driver for devices that speak in lines: it sends each line of a device back to it.
//
//     TOKEN=testing node docs/drivers/driver.mjs ws://127.0.0.1:3000 6001 127.0.0.1,::1
//
// Node has a WebSocket client from version 22 on (20 with --experimental-websocket); with an older one, install `ws`.

import { setTimeout as sleep } from "node:timers/promises";

const WebSocket = globalThis.WebSocket ?? (await import("ws")).default;

const [OPENED, CLOSED, RECEIVED, WRITE, CLOSE] = [0, 1, 2, 3, 4];
const PAUSE_MS_MIN = 1_000;
const PAUSE_MS_MAX = 10_000;
const LINE_BYTES_MAX = 64 * 1024;
const NEWLINE = 10;

/** The type, the device and the data of a message. Ids have 64 bits: more than a Number holds. */
function decode(message) {
  const end = message.indexOf(0, 1);
  const device = { address: message.toString("ascii", 1, end), id: message.readBigUInt64BE(end + 1) };
  return { kind: message[0], device, data: message.subarray(end + 13, end + 13 + message.readUInt32BE(end + 9)) };
}

function encode(kind, device, data = Buffer.alloc(0)) {
  const numbers = Buffer.alloc(12);
  numbers.writeBigUInt64BE(device.id);
  numbers.writeUInt32BE(data.length, 8);
  return Buffer.concat([Buffer.from([kind]), Buffer.from(`${device.address}\0`, "ascii"), numbers, data]);
}

/** Takes one message of a session. `unfinished` is what each device has sent of a line that has not ended. */
function take(message, unfinished, send) {
  const { kind, device, data } = decode(message);
  if (kind === OPENED) {
    unfinished.set(device.id, Buffer.alloc(0));
  } else if (kind === CLOSED) {
    unfinished.delete(device.id);
  } else if (kind === RECEIVED) {
    // A read is not a line: it may hold a part of one, or several.
    let rest = Buffer.concat([unfinished.get(device.id), data]);
    for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
      send(encode(WRITE, device, rest.subarray(0, end + 1)));
      rest = rest.subarray(end + 1);
    }
    if (rest.length > LINE_BYTES_MAX) {
      rest = Buffer.alloc(0);
      send(encode(CLOSE, device));
    }
    unfinished.set(device.id, rest);
  }
}

/** Serves one session to its end, and tells whether it was joined. */
function attend(url, headers) {
  return new Promise((ended) => {
    let isJoined = false;
    // The session's own, as ids start again with the next.
    const unfinished = new Map();
    const socket = new WebSocket(url, { headers });
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      isJoined = true;
      console.log("joined");
    });
    socket.addEventListener("message", ({ data }) => {
      take(Buffer.from(data), unfinished, (message) => socket.send(message));
    });
    // Where a join is refused, some clients report an error and no close.
    socket.addEventListener("error", ({ message }) => {
      console.log(`failed: ${message}`);
      ended(isJoined);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      console.log(`closed with ${code} ${reason}`);
      ended(isJoined);
    });
  });
}

const [daemon, port, accept] = process.argv.slice(2);
const url = `${daemon}/api/dispatch/v1/tcp_dispatch?${new URLSearchParams({ port, accept })}`;
const headers = { Authorization: `Bearer ${process.env.TOKEN}`, "X-Module-ID": "node-driver" };
for (let pauseMs = PAUSE_MS_MIN; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
  if (await attend(url, headers)) {
    pauseMs = PAUSE_MS_MIN;
  }
  await sleep(pauseMs);
}
