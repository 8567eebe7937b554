// Appends, asks, watches and fails, as ../README.md says. Messages come from the .proto files: no generated code.
//
//     npx tsx client.ts SPEED_LAYER SERVING_LAYER [CA_FILE]    http://host:port or https://host:port; a token in MERGANSER_TOKEN
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { BadRequest, ErrorInfo, RetryInfo } from "nice-grpc-error-details";
import { Status } from "nice-grpc-error-details/lib/proto/google/rpc/status.js";

const contract = new URL("../../../proto/", import.meta.url).pathname;
const files = ["ingest", "user_stats"].map((name) => `merganser/v1/${name}.proto`);
const api: any = grpc.loadPackageDefinition(loadSync(files, { includeDirs: [`${contract}proto`], keepCase: true, longs: Number, defaults: true }));
const serviceConfig = readFileSync(`${contract}service_config.json`, "utf8"); // retries and deadlines
const token = new grpc.Metadata();
if (process.env.MERGANSER_TOKEN) token.set("authorization", `Bearer ${process.env.MERGANSER_TOKEN}`);

const [speedLayer, servingLayer, caFile] = process.argv.slice(2);
function client(service: string, url: string) {
  const [scheme, address] = url.split("://");
  const credentials = scheme === "http" ? grpc.credentials.createInsecure() : grpc.credentials.createSsl(caFile ? readFileSync(caFile) : null);
  return new api.merganser.v1[service](address, credentials, { "grpc.service_config": serviceConfig });
}
const [ingest, stats] = [client("IngestService", speedLayer), client("UserStatsService", servingLayer)];
const call = (client: any, method: string, request: object): Promise<any> =>
  new Promise((resolve, reject) => client[method](request, token, (error: grpc.ServiceError | null, answer: any) => (error ? reject(error) : resolve(answer))));

function explain(error: grpc.ServiceError) {
  let line = `error: ${grpc.status[error.code]}`;
  for (const { typeUrl, value } of Status.decode(error.metadata.get("grpc-status-details-bin")[0] as Buffer).details) {
    if (typeUrl.endsWith("ErrorInfo")) line += `, reason ${ErrorInfo.decode(value).reason}`;
    if (typeUrl.endsWith("BadRequest")) line += `, field ${BadRequest.decode(value).fieldViolations[0].field}`;
    if (typeUrl.endsWith("RetryInfo")) line += `, try again after ${RetryInfo.decode(value).retryDelay!.nanos / 1e6} ms`;
  }
  console.log(line);
}

async function append(what: string, ...rows: [string, string][]): Promise<string> {
  const events = rows.map(([event_id, amount]) => ({ event_id, user_id: user, event_time: { seconds: 1795264496 }, amount }));
  const answer = await call(ingest, "AppendEvents", { events });
  const rejected = answer.rejected.map((row: any) => `, ${row.field} of ${row.event_id} rejected`).join("");
  console.log(`${what}: ${answer.accepted_count} accepted, ${answer.duplicate_count} duplicate${rejected}`);
  return answer.position;
}

const user = `typescript-${randomUUID()}`;
const orders: [string, string][] = [["e-1", "10.50"], ["e-2", "2.25"], ["e-3", "many"]];
await append("append", ...orders);
const position = await append("again", ...orders); // the same ids: safe after any error, and counted once
const { stats: one } = await call(stats, "GetUserStats", { user_id: user, min_position: position });
console.log(`get: ${one.event_count} events, revenue ${one.revenue}`);
const all = (await call(stats, "BatchGetUserStats", { user_ids: [user, "nobody"] })).stats;
console.log(`batch get: ${all.map((one: any) => (one.found ? `${one.event_count} events` : "not found")).join(", ")}`);
const later = position.replace(/=\d+/g, "=999999999"); // stands for one that the servers have not come to yet
for (const question of [{ user_id: "" }, { user_id: user, min_position: later }]) await call(stats, "GetUserStats", question).catch(explain);
try {
  const watch = { user_id: user, min_interval: { nanos: 1e8 } };
  for await (const { unchanged, stats: now } of stats.WatchUserStats(watch, token, { deadline: Date.now() + 5000 })) {
    if (unchanged) continue; // a sign of life
    console.log(`watch: ${now.event_count} events`);
    if (now.event_count === 2) await append("append", ["e-4", "1.00"]);
  }
} catch (error: any) {
  console.log(`watch: ended by ${grpc.status[error.code]}`);
}
