// The list of `tablefull serve`: new runs appear by themselves, and two can be
// chosen. Without this script the list is as it was when it was loaded.
(() => {
"use strict";

const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)"), theme = document.getElementById("theme");
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
const themed = () => theme.setAttribute("aria-pressed", String(isDark()));

const box = document.getElementById("runs"), both = document.getElementById("both"), said = document.getElementById("said");
const chosen = () => [...box.querySelectorAll("input:checked")];

function choice() {
  if (!both) return;
  const n = chosen().length;
  both.disabled = n !== 2;
  document.getElementById("choice").textContent = n === 2 ? "" : n > 2 ? `${n} chosen: two it must be.` : n === 1 ? "One chosen, one more to go." : "Choose two.";
}

let busy = false, again = false;
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const answer = await fetch("/", {cache: "no-store"});
    if (answer.ok) {
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("runs");
      const keep = chosen().map(i => i.value), at = document.activeElement, key = at && at.dataset ? at.dataset.key : "";
      const before = box.dataset.count;
      box.replaceChildren(...document.importNode(next, true).childNodes);
      box.dataset.count = next.dataset.count;
      for (const i of box.querySelectorAll("input")) i.checked = keep.includes(i.value);
      if (key) box.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({preventScroll: true});
      if (before !== box.dataset.count) said.textContent = `${box.dataset.count} runs`;
      choice();
    }
  } catch { /* the stream says that the connection is lost */ }
  busy = false;
  if (again) { again = false; refresh(); }
}

let source = null;
function listen() {
  if (source || document.hidden) return;
  let first = true;
  source = new EventSource("/events");
  source.onmessage = e => {
    document.getElementById("lost").hidden = true;
    const list = JSON.parse(e.data).list;
    if (!first || list !== box.dataset.list) refresh();
    first = false;
  };
  source.onerror = () => { document.getElementById("lost").hidden = false; };
}
function stop() { if (source) source.close(); source = null; }

root.classList.add("scripted");
try { const t = localStorage.getItem("tablefull-theme"); if (t === "light" || t === "dark") root.dataset.theme = t; } catch { /* no storage */ }
themed();
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("tablefull-theme", root.dataset.theme); } catch { /* no storage */ }
  themed();
});
dark.addEventListener("change", themed);
box.addEventListener("change", choice);
document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else listen(); });
addEventListener("pageshow", choice);
choice();
listen();
})();
