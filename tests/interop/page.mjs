// Drives the live page in a real browser for tests/it/page.rs: reads steps from standard input,
// answers each with a line of JSON. Needs playwright-core and axe-core (REGIMED_NODE_MODULES) and
// Chromium (REGIMED_CHROMIUM, else /usr/bin/chromium).

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.REGIMED_NODE_MODULES, "x.js"))(
  "playwright-core",
);
const browser = await chromium.launch({
  executablePath: process.env.REGIMED_CHROMIUM || "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await browser.newPage({ viewport: { width: 1400, height: 1180 } });
const faults = [];
page.on("pageerror", (error) => faults.push(error.message));
page.on("console", (message) => {
  // A daemon that is gone is told of by the browser as well.
  if (message.type() === "error" && !/Failed to load resource|ERR_/.test(message.text()))
    faults.push(message.text());
});

const steps = {
  /** Opens the page, and notes when each label appears. */
  async open({ url }) {
    await page.goto(url);
    await page.evaluate(() => {
      const regime = document.getElementById("regime");
      window.seen = [];
      new MutationObserver(() => window.seen.push([regime.textContent, Date.now()])).observe(
        regime,
        { childList: true, characterData: true, subtree: true },
      );
    });
  },
  /** Waits until a selector's text is as expected. */
  async text({ selector, is, timeout = 15000 }) {
    await page.waitForFunction(
      ([s, t]) => document.querySelector(s)?.textContent === t,
      [selector, is],
      { timeout },
    );
  },
  /** Waits until a selector's text begins as expected. */
  async starts({ selector, with: text }) {
    await page.waitForFunction(
      ([s, t]) => document.querySelector(s)?.textContent.startsWith(t),
      [selector, text],
      { timeout: 15000 },
    );
  },
  async click({ selector }) {
    await page.click(selector);
  },
  async point({ x, y }) {
    await page.mouse.move(x - 5, y);
    await page.mouse.move(x, y);
  },
  /** Draws over a stretch. */
  async drag({ x, y, to }) {
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move((x + to) / 2, y);
    await page.mouse.move(to, y);
    await page.mouse.up();
  },
  /** What a button saves: its name, length, and text. */
  async download({ selector }) {
    const [saved] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
    const bytes = readFileSync(await saved.path());
    return { name: saved.suggestedFilename(), bytes: bytes.length, text: bytes.toString("utf8") };
  },
  async visible({ selector, is }) {
    await page.locator(selector).waitFor({ state: is ? "visible" : "hidden", timeout: 15000 });
  },
  async press({ key }) {
    await page.keyboard.press(key);
  },
  async fill({ selector, text }) {
    await page.fill(selector, text);
    await page.keyboard.press("Enter");
  },
  async size({ width, height }) {
    await page.setViewportSize({ width, height });
  },
  async evaluate({ js }) {
    return page.evaluate(js);
  },
  /** What axe-core finds wrong for those who read with other than their eyes. */
  async accessible() {
    const require = createRequire(join(process.env.REGIMED_NODE_MODULES, "x.js"));
    await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const { passes, violations } = await page.evaluate(() => axe.run());
    return {
      passed: passes.length,
      violations: violations.map((v) => `${v.id}: ${v.nodes[0].html}`),
    };
  },
  async screenshot({ path }) {
    await page.screenshot({ path });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line);
  try {
    const answer = await steps[step.do](step);
    console.log(JSON.stringify({ answer: answer ?? null, faults }));
  } catch (error) {
    console.log(JSON.stringify({ error: `${JSON.stringify(step)}: ${error.message}`, faults }));
  }
}
await browser.close();
