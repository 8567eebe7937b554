// The layers as processes, on free ports, with a folder of their own. Everything that is started is stopped by its own handle.
import { spawn } from "node:child_process";
import { createWriteStream, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const BIN = process.env.BIN;
const START_PATIENCE_MS = 60_000;

async function freePort() {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

export class World {
  constructor(folder, ports) {
    Object.assign(this, { folder, ports, running: new Map() });
    this.config = join(folder, "settings.toml");
    this.console = `http://127.0.0.1:${ports.console}`;
  }

  /** A world with nothing in it. */
  static async make() {
    const folder = mkdtempSync(join(tmpdir(), "merganser-web-"));
    const ports = {};
    for (const name of ["speed", "speedHttp", "serving", "console"]) ports[name] = await freePort();
    const world = new World(folder, ports);
    mkdirSync(join(folder, "logs"));
    cpSync(process.env.VIEWS, join(folder, "views"), { recursive: true, filter: (path) => !path.includes("/src") && !path.includes("/tests") });
    const at = (name) => `127.0.0.1:${ports[name]}`;
    writeFileSync(world.config, `
[events.attributes]
country = "string"
description = "string"
invoice_no = "string"
quantity = "int64"
stock_code = "string"
unit_price = "decimal(18,4)"
[store]
url = "${join(folder, "store")}"
[views]
dir = "${join(folder, "views")}"
[log]
dir = "${folder}"
partitions = 2
[speed_layer]
grpc_address = "${at("speed")}"
http_address = "${at("speedHttp")}"
poll_interval = "100ms"
[batch_layer]
speed_layer = "http://${at("speed")}"
lease_ttl = "2s"
[serving_layer]
grpc_address = "${at("serving")}"
http_address = "${at("console")}"
speed_layer = "http://${at("speed")}"
poll_interval = "100ms"
`);
    return world;
  }

  /** The same settings and some more, in a file of their own. */
  settingsWith(text) {
    const file = join(this.folder, "more settings.toml");
    writeFileSync(file, readFileSync(this.config, "utf8") + text);
    return file;
  }

  /** Starts `<name> serve` and waits until it says that it listens. */
  async serve(name, config = this.config) {
    const log = createWriteStream(join(this.folder, "logs", `${name}.log`), { flags: "a" });
    const child = spawn(join(BIN, name), ["--config", config, "serve"], { stdio: ["ignore", "pipe", "pipe"] });
    this.running.set(name, child);
    child.stderr.pipe(log);
    let said = "";
    await new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${name} did not start: ${said}`)), START_PATIENCE_MS);
      child.once("exit", (code) => { clearTimeout(late); reject(new Error(`${name} ended with ${code}; its log is in ${this.folder}/logs`)); });
      child.stdout.on("data", (data) => {
        said += data;
        if (said.includes("listening on") && (name !== "serving-layer" || said.includes("console at"))) { clearTimeout(late); resolve(); }
      });
    });
  }

  /** Ends a server and waits until it is gone. */
  async stop(name, signal = "SIGTERM") {
    const child = this.running.get(name);
    if (!child || child.exitCode !== null || child.signalCode) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    const late = setTimeout(() => child.kill("SIGKILL"), 10_000);
    await gone;
    clearTimeout(late);
    this.running.delete(name);
  }

  /** Starts a program; `ended` is what it came to. */
  start(name, ...args) {
    const child = spawn(join(BIN, name), ["--config", this.config, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    child.stdout.on("data", (data) => { said += data; });
    child.stderr.on("data", (data) => { said += data; });
    this.running.set(`${name} ${args.join(" ")}`, child);
    return { child, ended: new Promise((resolve) => child.once("exit", (code) => resolve({ code, said }))) };
  }

  /** Runs a program to its end. */
  async run(name, ...args) {
    return await this.start(name, ...args).ended;
  }

  /** Sends events. */
  async load(events) {
    const file = join(this.folder, `events-${Math.random().toString(36).slice(2)}.jsonl`);
    writeFileSync(file, events.map((event) => JSON.stringify(event)).join("\n") + "\n");
    return await this.run("speed-layer", "load", file);
  }

  /** Whether a run has said in the store how far it is. */
  saysHowFar() {
    const runs = join(this.folder, "store", "runs");
    return existsSync(runs) && readdirSync(runs).some((view) => {
      const progress = join(runs, view, "progress");
      return existsSync(progress) && readdirSync(progress).some((file) => file.endsWith(".json"));
    });
  }

  async end() {
    for (const name of [...this.running.keys()]) await this.stop(name);
    if (!process.env.KEEP) rmSync(this.folder, { recursive: true, force: true });
  }
}

let serial = 0;
/** An event of `user` on a day, counted from 2026-11-01. */
export function event(user, day, more = {}) {
  const time = new Date(Date.UTC(2026, 10, 1 + day, 12, 0, 0)).toISOString();
  serial += 1;
  return { event_id: `e${serial}`, user_id: user, event_time: time, event_type: "purchase", amount: "12.50", attributes: { stock_code: `item-${serial % 40}`, country: "Norway", quantity: "2", unit_price: "6.25" }, ...more };
}
