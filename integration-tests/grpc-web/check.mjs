// A client of the trade over gRPC-Web, and the one of the example page beside it: both have to be told the same.
//
//     node check.mjs HTTP_ADDRESS DESCRIPTOR_SET CLIENT_JS USER    somebody appends to USER meanwhile
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

const [baseUrl, descriptors, clientJs, user] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const transport = createGrpcWebTransport({ baseUrl });
const client = (service) => createClient(registry.getService(`merganser.v1.${service}`), transport);
const [stats, views] = [client("UserStatsService"), client("ViewService")];
const page = await import(pathToFileURL(clientJs));

const nobody = await stats.getUserStats({ userId: "nobody" });
assert.equal(nobody.stats.found, false);
const both = await stats.batchGetUserStats({ userIds: [user, "nobody"] });
assert.deepEqual(both.stats.map((one) => one.found), [true, false]);
assert.ok((await views.listViews({})).views.some((view) => view.name === "user_stats"));

const refused = await stats.getUserStats({ userId: "" }).catch((error) => error);
assert.ok(refused instanceof ConnectError && refused.code === Code.InvalidArgument, String(refused));
const names = refused.details.map((detail) => detail.type).sort();
assert.deepEqual(names, ["google.rpc.BadRequest", "google.rpc.ErrorInfo"]);
await assert.rejects(async () => {
  for await (const answer of page.answers(baseUrl, "GetUserStats", page.textField(1, ""))) assert.fail(String(answer));
}, (error) => error.code === 3 && error.message === refused.rawMessage);

const [seen, seenByPage, stop] = [[], [], new AbortController()];
for await (const { stats: now, unchanged } of stats.watchUserStats({ userId: user }, { signal: stop.signal })) {
  if (unchanged) continue;
  seen.push(Number(now.eventCount));
  if (seen.length === 3) break;
}
for await (const answer of page.answers(baseUrl, "WatchUserStats", page.textField(1, user), { signal: stop.signal })) {
  const now = page.statistics(answer);
  if (!now) continue;
  seenByPage.push(now.events);
  assert.equal(now.events, now.batch + now.speed);
  assert.equal(Number(now.revenue), 1.5 * now.events);
  if (seenByPage.length === 3) break;
}
stop.abort();
for (const counts of [seen, seenByPage]) assert.ok(counts[0] < counts[1] && counts[1] < counts[2], String(counts));
console.log("ok");
