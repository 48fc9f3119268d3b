// What there is to say where there is nothing to draw, and what each number means.

const $ = (id) => document.getElementById(id);

/** A sentence for each number, with its unit. */
export const MEANINGS = {
  bin: "Bins done so far, predicted ones included.",
  novelty:
    "How unlike anything learned the dynamics are, over a second: above 1 the label is unknown.",
  "spectral radius":
    "Of the fitted network's map from bin to bin: 1 is the edge between fading and growing.",
  "spectral abscissa": "The same in continuous time, 1/s: 0 is the edge.",
  "leading frequency": "Frequency of the slowest-fading mode, Hz; 0 where it does not turn.",
  "exponent of the fit":
    "Largest Lyapunov exponent of the fit driven by its noise, 1/s, with its 90 % interval.",
  "exponent by counts":
    "Largest driven Lyapunov exponent by the counts alone, whatever the model, 1/s, clipped to 2.",
  "P(chaos) by counts": "Probability that the exponent by the counts is above 0.",
  signature: "What kind of dynamics the fitted network's invariants show, beside the label.",
  "stable points": "Stable fixed points of the fitted network.",
  silent: "No spike came where 14 were expected: it does not inform until it fires again.",
  artefact:
    "It fires over five times what was learned, and more than chance explains; without anything " +
    "learned, above 300 Hz.",
  masked: "The rig says that this channel does not inform.",
  "log-likelihood": "How well this bin was foretold, nats for each channel: larger is better.",
  received: "Bins that came in: each is accepted, late or rejected.",
  processed: "Bins that were done and had come.",
  waiting: "Bins that wait for the session.",
  missing: "Bins that never came and were predicted through.",
  late: "Bins that came twice or too late.",
  rejected: "Bins that were refused; regimed sessions and the log say why.",
  "bins a second": "Bins done a second, of late.",
  "latency p50": "Bin received to decision made, median of late.",
  "latency p99": "Bin received to decision made, 99 of 100 of late.",
  "lost by this page": "Decisions that this page was too slow for; others have lost nothing.",
  "clock offset": "This machine's time less the rig's, with the least delay of late.",
  rig: "The rig that the daemon goes to.",
};

const ago = (ns) => {
  const seconds = Math.max(0, Date.now() - ns / 1e6) / 1e3;
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
};
const clock = (ns) => new Date(ns / 1e6).toLocaleTimeString([], { hour12: false });

/** What a session waits for, in words: a kind, a sentence, what to do, and a share that is done. */
export function stateOf(of, stranger) {
  const other = stranger
    ? ` Somebody sends ${stranger[1]} channels to \u2018${stranger[0]}\u2019, which is not here.`
    : "";
  if (!of)
    return {
      kind: "none",
      text: `No session runs.${other}`,
      cure:
        "Add a [[session]] to the configuration (regimed init writes one), or start one: " +
        "regimed sessions start FILE.",
    };
  const state = of.state.replace("SESSION_STATE_", "").toLowerCase();
  if (state === "paused")
    return { kind: "paused", text: "Paused: counts are refused.", cure: "Resume it below." };
  if (state === "stopped") return { kind: "stopped", text: "This session has ended.", cure: "" };
  const stalled = of.conditions.find((c) => c.name === "source_stalled");
  if (stalled)
    return {
      kind: "stalled",
      text:
        `Nothing comes from the rig since ${clock(stalled.since_ns)} (${ago(stalled.since_ns)}). ` +
        "What is shown is old.",
      cure: stalled.cure,
    };
  if (of.source && !of.source.connected)
    return {
      kind: "waiting",
      text: `Waiting for the rig: ${of.source.description} is not connected.`,
      cure: "Start its acquisition; regimed doctor looks at the way to it.",
    };
  if (of.bins === 0) {
    const shape = `${of.n_channels} channels in bins of ${+(of.bin_width_s * 1e3).toFixed(3)} ms`;
    return {
      kind: "waiting",
      text: of.source
        ? `Connected to ${of.source.description}, which has sent nothing yet.`
        : `Waiting for a rig: ${shape} for \u2018${of.name}\u2019, over gRPC or ZeroMQ.${other}`,
      cure: of.source ? "Start its acquisition." : "docs/rigs/messages.md says what to send.",
    };
  }
  const c = of.calibration;
  const how = c.state.replace("CALIBRATION_STATE_", "").toLowerCase();
  if (how === "gathering")
    return {
      kind: "calibrating",
      text:
        `Calibrating: ${c.seconds_seen.toFixed(0)} of ${c.seconds_needed.toFixed(0)} s of counts ` +
        "gathered; the label is unknown until then.",
      cure: "",
      share: c.seconds_seen / c.seconds_needed,
    };
  if (how === "fitting")
    return { kind: "calibrating", text: "Calibrating: its readout is fitted.", cure: "", share: 1 };
  if (how === "failed" || how === "not_trusted")
    return {
      kind: "untrusted",
      text: `Its labels are not to be believed: ${c.problem}`,
      cure: "Calibrate it with labels, or as another day of a known animal (calibrate_from).",
    };
  return null;
}

/** Shows it; true where the picture is old. */
export function showState(of, stranger) {
  const state = stateOf(of, stranger);
  const box = $("state");
  box.hidden = !state;
  document.body.dataset.state = state?.kind ?? "live";
  if (!state) return;
  const [text, cure, share] = box.children;
  if (text.textContent !== state.text) text.textContent = state.text;
  if (cure.textContent !== state.cure) cure.textContent = state.cure;
  share.hidden = state.share === undefined;
  if (state.share !== undefined) share.value = state.share;
}
