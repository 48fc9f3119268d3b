// What is shown, as a file: numbers as CSV, the page as a picture.

function give(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** The stretch that is looked at, a line for each frame. */
export function csv(seen, regimes) {
  const bands = [
    ["spectral_radius", seen.radius],
    ["exponent_driven_per_s", seen.exponent],
  ];
  const head = [
    "second",
    "time",
    "regime",
    ...regimes.map((name) => `p_${name}`),
    ...bands.flatMap(([name]) => [name, `${name}_low`, `${name}_high`]),
    "p_chaos",
    "latency_us",
  ];
  const lines = seen.time
    .map((second, i) => [
      second,
      new Date(seen.clock[i]).toISOString(),
      quoted(seen.regime[i]),
      ...seen.posterior[i],
      ...bands.flatMap(([, b]) => [b.mean[i], b.low[i], b.high[i]]),
      seen.chaos[i],
      seen.latency[i],
    ])
    // The frame before the stretch is there for the charts' left edge alone.
    .filter(([second]) => second >= seen.range[0]);
  return [head.map(quoted), ...lines].map((line) => line.join(",")).join("\n") + "\n";
}

export function saveCsv(session, seen, regimes) {
  const [from, to] = seen.range.map((t) => Math.max(0, t).toFixed(0));
  const text = csv(seen, regimes);
  give(`${session}-${from}-${to}-s.csv`, new Blob([text], { type: "text/csv" }));
}

/** The session's sections as a picture: boxes, canvases, and every text where it stands. */
export function picture(main) {
  const ratio = window.devicePixelRatio || 1;
  const whole = main.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [whole.width * ratio, whole.height * ratio];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, -whole.left * ratio, -whole.top * ratio);
  context.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  context.fillRect(whole.left, whole.top, whole.width, whole.height);
  for (const section of main.querySelectorAll(":scope > section")) {
    const box = section.getBoundingClientRect();
    const style = getComputedStyle(section);
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    context.fillStyle = style.backgroundColor;
    context.fillRect(box.left, box.top, box.width, box.height);
    context.strokeStyle = style.borderTopColor;
    context.strokeRect(box.left, box.top, box.width, box.height);
    for (const part of section.querySelectorAll("canvas")) {
      const at = part.getBoundingClientRect();
      if (at.width) context.drawImage(part, at.left, at.top, at.width, at.height);
    }
    texts(context, section);
    context.restore();
  }
  return canvas;
}

function texts(context, section) {
  const walker = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const words = node.textContent.trim();
    if (!words || node.parentElement.closest("form, select, button, details")) continue;
    range.selectNodeContents(node);
    const [at] = range.getClientRects();
    const scroll = node.parentElement.closest(".scroll")?.getBoundingClientRect();
    if (!at || (scroll && (at.bottom > scroll.bottom || at.top < scroll.top))) continue;
    const style = getComputedStyle(node.parentElement);
    context.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    context.fillStyle = style.color;
    context.textBaseline = "middle";
    context.fillText(words.replace(/\s+/g, " "), at.left, (at.top + at.bottom) / 2);
  }
}

export function savePicture(session, main) {
  picture(main).toBlob((blob) => blob && give(`${session}.png`, blob), "image/png");
}
