// A real daemon, its drivers and its devices.

import { spawn } from "node:child_process";
import http from "node:http";
import net from "node:net";
import dgram from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const TOKEN = "page-secret";
const BASE = "/api/dispatch/v1";
const PATIENCE_MS = 30_000;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until there is an answer. */
export async function eventually(what, probe) {
  const deadline = Date.now() + PATIENCE_MS;
  let last;
  while (Date.now() < deadline) {
    try {
      const answer = await probe();
      if (answer) return answer;
    } catch (error) {
      last = error;
    }
    await sleep(50);
  }
  throw new Error(`not within ${PATIENCE_MS} ms: ${what}${last ? `: ${last.message}` : ""}`);
}

export async function freePort() {
  const probe = net.createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** A WebSocket frame of a program: masked, with a mask of zeros. */
function frame(payload) {
  const short = payload.length < 126;
  const head = Buffer.alloc(short ? 6 : 8);
  head[0] = 0x82;
  head[1] = 0x80 | (short ? payload.length : 126);
  if (!short) head.writeUInt16BE(payload.length, 2);
  return Buffer.concat([head, payload]);
}

/** Answers every RECEIVED with a WRITE of the same. */
function echo(socket) {
  let pending = Buffer.alloc(0);
  socket.on("data", (data) => {
    pending = Buffer.concat([pending, data]);
    for (;;) {
      if (pending.length < 2) return;
      const length = pending[1] & 127;
      const head = length < 126 ? 2 : length === 126 ? 4 : 10;
      if (pending.length < head) return;
      const size = length < 126 ? length : length === 126 ? pending.readUInt16BE(2) : Number(pending.readBigUInt64BE(2));
      if (pending.length < head + size) return;
      const message = pending.subarray(head, head + size);
      pending = pending.subarray(head + size);
      if (message[0] === 2) socket.write(frame(Buffer.concat([Buffer.from([3]), message.subarray(1)])));
    }
  });
}

export class Daemon {
  static async start(...flags) {
    const daemon = new Daemon();
    daemon.port = await freePort();
    daemon.folder = mkdtempSync(join(tmpdir(), "dispatch-page-"));
    daemon.ends = [];
    daemon.flags = flags;
    await daemon.spawn();
    return daemon;
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  async spawn() {
    const log = openSync(join(this.folder, "log"), "a");
    const settings = { PATH: process.env.PATH, PLACE_SERVER_SECRET: TOKEN, SECRETS_PATH: "/nonexistent", LOG_LEVEL: "warn" };
    const own = ["-b", "127.0.0.1", "-p", String(this.port), "-w", "2", "--pin", "off"];
    this.process = spawn(process.env.DISPATCH_BIN, [...own, ...this.flags], { env: settings, stdio: ["ignore", log, log] });
    this.ended = once(this.process, "exit");
    await eventually("the daemon is healthy", async () => (await fetch(`${this.url}api/server/healthz`)).ok);
  }

  async ask(path, method = "GET") {
    const answer = await fetch(`http://127.0.0.1:${this.port}${BASE}/${path}`, { method, headers: { Authorization: `Bearer ${TOKEN}` } });
    return answer.json();
  }

  /** A driver; `acts` is echo, sink or stall. */
  async driver(transport, port, accept, module, acts = "sink") {
    const query = new URLSearchParams({ port, accept });
    const headers = {
      Authorization: `Bearer ${TOKEN}`, Connection: "Upgrade", Upgrade: "websocket",
      "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": Buffer.alloc(16).toString("base64"),
      ...(module ? { "X-Module-ID": module } : {}),
    };
    const request = http.request({ host: "127.0.0.1", port: this.port, path: `${BASE}/${transport}_dispatch?${query}`, headers }).end();
    const socket = await new Promise((resolve, reject) => {
      request.on("upgrade", (response, upgraded, head) => {
        if (head.length) upgraded.unshift(head);
        resolve(upgraded);
      });
      request.on("response", (response) => reject(new Error(`a join was refused: ${response.statusCode}`)));
      request.on("error", reject);
    });
    socket.on("error", () => {});
    if (acts === "echo") echo(socket);
    else if (acts === "sink") socket.resume();
    else socket.pause();
    this.ends.push(socket);
    return socket;
  }

  /** A device at this address. */
  async device(port, localAddress) {
    const socket = net.connect({ host: "127.0.0.1", port, localAddress });
    socket.on("error", () => {});
    await once(socket, "connect");
    socket.setNoDelay(true).resume();
    this.ends.push(socket);
    return socket;
  }

  /** So many devices, each at an address of its own in 127.x.y.z. */
  async devices(port, number, block = 1) {
    const all = [];
    for (let at = 0; at < number; at += 50) {
      const some = Array.from({ length: Math.min(50, number - at) }, (_, more) => {
        const host = at + more;
        return this.device(port, `127.${block}.${host >> 8}.${1 + (host & 255) % 254}`);
      });
      all.push(...(await Promise.all(some)));
    }
    return all;
  }

  /** A datagram from an address. */
  datagram(port, bytes, localAddress = "127.0.0.1") {
    const socket = dgram.createSocket("udp4");
    return new Promise((resolve, reject) => {
      socket.bind(0, localAddress, () => socket.send(bytes, port, "127.0.0.1", (error) => {
        socket.close();
        if (error) reject(error);
        else resolve();
      }));
    });
  }

  async stop() {
    this.ends.forEach((socket) => socket.destroy());
    this.process.kill("SIGKILL");
    await this.ended;
    rmSync(this.folder, { recursive: true });
  }
}

/** These drivers answer no ping. */
const PATIENT = ["--driver-silence-ms-max", "3600000"];

/**
 * What most checks look at: an echoing driver with 600 devices, two that share 300, one of UDP, one that never reads, and
 * some that are refused. Some devices talk all the time; others say nothing.
 */
export async function town() {
  const daemon = await Daemon.start("--outbox-bytes-max", "204800", "--stall-ms-max", "3600000", ...PATIENT);
  const [lights, meters, doors, traps, slow, quiet] = await Promise.all(Array.from({ length: 6 }, freePort));
  await daemon.driver("tcp", lights, "127.1.0.0/16", "mod-lights-7Qm", "echo");
  await daemon.driver("tcp", meters, "127.2.0.0/16", "mod-meters-a");
  await daemon.driver("tcp", meters, "127.0.0.0/8", "mod-meters-b");
  await daemon.driver("tcp", doors, "127.3.0.0/16,10.0.0.0/8", "mod-doors", "echo");
  await daemon.driver("udp", traps, "127.0.0.1", "mod-snmp-traps");
  await daemon.driver("tcp", slow, "127.0.0.0/8", "mod-archive", "stall");
  await daemon.driver("tcp", quiet, "10.20.0.0/16");
  const talking = await daemon.devices(lights, 600, 1);
  const silent = await daemon.devices(meters, 300, 2);
  talking.push(...(await daemon.devices(doors, 120, 3)));
  const flooding = await daemon.devices(slow, 4, 4);
  let turn = 0;
  const timer = setInterval(() => {
    turn += 1;
    talking.forEach((device, at) => (at + turn) % 20 === 0 && device.write(Buffer.alloc(40 + 9 * (at % 30), "x")));
    for (let at = 0; at < 8; at += 1) daemon.datagram(traps, Buffer.alloc(180), "127.0.0.1").catch(() => {});
    if (turn % 5 === 0) daemon.datagram(traps, "stranger", "127.9.0.1").catch(() => {});
  }, 100);
  // More than its driver and the buffers between can hold.
  flooding.forEach((device) => device.write(Buffer.alloc(4 << 20)));
  for (const address of ["127.66.0.1", "127.66.0.2"]) {
    await daemon.device(lights, address).catch(() => {});
  }
  await fetch(`${daemon.url}api/dispatch/v1`, { headers: { Authorization: "Bearer wrong" } });
  const stop = async () => {
    clearInterval(timer);
    await daemon.stop();
  };
  return { daemon, stop, ports: { lights, meters, doors, traps, slow, quiet }, silent, talking };
}
