// What a person does about a session: notes, pauses, another model or rate, an end, a beginning.

const $ = (id) => document.getElementById(id);

const EXAMPLE = `[[session]]
name = "rig2"
model = "builtin"
readout = "0"
`;

/** `ask` is a request that carries the token; `session` the one that is looked at; `noted` is
 * called after a note, `changed` after anything else. */
export function acts(ask, session, noted, changed) {
  const say = (text, wrong) => {
    $("said").textContent = text;
    $("said").classList.toggle("wrong", wrong);
  };
  const post = async (path, body, done) => {
    try {
      const answer = await ask(path, undefined, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      done(await answer.json());
    } catch (error) {
      const why = error.message || String(error);
      say(why.includes("role") ? "This needs a token of the role \u2018control\u2019." : why, true);
    }
  };
  const of = (what) => `/api/sessions/${encodeURIComponent(session())}/${what}`;
  $("note").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("note-text").value.trim();
    if (!text || !session()) return;
    post(of("annotations"), { text }, ({ annotation }) => {
      $("note-text").value = "";
      // Keys are the page's again.
      $("note-text").blur();
      say(`Noted at bin ${annotation.bin}.`, false);
      noted();
    });
  });
  $("stop").addEventListener("click", () => {
    const paused = $("stop").getAttribute("aria-pressed") !== "true";
    post(of("paused"), { paused }, () => say(paused ? "Paused." : "Resumed.", false));
  });
  $("arm").addEventListener("click", () => {
    const armed = $("arm").getAttribute("aria-pressed") !== "true";
    post(of("armed"), { armed }, () => say(armed ? "Triggers act." : "Triggers rest.", false));
  });
  $("swap").addEventListener("submit", (event) => {
    event.preventDefault();
    const [model, readout] = [$("swap-model").value.trim(), $("swap-readout").value.trim()];
    const rate = Number($("swap-rate").value);
    const now = $("swap").dataset;
    // What is as it was is not named: a readout of the session's own making is in no file.
    const asked = {};
    if (model !== now.model) asked.model = model;
    if (readout !== now.readout) asked.readout = readout;
    if (rate > 0) asked.false_changes_per_min = rate;
    if (!Object.keys(asked).length) {
      say("It runs that already.", false);
      return;
    }
    say("Another model is warmed up on the session\u2019s own counts.", false);
    post(of("model"), asked, ({ session: now }) => {
      say(`It runs ${now.model}.`, false);
      changed();
    });
  });
  let sure = null;
  $("end").addEventListener("click", () => {
    if (sure === session()) {
      [sure, $("end").textContent] = [null, "End the session"];
      post(of("stopped"), null, ({ session: ended }) => {
        say(`${ended.name} has ended after ${ended.bins} bins.`, false);
        changed();
      });
      return;
    }
    sure = session();
    $("end").textContent = `Really end ${sure}?`;
    setTimeout(() => ([sure, $("end").textContent] = [null, "End the session"]), 4000);
  });
  $("start").addEventListener("submit", (event) => {
    event.preventDefault();
    post("/api/sessions", { config: $("start-config").value }, ({ session: begun }) => {
      say(`${begun.name} has begun.`, false);
      changed();
    });
  });
  $("start-config").value = EXAMPLE;
}

/** What could be run instead, beside what runs. */
export function showChoices(choices, facts) {
  const { model, readout, models, readouts } = choices;
  const made = JSON.stringify([choices, facts.false_changes_per_min]);
  const form = $("swap");
  if (form.dataset.made === made) return;
  Object.assign(form.dataset, { made, model, readout });
  const options = (list, values) =>
    list.replaceChildren(
      ...values.map(([value, text]) => Object.assign(new Option(text, value), { value })),
    );
  options($("models"), models.map((m) => [m, m]));
  options($("readouts"), readouts.map((r) => [r, r]));
  $("swap-model").value = model;
  $("swap-readout").value = readout;
  const rate = facts.false_changes_per_min;
  const late = (s) => (s === null ? "" : `, ${s.toFixed(2)} s late`);
  const rates = choices.false_changes_per_min
    .filter(([r]) => r > 0)
    .map(([r, s]) => [r, `${+r.toPrecision(2)} a minute${late(s)}`]);
  const now = rate ? `as now, ${rate} a minute` : "the model\u2019s own";
  options($("swap-rate"), [[0, now], ...rates]);
}
