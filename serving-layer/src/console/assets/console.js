// Asks for the same page again and takes over what has changed; copies lines. Every page is whole without it.
"use strict";

const PATIENCE_MS = 8000;
const LONGEST_PAUSE_MS = 30000;

/** The page as it is now, parsed; no script in it runs. */
async function fetchPage() {
  const answer = await fetch(location.href, { headers: { "x-live": "1" }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) throw new Error("You are signed out. Load the page again to sign in.");
  const text = await answer.text();
  const page = new DOMParser().parseFromString(text, "text/html");
  // A page that cannot be made is a line of text, which has none of these.
  if (!page.querySelector("#health")) throw new Error("The server is busy; trying again.");
  return page;
}

/** Takes over one element, but for what a person has opened, chosen or is at in it. */
function takeOver(old, fresh) {
  const selection = document.getSelection();
  const isSelecting = selection && !selection.isCollapsed && old.contains(selection.anchorNode);
  if (isSelecting) return;
  const wasOpen = new Map([...old.querySelectorAll("details[id]")].map((details) => [details.id, details.open]));
  for (const details of fresh.querySelectorAll("details[id]")) {
    if (wasOpen.has(details.id)) details.open = wasOpen.get(details.id);
  }
  old.className = fresh.className;
  if (old.innerHTML === fresh.innerHTML) return;
  const scrolled = [...old.querySelectorAll(".scroll, pre")].map((box) => [box.scrollLeft, box.scrollTop]);
  // Where the focus is in it: the same element, by its place, has it afterwards.
  const focusable = "a, button, summary, pre, input";
  const at = [...old.querySelectorAll(focusable)].indexOf(document.activeElement);
  old.replaceChildren(...fresh.childNodes);
  [...old.querySelectorAll(".scroll, pre")].forEach((box, i) => { if (scrolled[i]) [box.scrollLeft, box.scrollTop] = scrolled[i]; });
  if (at >= 0) old.querySelectorAll(focusable)[at]?.focus({ preventScroll: true });
}

const lost = document.getElementById("lost");
let every = Number(document.body.dataset.every);
let failures = 0;

async function lookAgain() {
  if (!document.hidden) {
    try {
      const page = await fetchPage();
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) takeOver(old, fresh);
      }
      const title = page.title;
      if (document.title !== title) document.title = title;
      if (failures) lost.textContent = "";
      failures = 0;
      every = Number(page.body.dataset.every ?? 0);
    } catch (failure) {
      failures += 1;
      // One that was cut off because its connection was old is no news.
      if (failures > 1) lost.textContent = failure.name === "TypeError" || failure.name === "TimeoutError" ? "The server cannot be reached; what you see is old. Trying again." : failure.message;
    }
  }
  if (every) setTimeout(lookAgain, Math.min(every * 2 ** Math.max(0, failures - 1), LONGEST_PAUSE_MS));
}
if (every) setTimeout(lookAgain, every);
document.addEventListener("visibilitychange", () => { if (!document.hidden) failures = 0; });

for (const button of document.querySelectorAll("[data-copy]")) {
  const text = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      // Without a secure context there is no clipboard: it is chosen, and the keys do the rest.
      document.getSelection().selectAllChildren(text);
      button.textContent = "Chosen";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
