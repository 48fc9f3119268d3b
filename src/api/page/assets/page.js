// The live page: one stream of server-sent events, read by hand so that it can carry a token.

import { acts, showChoices } from "/page/acts.js";
import { Alerts } from "/page/alerts.js";
import { Timeline, Trace, drawMap, drawPlane, palette } from "/page/charts.js";
import { History } from "/page/history.js";
import { Raster } from "/page/raster.js";
import { saveCsv, savePicture } from "/page/save.js";
import { MEANINGS, showState } from "/page/state.js";

const EVENTS_KEPT = 500;
const TRAIL = 90;
const RETRY_MS = [250, 500, 1000, 2000];

const $ = (id) => document.getElementById(id);
const on = { point: pointed, stretch: (from, to) => zoom(from, to) };
const charts = {
  timeline: new Timeline($("timeline"), on),
  radius: new Trace($("radius"), on),
  exponent: new Trace($("exponent"), on),
  chaos: new Trace($("chaos"), on),
  latency: new Trace($("latency"), on),
};
const raster = new Raster($("raster"));
const history = new History();
const alerts = new Alerts();
const still = matchMedia("(prefers-reduced-motion: reduce)");
let colours = palette();
let token = sessionStorage.getItem("token") || "";
let session = null;
let facts = null;
let map = { clusters: [] };
/** Names and learned rates of the channels, and what each does now. */
let channels = { names: null, learned_hz: null };
let doing = null;
let newest = null;
let metrics = null;
let events = [];
let stream = null;
let fresh = false;
let paused = false;
let drawn = 0;
let notes = [];
let noted = 0;
/** Seconds that are looked at, and those of the window that was chosen last. */
let [wide, chosen] = [30, 30];
let until = null;
/** The second that is pointed at, by which chart, and what else is there. */
let cursor = { second: null, by: null, more: "" };
/** Labels of every session in the last minute, for its tile. */
const lanes = new Map();
const LANE = 300;

function headers() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

class Denied extends Error {}

async function ask(path, signal, more = {}) {
  const with_token = { ...headers(), ...more.headers };
  const answer = await fetch(path, { ...more, headers: with_token, signal, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403)
    throw new Denied(answer.status === 403 ? "this token is of another role" : "no such token");
  if (!answer.ok) throw new Error(wordsOf(await answer.text()).slice(0, 400));
  return answer;
}

/** The daemon's own words, where it gave some. */
function wordsOf(text) {
  try {
    return JSON.parse(text).error || text;
  } catch {
    return text;
  }
}

function say(state, text) {
  if ($("link").dataset.state === state && $("link").textContent === text) return;
  $("link").dataset.state = state;
  $("link").textContent = text;
}

// ---- The stream.

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function follow() {
  for (let failed = 0; ;) {
    stream = new AbortController();
    const mine = stream;
    try {
      const listed = await (await ask("/api/sessions", mine.signal)).json();
      $("token").hidden = true;
      if (!listed.sessions.some((s) => s.name === session))
        choose(listed.sessions[0]?.name ?? null);
      if (session === null) {
        say("live", "live");
        $("lost").hidden = true;
        showState(null, null);
        await wait(1000);
        continue;
      }
      const one = await (
        await ask(`/api/sessions/${encodeURIComponent(session)}`, mine.signal)
      ).json();
      facts = one.session;
      ({ map, channels } = one);
      showChoices(one.choices, facts);
      alerts.of(session, facts.regime_names);
      metrics = one.metrics || metrics;
      // Without a journal, a daemon that was started again counts its events from 1.
      if (events.length && facts.last_event_sequence < events[0].event_sequence) events = [];
      const after = events.length ? `&after=${events[0].event_sequence}` : "";
      const answer = await ask(
        `/api/stream?session=${encodeURIComponent(session)}${after}`,
        mine.signal,
      );
      failed = 0;
      say("live", "live");
      $("lost").hidden = true;
      await read(answer.body.getReader(), mine);
      throw new Error("the daemon has ended the stream");
    } catch (error) {
      if (mine.signal.aborted) continue;
      if (error instanceof Denied) {
        await askForToken(error);
        continue;
      }
      const why = error.message || String(error);
      say("lost", "not connected");
      $("lost").textContent =
        `The daemon is not heard (${why}): what is shown is old. It is tried again and again.`;
      $("lost").hidden = false;
      await wait(RETRY_MS[Math.min(failed++, RETRY_MS.length - 1)]);
    }
  }
}

async function read(reader, mine) {
  const decoder = new TextDecoder();
  for (let text = ""; ;) {
    // Overviews come ten times a second: silence means that the daemon, or the way to it, is gone.
    const patience = setTimeout(() => reader.cancel().catch(() => {}), 3000);
    const { done, value } = await reader.read();
    clearTimeout(patience);
    if (done || mine.signal.aborted) return;
    text += decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (\w+)\ndata: (.*)$/s) || [];
      if (name) take[name]?.(JSON.parse(data));
    }
  }
}

/** What a session runs on: model, calibration, rule. */
const runs = (of) => [of.model, of.calibration.state, of.false_changes_per_min].join();

const take = {
  overview({ sessions, stranger }) {
    showSessions(sessions);
    const of = sessions.find((s) => s.name === session);
    showState(of, stranger);
    if (!of) return;
    // What stands still of a session is asked for anew once it is another's.
    if (facts && runs(facts) !== runs(of)) stream?.abort();
    facts = of;
    showAccounts(of);
    const paused = of.state === "SESSION_STATE_PAUSED";
    $("stop").setAttribute("aria-pressed", String(paused));
    put($("stop"), paused ? "Resume the session" : "Pause the session");
    $("arm").hidden = !of.triggers.length;
    $("arm").setAttribute("aria-pressed", String(of.triggers_armed));
    put($("arm"), of.triggers_armed ? "Disarm the triggers" : "Arm the triggers");
    if (of.noted_ns > noted) readNotes(of.noted_ns);
  },

  change(event) {
    if (events.length && event.event_sequence <= events[0].event_sequence) return;
    events.unshift(event);
    events.length = Math.min(events.length, EVENTS_KEPT);
    showEvent(event);
    if (!event.lost) showRegime(event.to);
  },

  channels(of) {
    if (of.session !== session) return;
    doing = of;
    showChannels();
  },

  frame(frame) {
    // A frame of the session before may still be on its way.
    if (frame.session !== session || !facts) return;
    // The session began anew: what was before is on another time.
    if (newest && frame.bin < newest.bin) {
      history.clear();
      raster.clear();
    }
    newest = frame;
    if (frame.metrics) metrics = frame.metrics;
    history.push(frame, metrics, facts.bin_width_s);
    raster.push(frame.raster, history.end, facts.bin_width_s);
    alerts.take(frame.regime || "");
    showNow();
    fresh = true;
  },
};

/** Looks at a window that ends at a second of the session; null: at the newest. */
function lookAt(second) {
  until = second === null || second >= history.end ? null : Math.max(second, wide);
  $("live").setAttribute("aria-pressed", String(until === null));
  fresh = true;
}

/** Back to the newest, in the window of before. */
function live() {
  wide = chosen;
  $("window").value = String(chosen);
  lookAt(null);
}

/** Looks at a stretch that was drawn over. */
function zoom(from, to) {
  wide = Math.max(to - from, 0.5);
  $("window").value = "";
  lookAt(to >= history.end ? null : to);
}

const widths = () => [...$("window").options].map((o) => Number(o.value)).filter((w) => w > 0);

/** The next wider window, or the next narrower one. */
function widen(by) {
  const all = widths();
  const next = by > 0 ? all.find((w) => w > wide) : all.findLast((w) => w < wide);
  if (!next) return;
  wide = chosen = next;
  $("window").value = String(next);
  lookAt(until);
}

/** A chart is pointed at: all show the second, and the line says what was then. */
function pointed(second, by, more = "") {
  if (second === null && by !== cursor.by) return;
  cursor = { second, by, more };
  for (const chart of Object.values(charts)) if (chart !== by) chart.show(second);
  showCursor();
  if (paused || until !== null) drawRaster(history.view(until, wide).range);
}

function showCursor() {
  const i = cursor.second === null ? -1 : history.at(cursor.second);
  if (i < 0) {
    put($("cursor"), "Point at a chart for its numbers; draw over a stretch to look closer.");
    return;
  }
  const at = (ms) => {
    const time = new Date(ms);
    const tenths = String(Math.floor(time.getMilliseconds() / 100));
    return `${time.toLocaleTimeString([], { hour12: false })}.${tenths}`;
  };
  const p = history.posterior[i][facts.regime_names.indexOf(history.regime[i])];
  const parts = [
    `${history.time[i].toFixed(2)} s`,
    at(history.clock[i]),
    history.regime[i] + (p === undefined ? "" : ` p ${p.toFixed(2)}`),
    `radius ${fixed(history.radius.mean[i], 3)}`,
    `exponent ${fixed(history.exponent.mean[i], 2)} /s`,
    `${history.latency[i]} us`,
  ];
  put($("cursor"), parts.join(" \u00b7 ") + (cursor.more ? ` \u00b7 ${cursor.more}` : ""));
}

async function readNotes(of) {
  if (Number.isFinite(of)) noted = of;
  const name = session;
  try {
    const path = `/api/sessions/${encodeURIComponent(name)}/annotations`;
    const { annotations } = await (await ask(path)).json();
    if (name === session) notes = annotations;
    fresh = true;
  } catch {
    // Asked again with the next overview.
    noted = 0;
  }
}

function choose(name) {
  if (name === session) return;
  session = name;
  [facts, newest, metrics, events, map] = [null, null, null, [], { clusters: [] }];
  [notes, noted, until, doing] = [[], 0, null, null];
  history.clear();
  $("live").setAttribute("aria-pressed", "true");
  raster.clear();
  showChannels();
  $("events").replaceChildren();
  $("name").textContent = name ?? "no session yet";
  document.title = name ? `${name} - regimed` : "regimed";
  $("regime").textContent = "\u2013";
  $("regime").style.removeProperty("--hue");
  fresh = true;
}

function look(name) {
  if (name === session) return;
  choose(name);
  stream?.abort();
}

// ---- Words and numbers.

function hue(regime, regimes) {
  const at = (regimes || []).indexOf(regime);
  return at < 0 ? "var(--none)" : `var(--c${at % 8})`;
}

function element(name, text, set = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  Object.assign(made, set);
  return made;
}

/** Text of an element, changed only where it differs: screen readers announce changes alone. */
function put(of, text) {
  if (of.textContent !== text) of.textContent = text;
}

const fixed = (x, digits) => (x === null || x === undefined ? "\u2013" : x.toFixed(digits));
const between = (e, digits) =>
  e ? `${fixed(e.mean, digits)} (${fixed(e.low, digits)} to ${fixed(e.high, digits)})` : "\u2013";

function showRegime(regime) {
  put($("regime"), regime || "no label yet");
  $("regime").style.setProperty("--hue", hue(regime, facts?.regime_names));
}

function pairs(list, entries) {
  if (list.children.length !== 2 * entries.length) {
    list.replaceChildren(
      ...entries.flatMap(([name]) => [
        element("dt", name, { title: MEANINGS[name] || "" }),
        element("dd", "", { id: `v-${name.replaceAll(" ", "-")}`, title: MEANINGS[name] || "" }),
      ]),
    );
  }
  entries.forEach(([, value], i) => put(list.children[2 * i + 1], value));
}

function showNow() {
  showRegime(newest.regime);
  $("regime").dataset.bin = newest.bin;
  // Of dynamics that are not known, or not believed, the posterior says nothing.
  document.body.dataset.unknown = String(newest.untrusted || newest.regime === "unknown");
  const at = facts.regime_names.indexOf(newest.regime);
  const p = at < 0 ? null : newest.posterior[at];
  put(
    $("certainty"),
    newest.untrusted
      ? "not calibrated: labels are not to be believed"
      : p === null
        ? ""
        : `p ${p.toFixed(2)}`,
  );
  const list = $("posterior");
  if (list.children.length !== newest.posterior.length) {
    list.replaceChildren(
      ...facts.regime_names.map((name, i) => {
        const item = element("li", name);
        item.style.setProperty("--hue", `var(--c${i % 8})`);
        item.append(element("span", ""), element("meter", "", { min: 0, max: 1 }));
        return item;
      }),
    );
  }
  newest.posterior.forEach((p, i) => {
    const [value, meter] = list.children[i].children;
    put(value, p.toFixed(2));
    value.dataset.value = p;
    meter.value = p;
  });
  showExperts();
  const m = metrics || {};
  pairs($("numbers"), [
    ["bin", String(newest.bin)],
    ["novelty", fixed(newest.novelty, 2)],
    ["spectral radius", fixed(m.spectral_radius, 4)],
    ["spectral abscissa", `${fixed(m.spectral_abscissa_per_s, 2)} /s`],
    ["leading frequency", `${fixed(m.leading_frequency_hz, 2)} Hz`],
    ["exponent of the fit", `${between(m.lyapunov_max_driven_per_s, 1)} /s`],
    ["exponent by counts", byCounts(m.edge)],
    ["P(chaos) by counts", fixed(m.edge?.exponent_driven_per_s && m.edge.p_chaos, 2)],
    [
      "signature",
      (m.signature || "\u2013").replace("SIGNATURE_", "").replace("_", "-").toLowerCase(),
    ],
    ["stable points", m.fixed_points ? String(m.fixed_points.stable) : "\u2013"],
    ["log-likelihood", `${fixed(newest.log_likelihood, 3)} nats`],
  ]);
}

/** What each expert says alone: a row each, a column for each regime. */
function showExperts() {
  const table = $("experts");
  table.hidden = !newest.experts.length;
  const shape = `${newest.experts.length} ${facts.regime_names.join(" ")}`;
  if (table.dataset.shape !== shape) {
    table.dataset.shape = shape;
    const head = element("tr", "");
    head.append(element("th", "expert", { scope: "col" }));
    facts.regime_names.forEach((name, i) => {
      const cell = element("th", String(i + 1), { scope: "col", title: name });
      cell.style.setProperty("--hue", `var(--c${i % 8})`);
      head.append(cell);
    });
    const rows = newest.experts.map(({ name }) => {
      const row = element("tr", "");
      row.append(element("th", name, { scope: "row" }));
      facts.regime_names.forEach((regime, i) => {
        const cell = element("td", "", { title: `${regime} by ${name} alone` });
        cell.style.setProperty("--hue", `var(--c${i % 8})`);
        row.append(cell);
      });
      return row;
    });
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...rows);
  }
  newest.experts.forEach(({ posterior }, e) => {
    posterior.forEach((p, r) => {
      const cell = table.tBodies[0].rows[e].cells[r + 1];
      put(cell, p.toFixed(2).replace("0.", "."));
      cell.style.setProperty("--p", `${Math.round(70 * p)}%`);
    });
  });
}

const named = (i) => channels.names?.[i] ?? `channel ${i + 1}`;

/** The channels that are not as they should be, and the busiest of the others. */
function showChannels() {
  const list = $("channels");
  const n = doing?.doing.length ?? 0;
  const odd = (kind) => [...Array(n).keys()].filter((i) => doing.doing[i] === kind);
  const total = n ? doing.rate_hz.reduce((a, b) => a + b, 0) / n : 0;
  const kinds = ["silent", "artefact", "masked"].map((kind) => [kind, n ? odd(kind) : []]);
  const counts = kinds.map(([kind, of]) => `${of.length} ${kind}`);
  put(
    $("channels-said"),
    n ? `${n} channels, ${total.toFixed(1)} Hz on average; ${counts.join(", ")}` : "",
  );
  const fine = n ? odd("fine").sort((a, b) => doing.rate_hz[b] - doing.rate_hz[a]) : [];
  const shown = [...kinds.flatMap(([, of]) => of), ...fine].slice(0, 64);
  const most = Math.max(1, ...shown.map((i) => doing.rate_hz[i]));
  while (list.rows.length > shown.length) list.deleteRow(-1);
  shown.forEach((i, at) => {
    const row = list.rows[at] ?? list.insertRow();
    while (row.cells.length < 3) row.insertCell();
    const [name, rate, what] = row.cells;
    const learned = fixed(channels.learned_hz?.[i], 1);
    put(name, named(i));
    put(rate, `${doing.rate_hz[i].toFixed(1)} Hz`);
    put(what, doing.doing[i] === "fine" ? `of ${learned}` : doing.doing[i]);
    row.title = MEANINGS[doing.doing[i]] || `The model learned ${learned} Hz.`;
    row.dataset.doing = doing.doing[i];
    row.style.setProperty("--p", `${Math.round((100 * doing.rate_hz[i]) / most)}%`);
  });
}

function byCounts(edge) {
  if (!edge) return "from 20 s on";
  const of = edge.exponent_driven_per_s;
  return of ? `${between(of, 1)} /s` : "not resolved";
}

function showAccounts(of) {
  const a = of.accounts;
  const accounts = [
    ["received", String(a.bins_received)],
    ["processed", String(of.bins - of.bins_missing)],
    ["waiting", String(a.bins_waiting)],
    ["missing", String(of.bins_missing)],
    ["late", String(a.bins_late)],
    ["rejected", String(a.bins_rejected)],
    ["bins a second", of.rate_hz.toFixed(1)],
    ["latency p50", `${of.latency_p50_us} us`],
    ["latency p99", `${of.latency_p99_us} us`],
    ["lost by this page", String(of.lost)],
  ];
  if (of.clock) accounts.push(["clock offset", `${(of.clock.offset_s * 1e3).toFixed(2)} ms`]);
  if (of.source)
    accounts.push([
      "rig",
      `${of.source.description}${of.source.connected ? "" : " (not connected)"}`,
    ]);
  pairs($("accounts"), accounts);
  const list = $("conditions");
  const shown = of.conditions.map(
    (c) => `${c.name.replaceAll("_", " ")}: ${c.detail} \u2192 ${c.cure}`,
  );
  if ([...list.children].map((c) => c.textContent).join() !== shown.join())
    list.replaceChildren(...shown.map((text) => element("li", text)));
}

function showSessions(sessions) {
  const list = $("sessions");
  const names = sessions.map((s) => s.name);
  if ([...list.children].map((c) => c.dataset.name).join("\n") !== names.join("\n")) {
    const focused = document.activeElement?.closest?.("#sessions li")?.dataset.name;
    list.replaceChildren(
      ...names.map((name) => {
        const item = element("li", "");
        item.dataset.name = name;
        const button = element("button", "", { type: "button" });
        button.append(
          element("b", name),
          element("span", ""),
          element("small", ""),
          element("small", "", { className: "wrong" }),
          element("canvas", "", { ariaHidden: "true" }),
        );
        button.addEventListener("click", () => look(name));
        item.append(button);
        return item;
      }),
    );
    if (focused) list.querySelector(`[data-name="${CSS.escape(focused)}"] button`)?.focus();
  }
  sessions.forEach((s, i) => {
    const button = list.children[i].firstChild;
    const [, regime, pace, wrong, lane] = button.children;
    button.style.setProperty("--hue", hue(s.regime, s.regime_names));
    button.setAttribute("aria-pressed", String(s.name === session));
    const state = s.state.replace("SESSION_STATE_", "").toLowerCase();
    put(regime, state === "running" ? s.regime || "no label yet" : state);
    put(pace, `${s.rate_hz.toFixed(0)} bins/s, p99 ${s.latency_p99_us} us`);
    put(wrong, s.conditions.map((c) => c.name.replaceAll("_", " ")).join(", "));
    const seen = lanes.get(s.name) ?? [];
    lanes.set(s.name, seen);
    seen.push(s.regime ? s.regime_names.indexOf(s.regime) : -2);
    // Overviews come ten times a second; a lane is of the last minute, two readings a pixel.
    if (seen.length > 2 * LANE) seen.splice(0, seen.length - 2 * LANE);
    drawLane(lane, seen);
  });
}

/** The labels of the last minute, from left to right. */
function drawLane(canvas, seen) {
  if (canvas.width !== LANE || canvas.height !== 1) [canvas.width, canvas.height] = [LANE, 1];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, LANE, 1);
  const first = LANE - seen.length / 2;
  for (let i = 0; i < seen.length; ) {
    let j = i;
    while (j < seen.length && seen[j] === seen[i]) j++;
    if (seen[i] !== -2) {
      context.fillStyle = seen[i] < 0 ? colours.none : colours.regimes[seen[i] % 8];
      context.fillRect(first + i / 2, 0, (j - i) / 2, 1);
    }
    i = j;
  }
}

function showEvent(e) {
  const row = element("tr", "");
  row.dataset.number = e.event_sequence;
  const at = new Date(e.decision_time_ns / 1e6).toLocaleTimeString([], { hour12: false });
  const cells = e.lost
    ? [e.event_sequence, "lost with the journal's disk", "", "", "", "", "", ""]
    : [
        e.event_sequence,
        at,
        ((e.bin + 1) * (facts?.bin_width_s || 0)).toFixed(1),
        e.bin,
        e.from || "(start)",
        e.to,
        e.probability.toFixed(2),
        `${e.onset_bin} (${e.onset_low_bin} to ${e.onset_high_bin})`,
      ];
  row.append(...cells.map((cell) => element("td", String(cell))));
  if (!e.lost) {
    row.title = "Show it in the charts";
    row.addEventListener("click", () =>
      lookAt((e.bin + 1) * (facts?.bin_width_s || 0) + wide / 2),
    );
  }
  $("events").prepend(row);
  while ($("events").children.length > EVENTS_KEPT) $("events").lastChild.remove();
}

// ---- Pictures.

function draw(now) {
  requestAnimationFrame(draw);
  // A long window is drawn less often.
  const pause = still.matches ? 1000 : wide > 60 ? 500 : 0;
  if (!fresh || paused || now - drawn < pause) return;
  [fresh, drawn] = [false, now];
  const theme = document.documentElement.dataset.theme;
  const regimes = facts?.regime_names || [];
  const seen = history.view(until, wide);
  const width = facts?.bin_width_s || 0;
  const marks = notes.map((n) => ({ at: (n.bin + 1) * width, text: n.text }));
  charts.timeline.draw_of(seen, regimes, marks, colours, theme);
  charts.radius.draw_of(seen, seen.radius, 1, colours, theme);
  charts.exponent.draw_of(seen, seen.exponent, 0, colours, theme);
  charts.chaos.draw_of(seen, { mean: seen.chaos }, null, colours, theme, [0, 1]);
  charts.latency.draw_of(seen, { mean: seen.latency }, null, colours, theme);
  drawRaster(seen.range);
  if (cursor.second !== null) showCursor();
  const estimate = newest && { at: newest.embedding, covariance: newest.ellipse };
  drawMap($("map"), map, regimes, estimate, history.place.slice(-TRAIL), colours);
  const eigenvalues = metrics?.map_eigenvalues || [];
  drawPlane($("plane"), eigenvalues, colours);
  if (!newest) return;
  const label = (id, text) => {
    if ($(id).ariaLabel !== text) $(id).ariaLabel = text;
  };
  const at = newest.embedding.map((x) => x.toFixed(1)).join(", ");
  label("map", `Embedding map: the estimate is at ${at}, label ${newest.regime || "none yet"}`);
  const outside = eigenvalues.filter((e) => Math.hypot(e.re, e.im) > 1).length;
  label(
    "plane",
    `${eigenvalues.length} eigenvalues, ${outside} outside the unit circle, ` +
      `spectral radius ${fixed(metrics?.spectral_radius, 3)}`,
  );
}

function drawRaster(range) {
  const with_names = { names: channels.names, channels: doing, cursor: cursor.second };
  raster.draw(range, colours, with_names);
}

// ---- What the user does.

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  colours = palette();
  fresh = true;
}

function otherTheme() {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", name);
  theme(name);
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  put($("pause"), paused ? "Go on" : "Hold");
}

function askForToken(why) {
  say("lost", "who are you?");
  $("token").hidden = false;
  put($("denied"), token ? `Not let in: ${why.message}.` : "");
  $("secret").focus();
  return new Promise((resolve) => {
    $("token").onsubmit = (event) => {
      event.preventDefault();
      token = $("secret").value.trim();
      $("secret").value = "";
      sessionStorage.setItem("token", token);
      resolve();
    };
  });
}

function step(by) {
  const names = [...$("sessions").children].map((c) => c.dataset.name);
  const at = names.indexOf(session) + by;
  if (names[at] === undefined) return;
  look(names[at]);
  $("sessions").children[at].firstChild.focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = event.target.closest(".scroll");
  if (event.key === "t") otherTheme();
  else if (event.key === "p") pause();
  else if (event.key === "n") $("note-text").focus();
  else if (event.key === "l") live();
  else if (event.key === "+") widen(-1);
  else if (event.key === "-") widen(1);
  else if (event.key === "ArrowLeft") lookAt((until ?? history.end) - wide / 2);
  else if (event.key === "ArrowRight") lookAt((until ?? history.end) + wide / 2);
  else if (/^[1-9]$/.test(event.key)) $("sessions").children[event.key - 1]?.firstChild.click();
  else if (event.key === "ArrowDown" && !inside) step(1);
  else if (event.key === "ArrowUp" && !inside) step(-1);
  else return;
  event.preventDefault();
});
$("theme").addEventListener("click", otherTheme);
$("window").addEventListener("change", () => {
  wide = chosen = Number($("window").value);
  lookAt(until);
});
$("earlier").addEventListener("click", () => lookAt((until ?? history.end) - wide / 2));
$("later").addEventListener("click", () => lookAt((until ?? history.end) + wide / 2));
$("live").addEventListener("click", live);
for (const id of ["timeline", "radius", "exponent", "chaos", "latency", "raster"])
  $(id).addEventListener("dblclick", live);
$("raster").addEventListener("mousemove", (event) => {
  const n = doing?.doing.length ?? facts?.n_channels ?? 0;
  const { range } = history.view(until, wide);
  const at = raster.at(event.offsetX, event.offsetY, range, n);
  if (!at) return pointed(null, raster);
  const [first, last] = at.channels;
  const of = (i) =>
    doing
      ? `${named(i)} ${fixed(doing.rate_hz[i], 1)} of ${fixed(channels.learned_hz?.[i], 1)} Hz` +
        (doing.doing[i] === "fine" ? "" : ` (${doing.doing[i]})`)
      : named(i);
  const more = last - first > 1 ? `${named(first)} to ${named(last - 1)}` : of(first);
  pointed(at.second, raster, more);
});
$("raster").addEventListener("mouseleave", () => pointed(null, raster));
$("save-csv").addEventListener("click", () =>
  saveCsv(session ?? "session", history.view(until, wide), facts?.regime_names || []),
);
$("save-png").addEventListener("click", () => savePicture(session ?? "session", $("main")));
acts(
  ask,
  () => session,
  () => readNotes(Infinity),
  // What the session is has changed: it is asked for anew.
  () => stream?.abort(),
);
$("pause").addEventListener("click", pause);
new ResizeObserver(() => {
  fresh = true;
}).observe($("main"));
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener(
  "change",
  () => localStorage.getItem("theme") || theme(dark.matches ? "dark" : "light"),
);
showCursor();
theme(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
requestAnimationFrame(draw);
follow();
