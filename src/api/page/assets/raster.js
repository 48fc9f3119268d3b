// Counts of every channel on the axis of the other charts: the last minute column by column, an
// hour by half seconds.

import { PLOT_LEFT, PLOT_RIGHT, cleared } from "/page/charts.js";
import { COARSE_S, FINE_S, KEPT_S, reached } from "/page/history.js";

/** Height of a picture of few channels, and of many, px. */
const [LOW, HIGH] = [220, 512];
/** Between two channels' names, px. */
const NAME_EVERY = 13;
/** A bin that was missing, in a column. */
const MISSING = 255;

export class Raster {
  constructor(canvas) {
    this.canvas = canvas;
    this.picture = document.createElement("canvas");
    this.clear();
  }

  clear() {
    [this.rows, this.time, this.columns, this.thinned] = [0, [], [], 0];
  }

  /** Takes a frame's columns, the last of which ends at a second. */
  push(raster, end, binWidth) {
    if (raster.rows !== this.rows) {
      this.clear();
      this.rows = raster.rows;
      this.canvas.style.height = `${Math.min(Math.max(this.rows + 18, LOW), HIGH + 18)}px`;
    }
    const n = raster.columns.length;
    this.step = raster.bins_per_column * binWidth;
    raster.columns.forEach((text, i) => {
      const column = new Uint8Array(this.rows);
      if (text === ".") column.fill(MISSING);
      else for (let y = 0; y < this.rows; y++) column[y] = parseInt(text[y], 36);
      this.time.push(end - (n - 1 - i) * this.step);
      this.columns.push(column);
    });
    if (this.time.length - this.thinned > 2400) this.thin();
  }

  /** Merges columns that are not of the last minute into half seconds: the largest counts. */
  thin() {
    const newest = this.time[this.time.length - 1];
    const [time, columns] = [[], []];
    let block = null;
    this.time.forEach((t, i) => {
      if (t < newest - KEPT_S) return;
      const number = t < newest - FINE_S ? Math.floor(t / COARSE_S) : null;
      if (number === null || number !== block) {
        time.push(t);
        columns.push(this.columns[i]);
      } else {
        columns[columns.length - 1] = larger(columns[columns.length - 1], this.columns[i]);
        time[time.length - 1] = t;
      }
      block = number;
    });
    [this.time, this.columns, this.thinned] = [time, columns, time.length];
  }

  /** Draws a stretch; `cursor`: the second that is pointed at, `names` of the channels. */
  draw([from, to], colours, { names, channels, cursor }) {
    const { context, width, height } = cleared(this.canvas);
    const [left, right] = [PLOT_LEFT, width - PLOT_RIGHT];
    const wide = Math.max(1, Math.round(right - left));
    const high = height - 18;
    if (this.rows) {
      this.paint(wide, [from, to], colours);
      context.imageSmoothingEnabled = false;
      context.drawImage(this.picture, 0, 0, wide, this.rows, left, 0, wide, high);
      this.label(context, high, names, channels, colours);
    }
    context.fillStyle = colours.faint;
    context.textAlign = "center";
    const step = [0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600].find((s) => (to - from) / s <= 9) || 900;
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      const x = left + ((t - from) / (to - from)) * wide;
      context.fillText(`${+t.toFixed(1)} s`, x, height - 3);
    }
    if (cursor === null || cursor < from || cursor > to) return;
    context.fillStyle = colours.edge;
    context.fillRect(left + ((cursor - from) / (to - from)) * wide, 0, 1, high);
  }

  /** A pixel for each row and each column of the screen: the largest count that falls into it. */
  paint(wide, [from, to], colours) {
    const { picture, rows, time, columns } = this;
    if (picture.width !== wide || picture.height !== rows)
      [picture.width, picture.height] = [wide, rows];
    const context = picture.getContext("2d");
    const image = context.createImageData(wide, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const shades = shadesOf(colours);
    // Columns further apart than this have a hole between them.
    const hole = (i) => (i < this.thinned ? 1.5 * COARSE_S : 3 * this.step);
    let i = reached(time, from);
    for (let x = 0; x < wide; x++) {
      const end = from + ((x + 1) / wide) * (to - from);
      let shown = null;
      while (i < time.length && time[i] <= end) {
        shown = shown ? larger(shown, columns[i]) : columns[i];
        i++;
      }
      if (!shown && i < time.length && time[i] - end < hole(i)) shown = columns[i];
      if (!shown) continue;
      for (let y = 0; y < rows; y++) pixels[y * wide + x] = shades[shown[y]];
    }
    context.putImageData(image, 0, 0);
  }

  /** Names at the left, with a mark at each channel that is not as it should be. */
  label(context, high, names, channels, colours) {
    const n = channels?.doing.length || names?.length || this.rows;
    const perRow = Math.ceil(n / this.rows) || 1;
    context.textAlign = "right";
    const each = Math.max(1, Math.ceil((NAME_EVERY * this.rows) / high));
    for (let row = 0; row < this.rows; row += each) {
      const name = names?.[row * perRow] ?? String(row * perRow + 1);
      const y = ((row + 0.5) / this.rows) * high;
      context.fillStyle = colours.faint;
      const short = name.length > 8 ? `\u2026${name.slice(-7)}` : name;
      context.fillText(short, PLOT_LEFT - 8, Math.max(y + 4, 9));
    }
    channels?.doing.forEach((doing, channel) => {
      if (doing === "fine") return;
      const y = (Math.floor(channel / perRow) / this.rows) * high;
      context.fillStyle = doing === "artefact" ? colours.edge : colours.none;
      context.fillRect(PLOT_LEFT - 6, y, 5, Math.max(high / this.rows, 1.5));
    });
  }

  /** What is at a place of the canvas: a second, and the channels of its row. */
  at(x, y, [from, to], n) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [wide, high] = [width - PLOT_LEFT - PLOT_RIGHT, height - 18];
    const second = from + ((x - PLOT_LEFT) / wide) * (to - from);
    const row = Math.floor((y / high) * this.rows);
    if (!this.rows || row < 0 || row >= this.rows || second < from || second > to) return null;
    const perRow = Math.ceil(n / this.rows) || 1;
    return { second, channels: [row * perRow, Math.min((row + 1) * perRow, n)] };
  }
}

function larger(a, b) {
  if (a[0] === MISSING) return b;
  if (b[0] === MISSING) return a;
  return a.map((count, y) => Math.max(count, b[y]));
}

/** A pixel for each count: by the root, as counts' noise grows. */
function shadesOf({ low, high }) {
  const shades = new Uint32Array(256);
  const bytes = new Uint8Array(shades.buffer);
  for (let count = 0; count < 256; count++) {
    const share = Math.sqrt(Math.min(count, 9) / 9);
    for (let k = 0; k < 3; k++)
      bytes[4 * count + k] =
        count === MISSING ? [200, 60, 40][k] : low[k] + (high[k] - low[k]) * share;
    bytes[4 * count + 3] = 255;
  }
  return shades;
}
