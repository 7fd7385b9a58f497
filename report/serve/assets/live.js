// Beside the report's own script on the pages of `tablefull serve`: leads back
// to the list and to the other formats, and follows a run that is still going.
(() => {
"use strict";

const run = /*RUN*/ null;
const query = "dir=" + encodeURIComponent(run.dir);
let now = run.now, shown = run.now.page, busy = false, paused = false, source = null, lost = false, came = performance.now();

// ---- the bar

const make = (name, text) => { const e = document.createElement(name); if (text) e.textContent = text; return e; };
const bar = make("div"), state = make("p"), links = make("p"), pause = make("button", "Pause"), said = make("span");
bar.id = "serve";
bar.style.cssText = "display:flex;flex-wrap:wrap;gap:.2rem 1rem;align-items:center;padding:.35rem 1.2rem;border-bottom:1px solid var(--rule)";
for (const p of [state, links]) p.style.cssText = "margin:0;max-width:none";
state.style.fontVariantNumeric = "tabular-nums";
links.style.marginLeft = "auto";
pause.type = "button";
said.className = "hidden";
said.setAttribute("role", "status");

const anchor = (text, href) => { const a = make("a", text); a.href = href; return a; };
const back = anchor("All runs", "/");
links.append("As ");
for (const [text, format] of [["text", "text"], ["Markdown", "markdown"], ["JSON", "json"], ["CSV", "csv"], ["SVG", "svg"], ["PNG", "png"], ["one HTML file", "html"]]) {
  links.append(anchor(text, `/run/file?${query}&format=${format}`), " ");
}
bar.append(back, state, pause, said, links);
document.getElementById("main").before(bar);

const seconds = v => v < 100 ? v.toFixed(v < 10 ? 1 : 0) + " s" : v < 7200 ? Math.round(v / 60) + " min" : (v / 3600).toFixed(1) + " h";

// text is what is known of the run, and no more than that.
function text() {
  const quiet = now.quiet + (performance.now() - came) / 1000;
  if (lost) return "No connection to tablefull serve: this is what was there when it was lost.";
  if (now.problem) return "The log is not read on: " + now.problem;
  switch (now.state) {
  case "running": {
    const since = Date.parse(now.started), all = isNaN(since) ? "" : ` for ${seconds(Math.max(0, (Date.now() - since) / 1000))}`;
    const planned = now.planned > 0 ? `, of ${seconds(now.planned)} of traffic planned` : "";
    const still = quiet >= 3 ? ` Its log has not grown for ${seconds(Math.floor(quiet))}; after ${seconds(now.limit)} its process is taken for dead.` : "";
    return `Live${all}: shown up to ${seconds(now.runTime)} of run time${planned}.${paused ? " Paused." : ""}${still}`;
  }
  case "cut off":
    return `Cut off: the log has no end and has not grown for ${seconds(Math.floor(quiet))}, so the run's process is taken for dead. Should the log grow, it is shown.`;
  case "gone":
    return "The run's directory is gone: this is what was there.";
  }
  return shown && run.now.state !== "finished" ? "The run has ended: this is its final report." : "";
}

let last = "";
function say() {
  state.textContent = text();
  pause.hidden = now.state !== "running" || lost;
  const key = lost ? "lost" : now.state;
  if (last && last !== key) said.textContent = state.textContent; // changes only, not each second
  last = key;
}

// ---- the page

async function refresh() {
  if (busy || paused || !now.page || now.page === shown || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch("/run?" + query, {cache: "no-store"});
    const page = answer.headers.get("X-Tablefull-Page");
    if (answer.ok && page) {
      window.tablefull.update(await answer.text());
      shown = page;
    }
  } catch { /* the stream says that the connection is lost */ }
  busy = false;
  say();
  setTimeout(refresh, 300); // what came meanwhile
}

function listen() {
  if (source || document.hidden || now.state === "gone") return;
  source = new EventSource("/run/events?" + query);
  source.onmessage = e => {
    now = JSON.parse(e.data);
    came = performance.now();
    lost = false;
    if (now.state === "finished" || now.state === "gone") stop();
    say();
    refresh();
  };
  source.onerror = () => { if (source) { lost = true; say(); } };
}
function stop() { if (source) source.close(); source = null; }

pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  say();
  refresh();
});
// A page that nobody sees costs the run nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop();
  else if (now.state !== "finished" || shown !== now.page) { listen(); refresh(); }
});

say();
if (now.state !== "finished") {
  listen();
  setInterval(say, 1000);
}
})();
