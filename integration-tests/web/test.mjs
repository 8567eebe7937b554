// The console as a person meets it, in Chromium. Run by integration-tests/web/run, which says what it needs.
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { World, event } from "./world.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const SHOTS = join(HERE, "screenshots");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE_MS = 20_000;
const ONLY = process.argv[2];
mkdirSync(SHOTS, { recursive: true });

const profile = mkdtempSync(join(tmpdir(), "merganser-chromium-"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  env: { ...process.env, HOME: profile },
});

let passed = 0;
let failed = 0;
/** What a browser complained of, of all pages; each test expects none. */
let complaints = [];

function assert(truth, words) {
  if (!truth) throw new Error(words);
}

/** A page of a new browser context, whose every complaint and every request is looked at. */
async function open(world, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.expectedFailures = [];
  page.on("console", (message) => {
    const expected = page.expectedFailures.some((part) => message.text().includes(part));
    if (["error", "warning"].includes(message.type()) && !expected) complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => { complaints.push(`dialog: ${dialog.message()}`); void dialog.dismiss(); });
  page.on("request", (request) => {
    if (!request.url().startsWith(world.console + "/")) complaints.push(`a request to another host: ${request.url()}`);
  });
  page.visit = async (path) => await page.goto(world.console + path);
  page.user = async (id) => await page.goto(`${world.console}/users?id=${encodeURIComponent(id)}`);
  page.shot = async (name) => await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
  page.says = async (text, selector = "body") => await page.locator(selector).filter({ hasText: text }).first().waitFor();
  return page;
}

/** What axe finds wrong with the page as it is. */
async function accessible(page, where) {
  // Evaluated by the debugger, which the page's own policy does not hold back.
  const found = await page.evaluate(`${AXE}; axe.run(document, { resultTypes: ["violations"] }).then((r) => r.violations.map((v) => v.id + ": " + v.help + " — " + v.nodes.map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? "")).slice(0, 3).join(" | ")))`);
  assert(found.length === 0, `axe on ${where}:\n    ${found.join("\n    ")}`);
}

async function test(name, body) {
  if (ONLY && !name.includes(ONLY)) return;
  const began = Date.now();
  complaints = [];
  try {
    await body();
    assert(complaints.length === 0, complaints.slice(0, 5).join("\n    "));
    passed += 1;
    console.log(`ok      ${name}  (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (failure) {
    failed += 1;
    console.log(`FAILED  ${name}\n    ${String(failure.stack ?? failure).split("\n").slice(0, 8).join("\n    ")}`);
    for (const context of browser.contexts()) for (const page of context.pages()) await page.screenshot({ path: join(SHOTS, `failed-${failed}.png`) }).catch(() => {});
  }
  for (const context of browser.contexts()) await context.close();
}

/** The same with tokens for the serving layer: who may look, and who may act. */
async function withTokens() {
  const tokens = { looks: "mgs_looks-0123456789", acts: "mgs_acts-0123456789" };
  const hash = (token) => createHash("sha256").update(token).digest("hex");
  const locked = await World.make();
  writeFileSync(join(locked.folder, "tokens.toml"), `
[[client]]
name = "ann"
token_sha256 = "${hash(tokens.looks)}"
scopes = ["query"]
[[client]]
name = "root"
token_sha256 = "${hash(tokens.acts)}"
scopes = ["query", "admin"]
`);
  const settings = locked.settingsWith(`[auth]\ntokens = "${join(locked.folder, "tokens.toml")}"\naudit_file = "${join(locked.folder, "audit.jsonl")}"\n`);
  try {
    await locked.serve("speed-layer");
    await locked.serve("serving-layer", settings);
    const sent = await locked.load([event("user-1", 1), event("user-1", 2)]);
    assert(sent.code === 0, sent.said);
    for (let run = 0; run < 2; run += 1) {
      await locked.load([event("user-1", 3 + run)]);
      const ran = await locked.run("batch-layer", "--view", "user_stats", "run");
      assert(ran.code === 0, ran.said);
    }
    const signIn = async (page, token) => {
      await page.locator("#token").fill(token);
      await page.locator("#token").press("Enter");
    };

    await test("with tokens nobody looks without one, and goes on where he wanted to", async () => {
      const page = await open(locked);
      await page.user("user-1");
      await page.says("Sign in", "h1");
      await page.shot("sign-in");
      await accessible(page, "the way in");
      page.expectedFailures.push("status of 401");
      await signIn(page, "mgs_wrong");
      await page.says("That token is not let in", "main");
      await signIn(page, tokens.looks);
      await page.says("event count", "#answer");
      const [cookie] = await page.context().cookies();
      assert(cookie.httpOnly && cookie.sameSite === "Strict" && !cookie.value.includes("mgs_"), JSON.stringify(cookie));
      assert((await page.evaluate(() => Object.keys(localStorage).length + Object.keys(sessionStorage).length)) === 0, "the browser keeps nothing");
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.says("Sign in", "h1");
      await page.visit("/runs");
      await page.says("Sign in", "h1");
    });

    await test("a user is counted again from raw events, by whoever may", async () => {
      const page = await open(locked);
      await page.user("user-1");
      await signIn(page, tokens.looks);
      await page.says("event count", "#answer");
      page.expectedFailures.push("status of 403");
      await page.locator("form.act input[type=password]").fill(tokens.looks);
      await page.getByRole("button", { name: "Recount" }).click();
      await page.says("Nothing was done", "h1");
      assert(!page.url().includes("mgs_") && !(await page.content()).includes(tokens.looks), "the token is nowhere to be seen");
      await page.goBack();
      await page.locator("form.act input[type=password]").fill(tokens.acts);
      await page.getByRole("button", { name: "Recount" }).click();
      await page.says("It went well.", "#action");
      await page.says("each equal to a fold of the raw events", "#action");
      await page.shot("recount");
      await accessible(page, "an action");
      assert(!(await page.content()).includes("mgs_"), "no token in the command");
    });

    await test("a rollback takes a look, a confirmation and a token", async () => {
      const page = await open(locked);
      await page.visit("/views/user_stats");
      await signIn(page, tokens.looks);
      await page.getByRole("link", { name: /Roll back to version 1/ }).click();
      await page.says("Roll user_stats back to version 1?", "h1");
      await page.shot("rollback");
      await accessible(page, "a rollback");
      await page.locator("form.act input[type=password]").fill(tokens.acts);
      await page.getByRole("button", { name: "Roll back" }).click();
      await page.says("It went well.", "#action");
      await page.says("published user_stats v3 with the content of v1", "#action");
      await page.getByRole("link", { name: "Back to the view" }).click();
      await page.locator("tr.current", { hasText: "3" }).waitFor();
      await page.user("user-1");
      await page.says("4", ".figures.main");
      await page.says("from version 3", "#answer");
      const acts = readFileSync(join(locked.folder, "audit.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line)).filter((line) => line.act === "rollback" && line.program === "serving-layer");
      assert(acts.map((act) => `${act.by} ${act.outcome} ${act.version}`).join(", ") === "root begun 1, root done 1", JSON.stringify(acts));
    });
  } finally {
    await locked.end();
  }
}

const PAGES = ["/", "/views", "/views/user_stats", "/runs", "/live", "/refused"];
const ODD = ["with two  spaces", "/?#%&=+", "🦆 merganser", "x".repeat(256), "<script>alert(1)</script>", "שלום עולם", "a\u202eb", "\"'><img src=x onerror=alert(1)>", "../../etc/passwd", "%2e%2e"];
const world = await World.make();

try {
  await world.serve("speed-layer");
  await world.serve("serving-layer");

  await test("an empty store has pages, says that it is empty, and knows nobody", async () => {
    const page = await open(world);
    for (const path of PAGES) {
      assert((await page.visit(path)).status() === 200, path);
      await page.says("There are no events yet, and nothing is published", "#health");
    }
    await page.visit("/");
    await page.shot("empty-home");
    await page.user("nobody");
    await page.says("No events of this user", "#answer");
    await page.visit("/views/user_stats");
    await page.says("Nothing is published yet", "#versions-list");
    await page.shot("empty-view");
  });

  const people = Array.from({ length: 60 }, (_, n) => `user-${n}`);
  const history = people.flatMap((user, n) => Array.from({ length: 10 }, (_, day) => event(user, (day * 3 + n) % 28)));
  const odd = ODD.flatMap((user) => [event(user, 1), event(user, 2)]);
  const decades = Array.from({ length: 10_000 }, (_, day) => event("decades", -10_000 + day));

  await test("events that were sent are answered live, before any run", async () => {
    const page = await open(world);
    await page.user("user-7");
    await page.says("No events of this user", "#answer");
    const sent = await world.load([...history, ...odd, ...decades]);
    assert(sent.code === 0, sent.said);
    // The page that is open takes it over by itself.
    await page.says("event count", "#answer");
    await page.says("Nothing is published yet", "#answer");
    await page.shot("live-before-any-run");
  });

  await test("a batch run is published, and an open page sees the halves move", async () => {
    const page = await open(world);
    await page.user("user-7");
    await page.says("Nothing is published yet", "#answer");
    const ran = await world.run("batch-layer", "run");
    assert(ran.code === 0, ran.said);
    await page.says("10 events from version 1", "#answer");
    await world.load([event("user-7", 27), event("user-7", 3), event("user-7", 29)]);
    await page.says("3 events that came after it", "#answer");
    await page.says("13", ".figures.main");
    assert((await page.locator("rect.batch").count()) > 1 && (await page.locator("rect.speed").count()) > 1, "both halves are drawn");
    await page.locator("#buckets summary").click();
    await page.shot("user");
    await accessible(page, "a user");
    // What is open stays open when the page looks again.
    await world.load([event("user-7", 28)]);
    await page.says("4 events that came after it", "#answer");
    assert(await page.locator("#buckets").evaluate((details) => details.open), "the table stays open");
  });

  await test("odd ids are looked up by the field as they are, and run nothing", async () => {
    const page = await open(world);
    for (const id of ODD) {
      await page.visit("/");
      await page.locator("#find-large").fill(id);
      await page.locator("#find-large").press("Enter");
      await page.says("event count", "#answer");
      await page.says("2 events from version 1", "#answer");
      assert((await page.locator("#find").inputValue()) === id, `the field keeps ${JSON.stringify(id)}`);
      const heading = await page.locator("h1").textContent();
      assert(heading === id.replace("\u202e", "\ufffd"), `${heading} is the heading`);
      assert((await page.locator("main script, main img").count()) === 0, "nothing of the id is a tag");
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
      assert(!wide, `${JSON.stringify(id)} makes the page too wide`);
    }
    await page.user("🦆 merganser");
    await page.shot("user-odd");
    page.expectedFailures.push("status of 400");
    await page.user("x".repeat(257));
    await page.says("an id has at most 256", "main");
  });

  await test("ten thousand buckets are drawn in few bars, none left out, and it is said", async () => {
    const page = await open(world);
    await page.user("decades");
    await page.says("All 10,000 buckets are drawn, in 240 bars", "figcaption");
    assert((await page.locator("rect.batch").count()) <= 241, "few bars");
    await page.locator("#buckets summary").click();
    await page.says("The newest 100 of 10,000 buckets", "#buckets");
    await page.shot("user-decades");
  });

  await test("the line to copy holds the question", async () => {
    const page = await open(world);
    await page.user("user-7");
    const line = await page.locator("#grpcurl").textContent();
    assert(line.startsWith("grpcurl -plaintext -d '{") && line.includes('"user_id":"user-7"') && line.includes(`127.0.0.1:${world.ports.serving} merganser.v1.UserStatsService/GetUserStats`), line);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.locator("[data-copy=grpcurl]").click();
    await page.says("Copied", "[data-copy=grpcurl]");
    assert((await page.evaluate(() => navigator.clipboard.readText())) === line, "the clipboard has it");
  });

  await test("views show their SQL, their versions and rows by key", async () => {
    const page = await open(world);
    await page.visit("/views");
    for (const view of ["user_stats", "item_stats", "user_activity"]) await page.says(view, "#views");
    await page.shot("views");
    await page.getByRole("link", { name: "item_stats" }).click();
    await page.says("GROUP BY", "#sql-text");
    await page.locator("#k0").fill("item-7");
    await page.getByRole("button", { name: "Show rows" }).click();
    await page.says("item-7", "#answer");
    await page.says("from version 1", "#answer");
    await page.says("equal to the", "#versions-list");
    await page.shot("view");
    await accessible(page, "a view");
    await page.locator("#k0").fill("no such item");
    await page.locator("#k0").press("Enter");
    await page.says("No events have such a key", "#answer");
  });

  await test("refused rows are told by reason, with samples of them", async () => {
    const page = await open(world);
    await page.visit("/refused");
    await page.says("None is to be looked at", "#refused");
    const bad = [1, 2, 3, 4, 5].map((n) => ({ ...event(`bad-${n}`, 1), amount: "<b>much</b>" }));
    await world.load([...bad, { ...event("late", 1), event_time: "1492-10-12T00:00:00Z" }]);
    await page.visit("/refused");
    await page.says("amount", "#refused");
    await page.says("event_time", "#refused");
    await page.says("bad-1", "#refused");
    await page.says("<b>much</b>", "#refused");
    await page.shot("refused");
    await accessible(page, "refused rows");
  });

  await test("what comes in and what is asked is told while it happens", async () => {
    const page = await open(world);
    await page.visit("/live");
    await page.says("rows a second", "#live");
    const rate = page.locator("#live .figure .value").first();
    const loading = world.load(people.flatMap((user) => Array.from({ length: 40 }, () => event(user, 5))));
    await page.waitForFunction(() => Number(document.querySelector("#live .figure .value").textContent.replace(/,/g, "")) > 1);
    assert((await rate.textContent()) !== "0", "a rate");
    await loading;
    await page.says("records in the log", "#live");
    await page.says("GetUserStats", "#questions");
    await page.shot("live");
    await accessible(page, "live");
  });

  await test("a run is seen while it goes, and one that was killed does not look alive", async () => {
    const page = await open(world);
    await page.visit("/runs");
    await page.says("No run goes on just now", "#going");
    // Enough for a run of some seconds.
    const bulk = Array.from({ length: 150_000 }, (_, n) => event(`bulk-${n % 5000}`, n % 300));
    const sent = await world.load(bulk);
    assert(sent.code === 0, sent.said);
    const run = world.start("batch-layer", "run", "--threads", "1", "--memory-limit", "4MiB");
    // As soon as it has said how far it is, it stands still.
    let ended = false;
    void run.ended.then(() => { ended = true; });
    while (!ended && !world.saysHowFar()) await page.waitForTimeout(10);
    assert(!ended, "the run ended before it was seen");
    run.child.kill("SIGSTOP");
    await page.locator("#going .tag.goes").waitFor();
    // It goes on a little at a time, as on a slow machine, and so is there to be looked at.
    const bar = page.locator("#going progress[value]");
    for (let step = 0; step < 20 && (await bar.count()) === 0; step += 1) {
      run.child.kill("SIGCONT");
      await page.waitForTimeout(100);
      run.child.kill("SIGSTOP");
      await page.waitForTimeout(2300);
    }
    await page.says("% ·", "#going");
    await page.says("events read", "#going");
    await page.shot("run-goes");
    await accessible(page, "a run that goes");
    run.child.kill("SIGKILL");
    await run.ended;
    await page.locator("#going .tag", { hasText: "silent" }).waitFor({ timeout: 40_000 });
    await page.says("Nothing was heard of this run since", "#going");
    await page.shot("run-silent");
    const again = await world.run("batch-layer", "run");
    assert(again.code === 0, again.said);
    await page.says("No run goes on just now", "#going");
    await page.says("version 2", "#reports");
    await page.locator("#reports a").first().click();
    await page.says("Published version", "main");
    await page.locator("#report summary").click();
    await page.shot("run-report");
  });

  await test("without tokens nothing acts, and the command is shown", async () => {
    const page = await open(world);
    await page.visit("/views/user_stats");
    await page.getByRole("link", { name: /Roll back to version 1/ }).click();
    await page.says("rollback 1", "main");
    assert((await page.locator("input[name=token]").count()) === 0, "no form");
    const refused = await page.request.post(`${world.console}/views/user_stats/rollback`, { form: { to: "1", token: "x" }, headers: { origin: world.console }, maxRedirects: 0 });
    assert(refused.status() === 403, `${refused.status()}`);
    const foreign = await page.request.post(`${world.console}/views/user_stats/rollback`, { form: { to: "1" }, headers: { origin: "http://evil.example" } });
    assert(foreign.status() === 403 && (await foreign.text()).includes("only a form on one of this server's own pages"), "from elsewhere");
    const rebound = await page.request.get(`${world.console}/`, { headers: { host: "evil.example" } });
    assert(rebound.status() === 421, `${rebound.status()}`);
  });

  await test("by keyboard alone: to the field, to a user, to the numbers", async () => {
    const page = await open(world);
    await page.visit("/");
    assert(await page.locator("#find-large").evaluate((field) => field === document.activeElement), "the field has the focus");
    await page.keyboard.type("user-7");
    await page.keyboard.press("Enter");
    await page.says("event count", "#answer");
    await page.keyboard.press("Tab");
    assert((await page.evaluate(() => document.activeElement.textContent)) === "Skip to the page", "first comes the way past the list");
    await page.keyboard.press("Enter");
    assert((await page.evaluate(() => document.activeElement.id)) === "main", "it goes to the page");
    for (let presses = 0; presses < 12 && !(await page.evaluate(() => document.activeElement.closest("#buckets > summary"))); presses += 1) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert(await page.locator("#buckets").evaluate((details) => details.open), "it opens");
    // A page that looks again takes the focus from nobody.
    const before = await page.locator("#answer .figures.main .value").first().textContent();
    await world.load([event("user-7", 6)]);
    await page.waitForFunction((before) => document.querySelector("#answer .figures.main .value").textContent !== before, before);
    assert(await page.evaluate(() => document.activeElement.matches("#buckets > summary")), "the focus stays");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert(outline !== "none", "the focus is seen");
  });

  await test("at the width of a phone nothing is cut off", async () => {
    const page = await open(world, { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true });
    for (const path of [...PAGES, "/users?id=user-7", "/users?id=" + "x".repeat(256), "/views/item_stats?k0=item-7&by=bucket"]) {
      await page.visit(path);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert(wide <= 0, `${path} is ${wide} px too wide`);
    }
    await page.visit("/");
    await page.shot("phone-home");
    await page.user("user-7");
    await page.shot("phone-user");
    await accessible(page, "a phone");
  });

  await test("in the dark it is dark, and can be read", async () => {
    const page = await open(world, { colorScheme: "dark" });
    for (const path of [...PAGES, "/users?id=user-7"]) {
      await page.visit(path);
      const [red, green, blue] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      assert(red + green + blue < 200, `${path} is bright`);
      await accessible(page, `${path} in the dark`);
    }
    await page.shot("dark-user");
    await page.visit("/live");
    await page.shot("dark-live");
  });

  await test("by day it can be read, on each page", async () => {
    const page = await open(world, { colorScheme: "light" });
    for (const path of PAGES) {
      await page.visit(path);
      await accessible(page, path);
    }
    await page.visit("/");
    await page.shot("home");
    await page.visit("/runs");
    await page.shot("runs");
  });

  await test("without scripts every page is whole", async () => {
    const page = await open(world, { javaScriptEnabled: false });
    await page.visit("/");
    await page.locator("#find-large").fill("user-7");
    await page.getByRole("button", { name: "Look up" }).click();
    await page.says("event count", "#answer");
    await page.getByRole("link", { name: "Live" }).click();
    await page.says("records in the log", "#live");
  });

  await test("a speed layer that dies is told, and so is its return", async () => {
    const page = await open(world);
    await page.user("user-7");
    await page.says("Fresh", "#health");
    await world.stop("speed-layer", "SIGKILL");
    await page.says("The speed layer cannot be reached", "#health");
    await page.says("Events may be missing", "#answer");
    await page.shot("speed-layer-dead");
    await accessible(page, "a dead speed layer");
    for (const path of PAGES) assert((await page.visit(path)).status() === 200, path);
    await page.user("user-7");
    await world.serve("speed-layer");
    await page.says("Fresh", "#health");
    await page.says("live", "#answer");
  });

  await test("a server that stops is told by the page that is left", async () => {
    const page = await open(world);
    page.expectedFailures.push("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "Failed to load resource");
    await page.visit("/live");
    await page.says("rows a second", "#live");
    await world.stop("serving-layer");
    await page.says("cannot be reached; what you see is old", "#lost");
    await world.serve("serving-layer");
    await page.waitForFunction(() => document.getElementById("lost").textContent === "", undefined, { timeout: 40_000 });
  });

  await withTokens();
} finally {
  await browser.close();
  await world.end();
  rmSync(profile, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
