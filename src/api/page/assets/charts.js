// Pictures: time series by uPlot, planes on canvases of their own.

/** Where plots begin and end in their elements, px: the same in all of them, as they share an
 * axis. */
export const [PLOT_LEFT, PLOT_RIGHT] = [64, 16];

/** Colours of the theme that is on. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    regimes: [0, 1, 2, 3, 4, 5, 6, 7].map((i) => of(`--c${i}`)),
    none: of("--none"),
    ink: of("--ink"),
    faint: of("--faint"),
    line: of("--line"),
    edge: of("--edge"),
    raised: of("--raised"),
    low: of("--low").split(",").map(Number),
    high: of("--high").split(",").map(Number),
  };
}

/** A colour with an opacity. */
function faded(colour, alpha) {
  const n = parseInt(colour.slice(1), 16);
  return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
}

/** A canvas' context in CSS pixels, cleared, with its size. */
export function cleared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
}

function axes(colours) {
  const axis = {
    stroke: colours.faint,
    grid: { stroke: colours.line, width: 1 },
    ticks: { stroke: colours.line, width: 1 },
    font: "11px system-ui",
  };
  return [
    { ...axis, size: 30, values: (_, ticks) => ticks.map((t) => `${t} s`) },
    {
      ...axis,
      size: PLOT_LEFT,
      values: (_, ticks) => ticks.map((t) => (Math.abs(t) >= 10000 ? `${t / 1000}k` : `${t}`)),
    },
  ];
}

/** A chart in an element, drawn again where its size or its make changes. `on` hears of the second
 * that is pointed at (null: none), and of a stretch that is drawn over. */
class Chart {
  constructor(place, on) {
    this.place = place;
    this.on = on;
    this.chart = null;
    this.made = "";
    new ResizeObserver(() => this.resize()).observe(place);
  }

  resize() {
    if (this.chart)
      this.chart.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
  }

  /** Draws data; `made` names what the options depend on. */
  draw(made, options, data) {
    if (this.made !== made) {
      if (this.chart) this.chart.destroy();
      const common = {
        width: this.place.clientWidth,
        height: this.place.clientHeight,
        legend: { show: false },
        cursor: {
          y: false,
          points: { show: false },
          drag: { x: true, y: false, setScale: false },
          // A double click is heard below.
          bind: { dblclick: () => null },
        },
        select: { show: true },
        pxAlign: 0,
      };
      const made_of = options();
      const hooks = {
        ...made_of.hooks,
        setCursor: [(chart) => this.point(chart)],
        setSelect: [(chart) => this.select(chart)],
      };
      this.chart = new uPlot({ ...common, ...made_of, hooks }, data, this.place);
      this.made = made;
    } else {
      this.chart.setData(data);
    }
  }

  point(chart) {
    // Told of by another chart, it tells nobody.
    if (this.told) return;
    const { left } = chart.cursor;
    this.on.point(left >= 0 ? chart.posToVal(left, "x") : null, this);
  }

  select(chart) {
    const { left, width } = chart.select;
    if (width < 6) return;
    this.on.stretch(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"));
    chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  /** Shows the second that is pointed at elsewhere. */
  show(second) {
    if (!this.chart) return;
    this.told = true;
    const left = second === null ? -10 : this.chart.valToPos(second, "x");
    this.chart.setCursor({ left, top: second === null ? -10 : 0 });
    this.told = false;
  }
}

/** A stacked posterior with the label in force above it. */
export class Timeline extends Chart {
  draw_of(history, regimes, notes, colours, theme) {
    const stacked = regimes.map((_, r) =>
      history.posterior.map((p) => p.slice(0, r + 1).reduce((a, b) => a + b, 0)),
    );
    this.history = history;
    this.notes = notes;
    this.regimes = regimes;
    this.colours = colours;
    const options = () => ({
      padding: [22, 16, 0, 0],
      scales: { x: { time: false, range: () => this.history.range }, y: { range: [0, 1] } },
      axes: axes(colours),
      series: [
        {},
        ...regimes.map((_, r) => ({
          stroke: colours.regimes[r % 8],
          width: 1,
          points: { show: false },
          fill: r === 0 ? faded(colours.regimes[0], 0.5) : undefined,
        })),
      ],
      bands: regimes.slice(1).map((_, i) => ({
        series: [i + 2, i + 1],
        fill: faded(colours.regimes[(i + 1) % 8], 0.5),
      })),
      hooks: { draw: [(chart) => this.strip(chart)] },
    });
    this.draw(`${theme} ${regimes.join(" ")}`, options, [history.time, ...stacked]);
  }

  /** The label in force as a strip, with a mark at each change. */
  strip(chart) {
    const { ctx, bbox } = chart;
    const ratio = window.devicePixelRatio || 1;
    const { time, regime } = this.history;
    const top = bbox.top - 18 * ratio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
    ctx.clip();
    ctx.font = `${11 * ratio}px system-ui`;
    [ctx.textAlign, ctx.textBaseline] = ["left", "alphabetic"];
    for (let i = 0; i < time.length;) {
      let j = i;
      while (j + 1 < time.length && regime[j + 1] === regime[i]) j++;
      const from = chart.valToPos(time[i], "x", true);
      const to = chart.valToPos(time[Math.min(j + 1, time.length - 1)], "x", true);
      const at = this.regimes.indexOf(regime[i]);
      ctx.fillStyle = at < 0 ? this.colours.none : this.colours.regimes[at % 8];
      ctx.fillRect(from, top, Math.max(to - from, 1), 14 * ratio);
      if (to - from > ctx.measureText(regime[i]).width + 8 * ratio) {
        ctx.fillStyle = this.colours.raised;
        ctx.fillText(regime[i], from + 4 * ratio, top + 11 * ratio);
      }
      if (i > 0) {
        ctx.strokeStyle = this.colours.ink;
        ctx.setLineDash([3 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(from, top);
        ctx.lineTo(from, bbox.top + bbox.height);
        ctx.stroke();
      }
      i = j + 1;
    }
    ctx.fillStyle = ctx.strokeStyle = this.colours.ink;
    ctx.setLineDash([]);
    for (const { at, text } of this.notes) {
      const x = chart.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const before = x + ctx.measureText(text).width + 8 * ratio > bbox.left + bbox.width;
      ctx.textAlign = before ? "right" : "left";
      ctx.fillText(text, x + (before ? -4 : 4) * ratio, bbox.top + bbox.height - 6 * ratio);
    }
    ctx.restore();
  }
}

/** A line with a band around it, and the edge where it has one. */
export class Trace extends Chart {
  draw_of({ time, range: seen }, { mean, low, high }, edge, colours, theme, span) {
    this.seen = seen;
    const hue = colours.regimes[0];
    const line = { stroke: hue, width: 1.5, points: { show: false }, spanGaps: true };
    const bound = { ...line, stroke: faded(hue, 0.3), width: 1 };
    const range = (_, least, most) => {
      if (span) return span;
      if (least === null || most === null)
        return [edge === null ? 0 : edge - 1, edge === null ? 1 : edge + 1];
      const [a, b] = edge === null ? [0, most] : [Math.min(least, edge), Math.max(most, edge)];
      const room = 0.08 * (b - a) || 0.1;
      return [edge === null ? 0 : a - room, b + room];
    };
    const options = () => ({
      padding: [8, 16, 0, 0],
      scales: { x: { time: false, range: () => this.seen }, y: { range } },
      axes: axes(colours),
      series: [
        {},
        span ? { ...line, fill: faded(hue, 0.15) } : line,
        ...(high ? [bound, bound] : []),
      ],
      bands: high ? [{ series: [3, 2], fill: faded(hue, 0.2) }] : [],
      hooks: {
        draw: [
          (chart) => {
            if (edge === null) return;
            const { ctx, bbox } = chart;
            const y = chart.valToPos(edge, "y", true);
            ctx.save();
            ctx.strokeStyle = colours.edge;
            ctx.lineWidth = window.devicePixelRatio || 1;
            ctx.setLineDash([6, 4]);
            ctx.beginPath();
            ctx.moveTo(bbox.left, y);
            ctx.lineTo(bbox.left + bbox.width, y);
            ctx.stroke();
            ctx.restore();
          },
        ],
      },
    });
    this.draw(theme, options, high ? [time, mean, low, high] : [time, mean]);
  }
}

/** An ellipse of two standard deviations of a covariance `[xx, xy, yy]`. */
function ellipse(context, x, y, [xx, xy, yy], scale) {
  const middle = (xx + yy) / 2;
  const apart = Math.hypot((xx - yy) / 2, xy);
  const radius = (variance) => 2 * scale * Math.sqrt(Math.max(variance, 0));
  context.beginPath();
  // The screen's y grows downwards.
  context.ellipse(
    x,
    y,
    radius(middle + apart),
    radius(middle - apart),
    -0.5 * Math.atan2(2 * xy, xx - yy),
    0,
    2 * Math.PI,
  );
}

/** The regimes' Gaussians, and where the estimate is and was. */
export function drawMap(canvas, map, regimes, estimate, trail, colours) {
  const { context, width, height } = cleared(canvas);
  const extent = (k) => {
    const ends = map.clusters.flatMap((c) =>
      [-1, 1].map((s) => c.at[k] + s * 2.2 * Math.sqrt(c.covariance[2 * k])),
    );
    if (estimate) ends.push(estimate.at[k]);
    return ends.length ? [Math.min(...ends), Math.max(...ends)] : [-1, 1];
  };
  const [[left, right], [low, high]] = [extent(0), extent(1)];
  const scale = Math.min((width - 16) / (right - left || 1), (height - 16) / (high - low || 1));
  const place = ([x, y]) => [
    width / 2 + (x - (left + right) / 2) * scale,
    height / 2 - (y - (low + high) / 2) * scale,
  ];
  const named = new Set();
  const labels = [];
  for (const c of map.clusters) {
    const hue = c.regime === null ? colours.none : colours.regimes[c.regime % 8];
    const [x, y] = place(c.at);
    ellipse(context, x, y, c.covariance, scale);
    context.fillStyle = faded(hue, 0.18);
    context.fill();
    context.strokeStyle = faded(hue, 0.7);
    context.stroke();
    const name = c.regime === null ? "unlabelled" : regimes[c.regime];
    if (!named.has(name)) {
      named.add(name);
      const wide = context.measureText(name).width;
      labels.push({ name, hue, wide, x: Math.max(2, Math.min(x - wide / 2, width - wide - 2)), y });
    }
  }
  // From the top down, each below those that it would cover.
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => {
    for (const above of labels.slice(0, i))
      if (above.x < label.x + label.wide && label.x < above.x + above.wide)
        label.y = Math.max(label.y, above.y + 13);
    context.fillStyle = label.hue;
    context.fillText(label.name, label.x, Math.min(label.y + 4, height - 2));
  });
  if (!estimate) return;
  context.strokeStyle = faded(colours.ink, 0.35);
  context.beginPath();
  trail.forEach((at, i) => {
    const [x, y] = place(at);
    if (i) context.lineTo(x, y);
    else context.moveTo(x, y);
  });
  context.stroke();
  const [x, y] = place(estimate.at);
  ellipse(context, x, y, estimate.covariance, scale);
  context.strokeStyle = colours.ink;
  context.lineWidth = 1.5;
  context.stroke();
  context.fillStyle = colours.ink;
  context.beginPath();
  context.arc(x, y, 3.5, 0, 2 * Math.PI);
  context.fill();
  context.lineWidth = 1;
}

/** Eigenvalues and the unit circle: all of them, with the circle's rightmost point, the edge. */
export function drawPlane(canvas, eigenvalues, colours) {
  const { context, width, height } = cleared(canvas);
  const re = eigenvalues.map((e) => e.re);
  const [left, right] = [Math.min(0.9, ...re), Math.max(1.05, ...re)];
  const high = Math.max(0.05, ...eigenvalues.map((e) => Math.abs(e.im)));
  const scale = Math.min((width - 40) / (right - left), (height - 40) / (2 * high));
  const middle = (left + right) / 2;
  const place = (x, y) => [width / 2 + (x - middle) * scale, height / 2 - y * scale];
  const [x0, y0] = place(0, 0);
  const step = 10 ** Math.floor(Math.log10(80 / scale));
  context.strokeStyle = colours.line;
  context.fillStyle = colours.faint;
  context.textAlign = "center";
  context.beginPath();
  context.moveTo(0, y0);
  context.lineTo(width, y0);
  const ticks = [
    Math.ceil((middle - width / 2 / scale) / step),
    Math.floor((middle + width / 2 / scale) / step),
  ];
  for (let tick = ticks[0]; tick <= ticks[1]; tick++) {
    const [x] = place(tick * step, 0);
    context.moveTo(x, y0 - 3);
    context.lineTo(x, y0 + 3);
    const text = (tick * step).toFixed(Math.max(0, Math.round(-Math.log10(step))));
    if (tick % 5 === 0 || ticks[1] - ticks[0] < 6) context.fillText(text, x, y0 + 15);
  }
  context.stroke();
  context.textAlign = "left";
  context.fillText("real", 2, y0 - 5);
  context.strokeStyle = colours.edge;
  context.setLineDash([6, 4]);
  context.beginPath();
  context.arc(x0, y0, scale, 0, 2 * Math.PI);
  context.stroke();
  context.setLineDash([]);
  for (const e of eigenvalues) {
    const [x, y] = place(e.re, e.im);
    context.fillStyle = Math.hypot(e.re, e.im) > 1 ? colours.edge : colours.regimes[0];
    context.beginPath();
    context.arc(x, y, 4, 0, 2 * Math.PI);
    context.fill();
  }
}
