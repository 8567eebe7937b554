// The example page in a real browser: it shows what its user has, and what is added while it is open.
//
//     node page.mjs CHROMIUM PAGE_ADDRESS HTTP_ADDRESS USER    somebody appends to USER meanwhile
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [executablePath, address, server, user] = process.argv.slice(2);
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args: quiet });
try {
  const page = await browser.newPage();
  const failures = [];
  page.on("pageerror", (error) => failures.push(String(error)));
  page.on("console", (message) => message.type() === "error" && !message.location().url.endsWith("/favicon.ico") && failures.push(message.text()));
  await page.goto(`${address}?${new URLSearchParams({ user, server })}`);
  const shown = async () => Number((await page.textContent("output")).match(/^(\d+) events, revenue/)?.[1] ?? 0);
  await page.waitForFunction(() => document.querySelector("output").textContent.includes(" events"));
  const first = await shown();
  await page.waitForFunction((first) => parseInt(document.querySelector("output").textContent) > first, first);
  assert.ok((await page.textContent("#where")).includes(" live"));
  await page.fill("[name=user]", "");
  await page.fill("[name=user]", "nobody \u{1F986}?#%");
  await page.click("button");
  await page.waitForFunction(() => document.querySelector("output").textContent.startsWith("0 events"));
  assert.deepEqual(failures, []);
  console.log("ok");
} finally {
  await browser.close();
}
