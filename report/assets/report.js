// The report's plots. Everything a plot shows comes from the JSON in #data,
// which report/html_charts.go makes; without this script the page still has
// all text and a table of each plot.
//
// For programs: window.tablefull = {plots: [{id, u}], range(), zoom(from, to),
// reset(), update(html)}.
(() => {
"use strict";

const root = document.documentElement;
const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
// The axes take as much in all plots, so that their times are one below another.
const left = width => width < 500 ? 56 : 66, right = width => 58;
const sync = uPlot.sync("tablefull");
const state = {data: null, plots: [], from: 0, to: 1, zero: {}, width: 0};

// ---- numbers

const group = s => s.replace(/\B(?=(\d{3})+(?!\d))/g, ",");

function number(v) {
  if (v == null || !isFinite(v)) return "–";
  const a = Math.abs(v);
  if (a >= 1e15) return v.toPrecision(4);
  if (a >= 1000 || Number.isInteger(v)) return group(String(Math.round(v)));
  return String(+v.toPrecision(4));
}

function percent(v) {
  if (v == null || !isFinite(v)) return "–";
  const p = v * 100;
  if (p > 99.95 && p < 100) return "over 99.9 %";
  return +p.toFixed(p < 1 ? 2 : 1) + " %";
}

// tick writes an axis value with no more digits than the step needs.
function tick(v, step) {
  const a = Math.abs(v);
  if (a >= 1e15) return v.toExponential(1);
  if (a >= 1e6 && step >= 1e4) return +(v / 1e6).toFixed(2) + " M";
  let digits = 0;
  while (digits < 6 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits++;
  const [whole, part] = v.toFixed(digits).split(".");
  return group(whole) + (part ? "." + part : "");
}

// nice returns round numbers in [low, high], at most n.
function nice(low, high, n) {
  const span = high - low;
  if (!(span > 0)) return [low];
  let step = Math.pow(10, Math.floor(Math.log10(span / n)));
  step *= [1, 2, 5, 10].find(m => span / (step * m) <= n) || 10;
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9 && out.length < 50; k++) out.push(k * step);
  return out;
}

const moment = v => {
  const [whole, part] = String(Math.round(v * 1000) / 1000).split(".");
  return (long() ? clock(v) + " = " : "") + group(whole) + (part ? "." + part : "") + " s";
};

// A long run has hours and minutes on its axes.
const long = () => state.data.to > 1800;
const incrs = [1, 2, 5].flatMap(m => [0.001, 0.01, 0.1].map(d => +(m * d).toFixed(3))).sort((a, b) => a - b)
  .concat([1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800]);

// clock writes seconds as 1:05:00.
function clock(v) {
  const s = Math.round(Math.abs(v)), two = n => String(n).padStart(2, "0");
  return (v < 0 ? "-" : "") + Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
}

// ---- colours

let before = null; // what was shown before printing
let colors = {};
function readColors() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const get = name => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  colors = {};
  for (const name of ["bg", "text", "soft", "rule", "grid", "ink", "blue", "sky", "green", "red", "orange", "purple", "yellow"]) colors[name] = get(name);
  probe.remove();
}
const faded = (color, share) => color.replace(/^rgb\(([^)]+)\)$/, `rgba($1, ${share})`);
// mixed is opaque, because a stack's bars are drawn over one another.
function mixed(color, ground, share) {
  const [a, b] = [color, ground].map(c => c.match(/[\d.]+/g).map(Number));
  return `rgb(${[0, 1, 2].map(i => Math.round(a[i] * share + b[i] * (1 - share))).join(", ")})`;
}
const markColors = {early: "orange", drop: "red", loss: "purple", action: "ink", phase: "soft"};
const markDashes = {early: [6, 3], drop: [], loss: [2, 2], action: [9, 3, 2, 3], phase: [1, 3]};

// ---- one plot

// stacked turns series into sums from the last to the first, so that the
// first in the key is on top.
function stacked(series) {
  const out = [];
  let below = null;
  for (let i = series.length - 1; i >= 0; i--) {
    const v = series[i].v;
    below = v.map((x, k) => x == null && (below == null || below[k] == null) ? null : (x || 0) + (below ? below[k] || 0 : 0));
    out[i] = below;
  }
  return out;
}

function yRange(chart) {
  return (u, min, max) => {
    if (chart.log) {
      if (!(max > 0)) return [0.1, 10];
      if (chart.lines && chart.lines.length) max = Math.max(max, chart.lines[0].at);
      return [Math.pow(10, Math.floor(Math.log10(Math.max(min, max / 1e6)))), Math.pow(10, Math.ceil(Math.log10(max * 1.02)))];
    }
    if (chart.ceil > 0) return [state.zero[chart.id] ? 0 : chart.floor, chart.ceil];
    if (!(max > 0)) return [0, 1];
    return [0, max * (chart.wide ? 1.6 : 1.06)];
  };
}

function decades(max) {
  const out = [0];
  for (let v = max > 50 ? 10 : 1; v <= max; v *= 10) out.push(v);
  return out.length > 6 ? out.filter((v, i) => i === 0 || (out.length - i) % 2 === 1) : out;
}

function axes(chart, width) {
  const font = "12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";
  const common = {stroke: () => colors.soft, font, ticks: {stroke: () => colors.rule, width: 1, size: 4}, gap: 3};
  const grid = {stroke: () => colors.grid, width: 1};
  const timed = chart.kind === "time";
  const out = [
    {...common, grid, space: timed && long() ? 76 : 56, size: 24, ...(timed && long() ? {incrs} : {}),
      values: (u, splits, i, space, step) => timed && long() && step >= 1 ? splits.map(clock) : splits.map((v, k) => tick(v, step) + (k === splits.length - 1 ? (timed ? " s" : perSecond(chart)) : ""))},
    {...common, grid, scale: "y", size: left(width), space: 28,
      ...(chart.wide ? {splits: u => decades(u.scales.y.max), filter: (u, splits) => splits} : {}),
      values: (u, splits, i, space, step) => chart.wide ? splits.map(v => tick(v, 1)) : chart.log ? splits.map(v => v > 0 && Math.abs(Math.log10(v) % 1) < 1e-9 ? tick(v, v) : null)
        : splits.map(v => chart.share ? tick(v * 100, step * 100) + " %" : tick(v, step))},
  ];
  if (chart.limit > 0) {
    const steps = u => nice(u.scales.y.min / chart.limit * 100, u.scales.y.max / chart.limit * 100, 5);
    out.push({...common, grid: {show: false}, scale: "y", side: 1, size: right(width), space: 28,
      splits: u => steps(u).map(p => p * chart.limit / 100),
      values: (u, splits) => { const p = steps(u), step = p.length > 1 ? p[1] - p[0] : 1; return p.map(v => tick(v, step) + " %"); }});
  } else if (chart.series.some(s => s.right)) {
    out.push({...common, grid: {show: false}, scale: "share", side: 1, size: right(width), space: 28, values: (u, splits) => splits.map(percent)});
  } else {
    out.push({show: true, scale: "y", side: 1, size: right(width), values: () => [], ticks: {show: false}, grid: {show: false}});
  }
  return out;
}

// dotted says whether a series is of single points. Rings go around those of
// others at the same place, and hide none.
const dotted = s => s.kind === "points" || s.kind === "rings";

// walks says whether a stack is of a few moments, between which nothing is
// known: a bar each, where an area would draw what nobody saw.
const walks = chart => chart.stack && !chart.steps && chart.x.length <= 40;

function seriesOf(chart) {
  const out = [{}];
  chart.series.forEach((s, i) => {
    const o = {
      label: s.name, scale: s.right ? "share" : "y", width: 1.75, dash: dashes[s.dash] || [], spanGaps: false,
      stroke: () => colors[s.color] || colors.ink,
      points: {show: dotted(s) || chart.x.length < 24, size: s.kind === "rings" ? 13 : s.kind === "points" ? 7 : 5},
    };
    if (dotted(s)) {
      o.paths = () => null;
      if (s.right || s.kind === "rings") o.points.fill = () => colors.bg; // hollow against full
      else o.points.fill = () => colors[s.color];
    }
    if (s.kind === "steps") o.paths = uPlot.paths.stepped({align: 1});
    else if (chart.steps) {
      o.paths = uPlot.paths.stepped({align: chart.steps === "after" ? 1 : -1, extend: chart.steps === "after" && !chart.stops});
      o.points.show = chart.x.length < 3; // too few for a step
    }
    if (s.kind === "area" && walks(chart)) {
      o.paths = uPlot.paths.bars({size: [0.6, 22, 3]});
      o.points.show = false;
      o.width = 0;
      o.fill = () => mixed(colors[s.color], colors.bg, 0.6);
    } else if (s.kind === "area") {
      o.width = 1.25;
      o.points.show = chart.x.length < (chart.steps ? 3 : 24);
      if (i === chart.series.length - 1) o.fill = () => faded(colors[s.color], 0.45);
    }
    out.push(o);
  });
  return out;
}

// bands fill between the sums of a stack.
function bandsOf(chart) {
  if (!chart.stack || walks(chart)) return [];
  const out = [];
  for (let i = 1; i < chart.series.length; i++) out.push({series: [i, i + 1], fill: () => faded(colors[chart.series[i - 1].color], 0.45)});
  return out;
}

const rowHeight = 14;

// rowsOf puts the names of marks into rows above the plot, so that none
// covers another. The earlier is the higher, so that no line crosses a name.
// xOf is where a mark is, widthOf how long its name.
function rowsOf(marks, from, to, xOf, widthOf) {
  const placed = [], ends = [];
  for (const m of [...marks].sort((a, b) => a.at - b.at)) {
    const x = xOf(m.at);
    if (x < from - 1 || x > to + 1) continue;
    const text = m.name.length > 24 ? m.name.slice(0, 23) + "…" : m.name, width = widthOf(text);
    const flip = x + width > to, a = flip ? x - width : x, b = a + width;
    let row = ends.findIndex(e => e.every(([c, d]) => b < c || a > d));
    if (row < 0) { row = ends.length; ends.push([]); }
    ends[row].push([a, b]);
    placed.push({m, x, row, text, flip});
  }
  return placed;
}

// rowsFor is how many rows the names need when the whole run is shown.
function rowsFor(chart, width) {
  const {from, to} = state.data, room = width - left(width) - right(width);
  const rows = rowsOf(chart.marks, 0, room, t => (t - from) / (to - from) * room, s => s.length * 7 + 10).map(p => p.row + 1);
  return Math.min(8, Math.max(0, ...rows));
}

function drawMarks(u, chart) {
  const ctx = u.ctx, ratio = devicePixelRatio, {left: l, top, width, height} = u.bbox;
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  const widthOf = text => ctx.measureText(text).width + 10 * ratio;
  const rows = rowsOf(chart.marks, l, l + width, t => u.valToPos(t, "x", true), widthOf);
  for (const p of rows) {
    const color = colors[markColors[p.m.kind]] || colors.soft;
    const labelled = chart.labels && p.row < chart.rows;
    const start = labelled ? top - (chart.rows - p.row) * rowHeight * ratio : top;
    const plus = Math.max(p.m.plus, 0), wide = [u.valToPos(p.m.at - plus, "x", true), u.valToPos(Math.max(p.m.to, p.m.at) + plus, "x", true)];
    if (wide[1] - wide[0] > 2 * ratio) {
      const a = Math.max(wide[0], l), b = Math.min(wide[1], l + width);
      ctx.fillStyle = faded(color, 0.12);
      ctx.fillRect(a, top, b - a, height);
    }
    ctx.beginPath();
    ctx.strokeStyle = color;
    ctx.lineWidth = (p.m.kind === "action" || p.m.kind === "phase" ? 1 : 1.5) * ratio;
    ctx.setLineDash((markDashes[p.m.kind] || []).map(d => d * ratio));
    ctx.moveTo(p.x, start);
    ctx.lineTo(p.x, top + height);
    ctx.stroke();
  }
  ctx.setLineDash([]);
  // Names come after all lines, on a ground of their own.
  for (const p of rows) {
    if (!chart.labels || p.row >= chart.rows) continue;
    const x = p.x + (p.flip ? -4 : 4) * ratio, y = top - (chart.rows - p.row - 0.5) * rowHeight * ratio, wide = widthOf(p.text) - 8 * ratio;
    ctx.fillStyle = colors.bg;
    ctx.fillRect(p.flip ? x - wide : x - ratio, y - 6 * ratio, wide, 12 * ratio);
    ctx.fillStyle = colors.text;
    ctx.textBaseline = "middle";
    ctx.textAlign = p.flip ? "right" : "left";
    ctx.fillText(p.text, x, y);
  }
  let used = Infinity; // how far up the names of lines have come
  for (const line of [...chart.lines || []].sort((a, b) => a.at - b.at)) {
    const y = u.valToPos(line.at, "y", true);
    if (y < top || y > top + height) continue;
    ctx.beginPath();
    ctx.strokeStyle = colors.soft;
    ctx.lineWidth = ratio;
    ctx.setLineDash([4 * ratio, 4 * ratio]);
    ctx.moveTo(l, y);
    ctx.lineTo(l + width, y);
    ctx.stroke();
    ctx.font = `${10 * ratio}px system-ui, sans-serif`;
    ctx.fillStyle = colors.soft;
    ctx.textAlign = "right";
    ctx.textBaseline = "bottom";
    // On a low plot there is no room for the name of each line.
    if (y > used) continue;
    ctx.fillText(line.name, l + width - 4 * ratio, y - 1);
    used = y - 12 * ratio;
  }
  ctx.restore();
}

function swatch(series) {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  svg.setAttribute("width", 26); svg.setAttribute("height", 12); svg.setAttribute("aria-hidden", "true");
  const add = (name, attributes) => {
    const e = document.createElementNS(ns, name);
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    svg.append(e);
  };
  const color = `var(--${series.color})`;
  if (series.kind === "area") add("rect", {x: 1, y: 1, width: 24, height: 10, fill: color, "fill-opacity": 0.45, stroke: color});
  else if (dotted(series)) add("circle", {cx: 13, cy: 6, r: series.kind === "rings" ? 5 : 4, fill: series.right || series.kind === "rings" ? "none" : color, stroke: color, "stroke-width": 2});
  else add("path", {d: "M0 6H26", stroke: color, "stroke-width": 2.5, "stroke-dasharray": (dashes[series.dash] || []).join(" ")});
  return svg;
}

// perSecond is the unit of a load axis; a load can be a number, too.
function perSecond(chart) { return chart.x_unit.endsWith("per second") ? "/s" : ""; }

// at says which moment, or which step, the i-th point stands for.
function at(chart, i) {
  const x = chart.x;
  if (chart.kind !== "time") return number(x[i]) + perSecond(chart);
  if (chart.stops && i + 1 === x.length) i--;
  if (chart.steps === "after") return `${moment(x[i])} to ${moment(i + 1 < x.length ? x[i + 1] : x[i] + (i > 0 ? x[i] - x[i - 1] : 0))}`;
  if (chart.steps === "before" && i > 0) return `${moment(x[i - 1])} to ${moment(x[i])}`;
  return moment(x[i]);
}

// indexAt corrects uPlot's nearest point to the step that holds the moment.
function indexAt(chart, i, t) {
  if (i == null) return i;
  if (chart.steps === "after" && chart.x[i] > t && i > 0) return i - 1;
  if (chart.steps === "before" && chart.x[i] < t && i + 1 < chart.x.length) return i + 1;
  return i;
}

// key is the legend: what each line is, and its value under the cursor.
function keyOf(chart) {
  const list = document.createElement("ul"), outs = [];
  list.className = "key";
  const where = document.createElement("li");
  where.className = "at";
  chart.series.forEach(s => {
    const li = document.createElement("li"), out = document.createElement("output");
    out.setAttribute("aria-live", "off");
    li.append(swatch(s), s.name, out);
    outs.push(out);
    list.append(li);
  });
  list.append(where);
  return {list, show(i) {
    where.textContent = i == null ? "" : at(chart, i);
    outs.forEach((o, k) => { const s = chart.series[k]; o.textContent = i == null ? "" : chart.share || s.right ? percent(s.v[i]) : number(s.v[i]); });
  }};
}

function heightOf(chart, width) {
  const room = chart.labels ? chart.rows * rowHeight : 0;
  if (before) return (chart.tall ? 170 : 140) + room; // on paper
  if (chart.id === "load") return width < 500 ? 130 : 150;
  return (chart.tall ? (width < 500 ? 210 : 235) : (width < 500 ? 150 : 170)) + room;
}

function draw(box, chart) {
  const width = Math.max(240, Math.floor(box.clientWidth || box.parentElement.clientWidth));
  const surface = document.createElement("div"), key = keyOf(chart);
  surface.className = chart.kind === "time" ? "surface timed" : "surface";
  surface.tabIndex = 0;
  surface.setAttribute("role", "group");
  surface.setAttribute("aria-roledescription", "plot");
  surface.setAttribute("aria-label", `${chart.title}, ${chart.unit}. The numbers are in the table below.`);
  const caption = box.parentElement.querySelector("figcaption");
  caption.querySelectorAll(".key, .zero").forEach(e => e.remove());
  box.replaceChildren(surface);
  chart.rows = chart.labels ? rowsFor(chart, width) : 0;
  const sums = chart.stack ? stacked(chart.series) : chart.series.map(s => s.v);
  const timed = chart.kind === "time";
  const u = new uPlot({
    width, height: heightOf(chart, width), padding: [Math.max(9, chart.labels ? chart.rows * rowHeight + 2 : 0), 0, 0, 0],
    legend: {show: false},
    cursor: {
      y: false, points: {size: 6, show: !chart.steps},
      drag: {x: timed, y: false, setScale: false},
      sync: timed ? {key: sync.key, scales: ["x", null]} : undefined,
      bind: {dblclick: () => () => { reset(); return null; }},
    },
    scales: {
      x: {time: false, range: timed ? () => [state.from, state.to] : (u, a, b) => { const pad = (b - a || 1) * 0.04; return [Math.max(0, a - pad), b + pad]; }},
      y: {distr: chart.log ? 3 : chart.wide ? 4 : 1, asinh: 1, range: yRange(chart)},
      share: {range: [0, 1]},
    },
    axes: axes(chart, width), series: seriesOf(chart), bands: bandsOf(chart),
    hooks: {
      draw: [u => drawMarks(u, chart)],
      setCursor: [u => key.show(u.cursor.left >= 0 ? indexAt(chart, u.cursor.idx, u.posToVal(u.cursor.left, "x")) : null)],
      setSelect: [u => {
        if (!timed || u.select.width < 3) return;
        const a = u.posToVal(u.select.left, "x"), b = u.posToVal(u.select.left + u.select.width, "x");
        u.setSelect({left: 0, top: 0, width: 0, height: 0}, false);
        zoom(a, b);
      }],
    },
  }, [chart.x, ...sums], surface);
  surface.addEventListener("keydown", e => { if (timed && keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); keys[e.key](); } });
  if (timed) dragByFinger(u);
  box.dataset.points = chart.x.length;
  box.dataset.series = chart.series.length;
  if (chart.floor > 0) caption.append(zeroButton(chart, u));
  caption.append(key.list);
  return {id: chart.id, u, box, chart};
}

// dragByFinger zooms by a drag across with one finger, where uPlot knows the
// mouse alone. A drag up or down scrolls the page, two fingers magnify it, and
// a tap moves the cursor.
function dragByFinger(u) {
  let from = null;
  const place = e => {
    const box = u.over.getBoundingClientRect();
    return Math.max(0, Math.min(box.width, e.clientX - box.left));
  };
  const select = (left, width) => u.setSelect({left, top: 0, width, height: width > 0 ? u.over.clientHeight : 0}, false);
  u.over.addEventListener("pointerdown", e => {
    if (e.pointerType === "mouse") return;
    from = e.isPrimary ? place(e) : null; // a second finger ends it
    select(0, 0);
  });
  u.over.addEventListener("pointermove", e => {
    if (from == null || e.pointerType === "mouse" || !e.isPrimary) return;
    const to = place(e);
    u.setCursor({left: to, top: u.over.clientHeight / 2});
    select(Math.min(from, to), Math.abs(to - from));
  });
  u.over.addEventListener("pointerup", e => {
    if (from == null || e.pointerType === "mouse" || !e.isPrimary) return;
    const a = Math.min(from, place(e)), b = Math.max(from, place(e));
    from = null;
    select(0, 0);
    if (b - a >= 10) zoom(u.posToVal(a, "x"), u.posToVal(b, "x")); // a finger is not as still as a mouse
  });
  u.over.addEventListener("pointercancel", e => { if (e.pointerType !== "mouse") { from = null; select(0, 0); } });
}

// zeroButton switches between the part of the axis in which something happens
// and the whole of it.
function zeroButton(chart, u) {
  const b = document.createElement("button"), note = document.createElement("span");
  const say = () => {
    const zero = !!state.zero[chart.id];
    note.textContent = zero ? "axis from 0" : `axis from ${number(Math.round(chart.floor))}, not from 0`;
    b.textContent = zero ? "Show the top" : "Show from 0";
  };
  b.type = "button";
  note.className = "soft";
  b.addEventListener("click", () => { state.zero[chart.id] = !state.zero[chart.id]; say(); u.setScale("y", {min: state.zero[chart.id] ? 0 : chart.floor, max: chart.ceil}); });
  say();
  const wrap = document.createElement("span");
  wrap.className = "zero";
  wrap.append(note, " ", b);
  return wrap;
}

// ---- all plots

// On a phone the buttons for zooming are there while a plot is to be seen.
const inView = new Set();
const watcher = new IntersectionObserver(changes => {
  for (const c of changes) inView[c.isIntersecting ? "add" : "delete"](c.target);
  root.classList.toggle("plotted", inView.size > 0);
});

function drawAll() {
  watcher.disconnect();
  inView.clear();
  for (const p of state.plots) p.u.destroy();
  state.plots.length = 0;
  readColors();
  for (const chart of state.data.charts) {
    const box = document.querySelector(`[data-chart="${CSS.escape(chart.id)}"]`);
    if (!box) continue;
    state.plots.push(draw(box, chart));
    watcher.observe(box);
  }
  state.width = document.querySelector("main").clientWidth;
}

function shown() {
  const {from, to} = state.data, whole = state.from <= from && state.to >= to;
  root.classList.toggle("zoomed", !whole);
  const say = long() ? clock : moment;
  const text = whole ? "whole run" : `${say(state.from)} to ${say(state.to)}`;
  const range = document.getElementById("range");
  if (range.textContent !== text) range.textContent = text;
}

function zoom(from, to) {
  const all = state.data, least = Math.max((all.to - all.from) / 1e4, 0.01);
  if (!(to - from >= least)) { const mid = (from + to) / 2; from = mid - least / 2; to = mid + least / 2; }
  const width = Math.min(to - from, all.to - all.from);
  from = Math.max(all.from, Math.min(from, all.to - width));
  state.from = from;
  state.to = from + width;
  for (const p of state.plots) if (p.chart.kind === "time") p.u.setScale("x", {min: state.from, max: state.to});
  shown();
}
const reset = () => zoom(state.data.from, state.data.to);
const scale = by => { const mid = (state.from + state.to) / 2, half = (state.to - state.from) / 2 * by; zoom(mid - half, mid + half); };
const pan = by => { const d = (state.to - state.from) * by; zoom(state.from + d, state.to + d); };
const keys = {"+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), "ArrowLeft": () => pan(-0.25), "ArrowRight": () => pan(0.25), "0": reset, "Escape": reset};
const actions = {in: keys["+"], out: keys["-"], left: keys.ArrowLeft, right: keys.ArrowRight, reset};

// ---- the page around them

function copyButtons() {
  for (const pre of document.querySelectorAll("pre.copy")) {
    const box = document.createElement("div"), b = document.createElement("button");
    box.className = "copybox";
    b.type = "button";
    b.textContent = "Copy";
    b.addEventListener("click", async () => { b.textContent = await copy(pre) ? "Copied" : "Press Ctrl-C"; setTimeout(() => { b.textContent = "Copy"; }, 2500); });
    pre.replaceWith(box);
    box.append(pre, b);
  }
}

// copy puts the text on the clipboard, or where that is not allowed selects
// it, so that the user can.
async function copy(pre) {
  try { await navigator.clipboard.writeText(pre.textContent); return true; } catch { /* not in this context */ }
  const selection = getSelection(), range = document.createRange();
  range.selectNodeContents(pre);
  selection.removeAllRanges();
  selection.addRange(range);
  try { return document.execCommand("copy"); } catch { return false; }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
function themed() {
  document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));
  if (!state.data) return;
  readColors();
  for (const p of state.plots) p.u.redraw(false, false);
}

function load() {
  state.data = JSON.parse(document.getElementById("data").textContent);
  for (const c of state.data.charts) { c.marks = c.marks || []; c.lines = c.lines || []; c.series = c.series || []; }
}

// update replaces the content by that of another rendering of the page, and
// keeps what the reader is looking at: zoom, scroll, what is opened.
function update(html) {
  const next = new DOMParser().parseFromString(html, "text/html");
  const whole = state.from <= state.data.from && state.to >= state.data.to, y = scrollY;
  const open = [...document.querySelectorAll("main details[open] > summary")].map(s => s.textContent);
  const focus = document.activeElement && document.activeElement.closest(".plot");
  document.getElementById("main").replaceWith(document.importNode(next.getElementById("main"), true));
  document.getElementById("data").textContent = next.getElementById("data").textContent;
  for (const part of ["header .run", "header nav"]) document.querySelector(part).replaceWith(document.importNode(next.querySelector(part), true));
  document.title = next.title;
  for (const s of document.querySelectorAll("main details > summary")) if (open.includes(s.textContent)) s.parentElement.open = true;
  load();
  if (whole) { state.from = state.data.from; state.to = state.data.to; }
  copyButtons();
  drawAll();
  shown();
  scrollTo(0, y);
  if (focus) document.querySelector(`[data-chart="${CSS.escape(focus.dataset.chart)}"] .surface`)?.focus({preventScroll: true});
}

let waiting = 0;
function resized() {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (state.data && document.querySelector("main").clientWidth !== state.width) drawAll(); }, 120);
}

// Paper is narrower than the window, and light.
function toPaper() {
  if (before) return;
  before = {theme: root.dataset.theme, opened: []};
  root.dataset.theme = "light";
  for (const d of document.querySelectorAll("main details:not(.numbers):not([open])")) { d.open = true; before.opened.push(d); }
  readColors();
  for (const p of state.plots) p.u.setSize({width: 690, height: heightOf(p.chart, 690)});
  for (const p of state.plots) p.u.redraw(true, true);
}
function fromPaper() {
  if (!before) return;
  if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
  for (const d of before.opened) d.open = false;
  before = null;
  drawAll();
}

function start() {
  root.classList.add("scripted");
  try { const t = localStorage.getItem("tablefull-theme"); if (t === "light" || t === "dark") root.dataset.theme = t; } catch { /* no storage */ }
  load();
  state.from = state.data.from;
  state.to = state.data.to;
  copyButtons();
  themed();
  drawAll();
  shown();
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("tablefull-theme", root.dataset.theme); } catch { /* no storage */ }
    themed();
  });
  dark.addEventListener("change", themed);
  for (const b of document.querySelectorAll("#zoombar button")) b.addEventListener("click", () => actions[b.dataset.do]());
  addEventListener("resize", resized);
  addEventListener("beforeprint", toPaper);
  addEventListener("afterprint", fromPaper);
}

window.tablefull = {plots: state.plots, range: () => [state.from, state.to], zoom, reset, update};
start();
})();
