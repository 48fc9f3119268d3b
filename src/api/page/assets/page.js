// The live page: one stream of server-sent events, read by hand so that it can carry a token.

import { palette, Timeline, Trace, Raster, drawMap, drawPlane } from "/page/charts.js";
import { MEANINGS, acts, showState } from "/page/state.js";

// The last minute is kept frame by frame, an hour by half seconds.
const [FINE_S, KEPT_S, COARSE_S] = [60, 3600, 0.5];
const EVENTS_KEPT = 500;
const TRAIL = 90;
const RETRY_MS = [250, 500, 1000, 2000];

const $ = (id) => document.getElementById(id);
const charts = {
  timeline: new Timeline($("timeline")),
  radius: new Trace($("radius")),
  exponent: new Trace($("exponent")),
  latency: new Trace($("latency")),
  raster: new Raster($("raster")),
};
const still = matchMedia("(prefers-reduced-motion: reduce)");
let colours = palette();
let token = sessionStorage.getItem("token") || "";
let session = null;
let facts = null;
let map = { clusters: [] };
let newest = null;
let metrics = null;
let history = empty();
let events = [];
let stream = null;
let fresh = false;
let paused = false;
let drawn = 0;
let notes = [];
let noted = 0;
let wide = 30;
let until = null;
let thinned = 0;

function empty() {
  const band = () => ({ mean: [], low: [], high: [] });
  return {
    time: [],
    posterior: [],
    regime: [],
    latency: [],
    place: [],
    radius: band(),
    exponent: band(),
  };
}

function headers() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

class Denied extends Error {}

async function ask(path, signal, more = {}) {
  const with_token = { ...headers(), ...more.headers };
  const answer = await fetch(path, { ...more, headers: with_token, signal, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403)
    throw new Denied(answer.status === 403 ? "this token is of another role" : "no such token");
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
  return answer;
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
      map = one.map;
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

const take = {
  overview({ sessions, stranger }) {
    showSessions(sessions);
    const of = sessions.find((s) => s.name === session);
    showState(of, stranger);
    if (!of) return;
    facts = of;
    showAccounts(of);
    const paused = of.state === "SESSION_STATE_PAUSED";
    $("stop").setAttribute("aria-pressed", String(paused));
    put($("stop"), paused ? "Resume the session" : "Pause the session");
    if (of.noted_ns > noted) readNotes(of.noted_ns);
  },

  change(event) {
    if (events.length && event.event_sequence <= events[0].event_sequence) return;
    events.unshift(event);
    events.length = Math.min(events.length, EVENTS_KEPT);
    showEvent(event);
    if (!event.lost) showRegime(event.to);
  },

  frame(frame) {
    // A frame of the session before may still be on its way.
    if (frame.session !== session || !facts) return;
    if (newest && frame.bin < newest.bin) [history, thinned] = [empty(), 0];
    newest = frame;
    if (frame.metrics) metrics = frame.metrics;
    const h = history;
    h.time.push(+((frame.bin + 1) * facts.bin_width_s).toFixed(4));
    h.posterior.push(frame.posterior);
    h.regime.push(frame.regime || "none yet");
    h.latency.push(frame.latency_us);
    h.place.push(frame.embedding);
    const push = (to, mean, ends) => {
      to.mean.push(mean ?? null);
      to.low.push(ends?.low ?? null);
      to.high.push(ends?.high ?? null);
    };
    push(h.radius, metrics?.spectral_radius, metrics?.spectral_radius_interval);
    const exponent = metrics?.edge?.exponent_driven_per_s;
    push(h.exponent, exponent?.mean, exponent);
    if (h.time.length - thinned > 300) thin(h);
    charts.raster.push(frame.raster, colours);
    showNow();
    fresh = true;
  },
};

/** Every series of a history. */
const series = (h) => [
  h.time,
  h.posterior,
  h.regime,
  h.latency,
  h.place,
  ...[h.radius, h.exponent].flatMap(Object.values),
];

/** Leaves out what is too old, and of what is not of the last minute all but one each half second
 * and each change. */
function thin(h) {
  const newest = h.time[h.time.length - 1];
  let last = -Infinity;
  const keep = h.time.map((t, i) => {
    const kept =
      t >= newest - FINE_S ||
      (t >= newest - KEPT_S && (t - last >= COARSE_S || h.regime[i] !== h.regime[i - 1]));
    if (kept) last = t;
    return kept;
  });
  for (const of of series(h)) {
    let n = 0;
    keep.forEach((kept, i) => {
      if (kept) of[n++] = of[i];
    });
    of.length = n;
  }
  thinned = h.time.length;
}

/** The part of the history that is looked at. */
function view(h) {
  const end = until ?? h.time[h.time.length - 1] ?? 0;
  const at = (t) => {
    let [low, high] = [0, h.time.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (h.time[middle] < t) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const [from, to] = [Math.max(0, at(end - wide) - 1), at(end + 1e-6)];
  const cut = (of) => of.slice(from, to);
  const band = (of) => Object.fromEntries(Object.entries(of).map(([k, v]) => [k, cut(v)]));
  return {
    range: [end - wide, end],
    time: cut(h.time),
    posterior: cut(h.posterior),
    regime: cut(h.regime),
    latency: cut(h.latency),
    radius: band(h.radius),
    exponent: band(h.exponent),
  };
}

/** Looks at a window that ends at a second of the session; null: at the newest. */
function lookAt(second) {
  const newest = history.time[history.time.length - 1] ?? 0;
  until = second === null || second >= newest ? null : Math.max(second, wide);
  $("live").setAttribute("aria-pressed", String(until === null));
  fresh = true;
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
  [facts, newest, metrics, history, events, map] = [
    null,
    null,
    null,
    empty(),
    [],
    { clusters: [] },
  ];
  [notes, noted, until, thinned] = [[], 0, null, 0];
  $("live").setAttribute("aria-pressed", "true");
  charts.raster.clear();
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
    ...newest.experts.map(({ name, posterior }) => {
      const best = posterior.indexOf(Math.max(...posterior));
      return [`by ${name}`, `${facts.regime_names[best]} ${posterior[best].toFixed(2)}`];
    }),
    ["log-likelihood", `${fixed(newest.log_likelihood, 3)} nats`],
  ]);
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
    const [, regime, pace, wrong] = button.children;
    button.style.setProperty("--hue", hue(s.regime, s.regime_names));
    button.setAttribute("aria-pressed", String(s.name === session));
    const state = s.state.replace("SESSION_STATE_", "").toLowerCase();
    put(regime, state === "running" ? s.regime || "no label yet" : state);
    put(pace, `${s.rate_hz.toFixed(0)} bins/s, p99 ${s.latency_p99_us} us`);
    put(wrong, s.conditions.map((c) => c.name.replaceAll("_", " ")).join(", "));
  });
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
  const seen = view(history);
  const width = facts?.bin_width_s || 0;
  const marks = notes.map((n) => ({ at: (n.bin + 1) * width, text: n.text }));
  charts.timeline.draw_of(seen, regimes, marks, colours, theme);
  charts.radius.draw_of(seen, seen.radius, 1, colours, theme);
  charts.exponent.draw_of(seen, seen.exponent, 0, colours, theme);
  charts.latency.draw_of(seen, { mean: seen.latency }, null, colours, theme);
  charts.raster.draw();
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

// ---- What the user does.

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  colours = palette();
  // Its columns have the other theme's colours.
  charts.raster.clear();
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
  const typing = event.target.matches("input, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = event.target.closest(".scroll");
  if (event.key === "t") otherTheme();
  else if (event.key === "p") pause();
  else if (event.key === "n") $("note-text").focus();
  else if (/^[1-9]$/.test(event.key)) $("sessions").children[event.key - 1]?.firstChild.click();
  else if (event.key === "ArrowDown" && !inside) step(1);
  else if (event.key === "ArrowUp" && !inside) step(-1);
  else return;
  event.preventDefault();
});
$("theme").addEventListener("click", otherTheme);
$("window").addEventListener("change", () => {
  wide = Number($("window").value);
  lookAt(until);
});
const newestSecond = () => until ?? history.time[history.time.length - 1] ?? 0;
$("earlier").addEventListener("click", () => lookAt(newestSecond() - wide / 2));
$("later").addEventListener("click", () => lookAt(newestSecond() + wide / 2));
$("live").addEventListener("click", () => lookAt(null));
acts(ask, () => session, () => readNotes(Infinity));
$("pause").addEventListener("click", pause);
new ResizeObserver(() => {
  fresh = true;
}).observe($("main"));
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener(
  "change",
  () => localStorage.getItem("theme") || theme(dark.matches ? "dark" : "light"),
);
theme(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
requestAnimationFrame(draw);
follow();
