// Charts of the report: drawn over to look closer, with a double click back to all of it. Pictures
// are moved by dragging, and enlarged by + and - or with the wheel and Ctrl.

"use strict";

const root = document.documentElement;
const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const hue = (i) => style(`--c${i % 8}`);

function faded(colour, alpha) {
  const n = parseInt(colour.slice(1), 16);
  return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
}

const axis = (label, more = {}) => ({
  label,
  labelSize: 20,
  labelFont: "12px system-ui",
  font: "11px system-ui",
  stroke: style("--faint"),
  grid: { stroke: style("--line"), width: 1 },
  ticks: { stroke: style("--line"), width: 1 },
  ...more,
});

const common = (place) => ({
  width: place.clientWidth,
  height: place.clientHeight,
  legend: { show: false },
  cursor: { y: false, drag: { x: true, y: false } },
});

function key(place, names) {
  const list = document.createElement("div");
  list.className = "key";
  names.forEach((name, i) => {
    const item = document.createElement("span");
    item.textContent = name;
    item.style.setProperty("--hue", hue(i));
    list.append(item);
  });
  place.after(list);
  return list;
}

/** Posteriors, stacked; above them the truth, and the label in force. */
function timeline(place, { bin_width_s, names, truth, label, posterior }) {
  const time = truth.map((_, i) => (i + 1) * bin_width_s);
  const stacked = names.map((_, r) =>
    posterior.map((p) => p.slice(0, r + 1).reduce((a, b) => a + b, 0)),
  );
  const strip = (chart, of, row) => {
    const { ctx, bbox } = chart;
    const ratio = window.devicePixelRatio || 1;
    const top = bbox.top - (36 - 18 * row) * ratio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, 0, bbox.width, bbox.top);
    ctx.clip();
    for (let i = 0; i < of.length; ) {
      let j = i;
      while (j < of.length && of[j] === of[i]) j++;
      const [from, to] = [i, j].map((k) => chart.valToPos(k * bin_width_s, "x", true));
      ctx.fillStyle = of[i] === null ? style("--none") : hue(of[i]);
      if (of[i] !== null || row) ctx.fillRect(from, top, Math.max(to - from, 1), 14 * ratio);
      i = j;
    }
    ctx.restore();
    ctx.fillStyle = style("--faint");
    ctx.font = `${11 * ratio}px system-ui`;
    ctx.textAlign = "right";
    ctx.fillText(row ? "label" : "truth", bbox.left - 6 * ratio, top + 11 * ratio);
  };
  const options = {
    ...common(place),
    padding: [40, 16, 0, 0],
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [axis("seconds"), axis("posterior", { size: 54 })],
    series: [
      {},
      ...names.map((_, r) => ({
        stroke: hue(r),
        width: 1,
        points: { show: false },
        fill: r === 0 ? faded(hue(0), 0.5) : undefined,
      })),
    ],
    bands: names.slice(1).map((_, i) => ({
      series: [i + 2, i + 1],
      fill: faded(hue(i + 1), 0.5),
    })),
    hooks: { draw: [(chart) => [truth, label].forEach((of, row) => strip(chart, of, row))] },
  };
  return [new uPlot(options, [time, ...stacked], place), key(place, names)];
}

/** Lines with their intervals; `level` is drawn as a dashed line, `diagonal` as one from 0 to 1. */
function lines(place, { x, y, of, level, diagonal }) {
  const places = new Set(of.flatMap((line) => line.points.map((p) => p[0])));
  const all = [...places].sort((a, b) => a - b);
  const columns = [all];
  const series = [{}];
  const bands = [];
  of.forEach(({ points }, i) => {
    const at = new Map(points.map((p) => [p[0], p]));
    const column = (k) => all.map((t) => at.get(t)?.[k] ?? null);
    const line = { stroke: hue(i), width: 2, points: { show: true, size: 6 }, spanGaps: true };
    const bound = { stroke: faded(hue(i), 0.3), points: { show: false }, spanGaps: true };
    columns.push(column(1), column(2), column(3));
    series.push(line, bound, bound);
    const n = series.length;
    bands.push({ series: [n - 1, n - 2], fill: faded(hue(i), 0.15) });
  });
  const dashed = (chart) => {
    const { ctx, bbox } = chart;
    const [px, py] = [(v) => chart.valToPos(v, "x", true), (v) => chart.valToPos(v, "y", true)];
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = style("--edge");
    ctx.setLineDash([6, 4]);
    ctx.beginPath();
    if (level !== undefined) {
      ctx.moveTo(bbox.left, py(level));
      ctx.lineTo(bbox.left + bbox.width, py(level));
    }
    if (diagonal) {
      ctx.moveTo(px(0), py(0));
      ctx.lineTo(px(1), py(1));
    }
    ctx.stroke();
    ctx.restore();
  };
  const options = {
    ...common(place),
    padding: [10, 16, 0, 0],
    scales: { x: { time: false }, y: { range: [0, 1.02] } },
    axes: [axis(x), axis(y, { size: 54 })],
    series,
    bands,
    hooks: { draw: [dashed] },
  };
  const names = of.map((line) => line.name);
  const chart = new uPlot(options, columns, place);
  return [chart, ...(names.length > 1 ? [key(place, names)] : [])];
}

const kinds = { timeline, lines };
const places = [...document.querySelectorAll(".chart")].map((place) => ({
  place,
  data: JSON.parse(place.firstChild.textContent),
  drawn: [],
}));

function drawAll() {
  for (const one of places) {
    for (const part of one.drawn) (part.destroy || part.remove).call(part);
    one.drawn = kinds[one.place.dataset.kind](one.place, one.data);
  }
}

const button = document.getElementById("theme");
function theme(name) {
  root.dataset.theme = name;
  button.textContent = name === "dark" ? "Light" : "Dark";
  drawAll();
}
button.addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawAll();
});

for (const figure of document.querySelectorAll(".plot")) {
  const svg = figure.querySelector("svg");
  if (!svg.getAttribute("viewBox"))
    svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  let seen = [...whole];
  const show = () => svg.setAttribute("viewBox", seen.join(" "));
  const zoom = (by, x = 0.5, y = 0.5) => {
    const [left, top, w, h] = seen;
    const wide = Math.min(whole[2], Math.max(whole[2] / 20, w / by));
    const high = (wide * whole[3]) / whole[2];
    seen = [left + (w - wide) * x, top + (h - high) * y, wide, high];
    if (wide === whole[2]) seen = [...whole];
    show();
  };
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  svg.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
    },
    { passive: false },
  );
  let held = null;
  svg.addEventListener("pointerdown", (event) => {
    held = at(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!held) return;
    const now = at(event);
    seen[0] -= (now[0] - held[0]) * seen[2];
    seen[1] -= (now[1] - held[1]) * seen[3];
    held = now;
    show();
  });
  svg.addEventListener("pointerup", () => (held = null));
  svg.addEventListener("dblclick", (event) => {
    if (seen[2] < whole[2]) zoom(1 / 20);
    else zoom(2.5, ...at(event));
  });
  figure.addEventListener("keydown", (event) => {
    if (event.key === "+") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else return;
    event.preventDefault();
  });
}
