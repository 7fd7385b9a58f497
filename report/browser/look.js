// Runs in each page before its own scripts. It remembers the texts that are
// written on canvases until they are cleared, and finds what a reader could
// not read.
(() => {
"use strict";

// ---- what is written on canvases

const written = new WeakMap();
let drawn = 0; // when something was last written on one, in ms since the page was asked for
const proto = CanvasRenderingContext2D.prototype;
const fillText = proto.fillText, clearRect = proto.clearRect;
proto.clearRect = function(...args) {
  written.set(this.canvas, []);
  return clearRect.apply(this, args);
};
proto.fillText = function(text, x, y, ...rest) {
  if (!written.has(this.canvas)) written.set(this.canvas, []);
  const m = this.measureText(text), t = this.getTransform();
  const at = (a, b) => t.transformPoint(new DOMPoint(a, b));
  const a = at(x - m.actualBoundingBoxLeft, y - m.actualBoundingBoxAscent), b = at(x + m.actualBoundingBoxRight, y + m.actualBoundingBoxDescent);
  drawn = performance.now();
  if (String(text).trim()) written.get(this.canvas).push({text, left: Math.min(a.x, b.x), right: Math.max(a.x, b.x), top: Math.min(a.y, b.y), bottom: Math.max(a.y, b.y)});
  return fillText.call(this, text, x, y, ...rest);
};

function canvasFaults(out) {
  for (const canvas of document.querySelectorAll("canvas")) {
    const box = canvas.closest("[data-chart]"), name = box ? box.dataset.chart : "canvas", list = written.get(canvas) || [];
    if (list.length === 0) out.push(`${name}: nothing is written on it`);
    for (const r of list) {
      if (r.left < -1 || r.right > canvas.width + 1 || r.top < -1 || r.bottom > canvas.height + 1) out.push(`${name}: "${r.text}" is cut at the plot's edge`);
    }
    crossings(list, 1, (a, b) => out.push(`${name}: "${a.text}" and "${b.text}" are drawn over one another`));
  }
}

// crossings calls found for each two rectangles that have more than slack of
// both directions in common.
function crossings(list, slack, found) {
  const sorted = [...list].sort((a, b) => a.top - b.top);
  for (let i = 0; i < sorted.length; i++) {
    const a = sorted[i];
    for (let j = i + 1; j < sorted.length && sorted[j].top < a.bottom - slack; j++) {
      const b = sorted[j];
      if (a.owner && a.owner === b.owner) continue;
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack && Math.min(a.bottom, b.bottom) - b.top > slack) found(a, b);
    }
  }
}

// ---- the text of the page

// clip is the part of the page an element's content can be seen in, and
// whether the rest can be scrolled to.
function clips(element) {
  const out = [];
  for (let e = element; e && e !== document.documentElement; e = e.parentElement) {
    const s = getComputedStyle(e);
    if (s.position === "fixed" || s.clipPath === "inset(50%)") { out.push({fixed: true}); break; } // the latter is for those who hear the page
    if (s.overflowX !== "visible" || s.overflowY !== "visible") out.push({e, x: s.overflowX, y: s.overflowY});
  }
  return out;
}

const short = s => { s = s.replace(/\s+/g, " ").trim(); return s.length > 40 ? s.slice(0, 39) + "…" : s; };

function textFaults(out) {
  const width = document.documentElement.clientWidth, rects = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent || parent.closest("script, style, noscript, .hidden, .skip")) continue;
    if (!parent.checkVisibility({opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true})) continue;
    range.selectNodeContents(node);
    const around = clips(parent);
    if (around.some(c => c.fixed)) continue; // floats over the page on purpose
    for (const r of range.getClientRects()) {
      if (r.width < 1 || r.height < 1) continue;
      let scrolled = false;
      const part = {text: short(node.data), owner: node, left: r.left, right: r.right, top: r.top, bottom: r.bottom}; // what can be seen of it
      for (const c of around) {
        const b = c.e.getBoundingClientRect(), right = b.left + c.e.clientLeft + c.e.clientWidth, bottom = b.top + c.e.clientTop + c.e.clientHeight;
        if (c.x === "hidden" || c.x === "clip") {
          if (!scrolled && (r.left < b.left - 1 || r.right > right + 1)) out.push(`text is cut: "${short(node.data)}"`);
        } else if (c.x !== "visible") scrolled = scrolled || r.right > right + 1 || r.left < b.left - 1;
        part.left = Math.max(part.left, b.left);
        part.right = Math.min(part.right, right);
        part.top = Math.max(part.top, b.top);
        part.bottom = Math.min(part.bottom, bottom);
      }
      if (!scrolled && (r.left < -1 || r.right > width + 1)) out.push(`text is outside of the window: "${short(node.data)}"`);
      if (part.right - part.left > 1 && part.bottom - part.top > 1) rects.push(part);
    }
  }
  crossings(rects, 1.5, (a, b) => out.push(`text is over text: "${a.text}" and "${b.text}"`));
  // What takes room covers the text below it.
  for (const e of document.querySelectorAll("button, canvas, svg")) {
    if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || clips(e).some(c => c.fixed)) continue;
    const b = e.getBoundingClientRect();
    for (const r of rects) {
      if (e.contains(r.owner) || e.tagName === "CANVAS" && r.owner.parentElement.closest(".u-over, .u-legend")) continue;
      if (Math.min(b.right, r.right) - Math.max(b.left, r.left) > 1.5 && Math.min(b.bottom, r.bottom) - Math.max(b.top, r.top) > 1.5) out.push(`${e.tagName.toLowerCase()} "${short(e.textContent)}" covers "${r.text}"`);
    }
  }
  if (document.documentElement.scrollWidth > width + 1) out.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${width}`);
}

// ---- plots

// rowOf is the share of a row of a plot's canvas that has the limit's colour,
// or nearly. It is read from a copy, because the browser complains of a canvas
// that is read often.
function rowOf(u, y) {
  const {left, width} = u.bbox, copy = document.createElement("canvas");
  copy.width = width; copy.height = 3;
  const ctx = copy.getContext("2d", {willReadFrequently: true});
  ctx.drawImage(u.ctx.canvas, left, Math.round(y) - 1, width, 3, 0, 0, width, 3);
  const pixels = ctx.getImageData(0, 0, width, 3).data;
  const probe = document.createElement("span");
  probe.style.color = "var(--ink)";
  document.body.append(probe);
  const ink = getComputedStyle(probe).color.match(/\d+/g).map(Number);
  probe.remove();
  let n = 0;
  for (let x = 0; x < width; x++) {
    for (let row = 0; row < 3; row++) {
      const i = (row * width + x) * 4;
      if (pixels[i + 3] > 128 && Math.max(...[0, 1, 2].map(k => Math.abs(pixels[i + k] - ink[k]))) < 60) { n++; break; }
    }
  }
  return n / width;
}

// plots says of each plot what it has drawn.
function plots() {
  return window.tablefull.plots.map(({id, u, box}) => ({
    id, points: u.data[0].length, series: u.series.length - 1, told: [Number(box.dataset.points), Number(box.dataset.series)],
    sums: u.data.slice(1).map(v => v.reduce((a, b) => a + (b || 0), 0)), most: u.data.slice(1).map(v => v.reduce((a, b) => Math.max(a, b || 0), 0)),
    top: u.bbox.top,
    from: u.scales.x.min, to: u.scales.x.max, low: u.scales.y.min, high: u.scales.y.max,
    width: u.bbox.width, height: u.bbox.height, left: u.bbox.left, canvas: u.ctx.canvas.width,
    cursor: u.cursor.left >= 0 ? u.cursor.idx : null, shown: [...box.parentElement.querySelectorAll(".key output")].map(o => o.textContent),
  }));
}

// level is where a value is on a plot's y axis, and how much of that row has
// been drawn on.
function level(id, value) {
  const {u} = window.tablefull.plots.find(p => p.id === id), y = u.valToPos(value, "y", true);
  return {share: 1 - (y - u.bbox.top) / u.bbox.height, inked: rowOf(u, y)};
}

// axis is what is written beside a plot's y axis, and how high.
function axis(id) {
  const {u} = window.tablefull.plots.find(p => p.id === id), {left, top, height} = u.bbox;
  return (written.get(u.ctx.canvas) || []).map(r => ({text: r.text, right: r.right, y: (r.top + r.bottom) / 2}))
    .filter(r => r.right <= left && r.y < top + height + 6 * devicePixelRatio);
}

// inked is how much of a row of a plot, or of one of those next to it, has been
// drawn on in the limit's colour.
function inked(id, y) {
  const {u} = window.tablefull.plots.find(p => p.id === id);
  return Math.max(...[-2, 0, 2].map(d => rowOf(u, y + d * devicePixelRatio)));
}

// opened is how long the page took to load and to have all plots drawn, in ms
// since it was asked for.
function opened() {
  return Math.max(performance.getEntriesByType("navigation")[0].loadEventEnd, drawn);
}

window.lookAt = {
  opened, plots, level, axis, inked,
  faults() { const out = []; textFaults(out); canvasFaults(out); return [...new Set(out)].slice(0, 30); },
};
})();
