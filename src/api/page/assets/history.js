// What a session has shown: the last minute frame by frame, an hour by half seconds.

/** What is kept as it came, what is kept at all, and between two of what is older, seconds. */
export const [FINE_S, KEPT_S, COARSE_S] = [60, 3600, 0.5];
/** Frames between two times that what is old is thinned out. */
const THIN_EVERY = 300;

const band = () => ({ mean: [], low: [], high: [] });

/** Where a sorted list reaches a value. */
export function reached(list, value) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class History {
  constructor() {
    this.clear();
  }

  clear() {
    // Seconds of the session, and wall clock, ms.
    [this.time, this.clock, this.posterior, this.regime] = [[], [], [], []];
    [this.latency, this.place, this.chaos] = [[], [], []];
    [this.radius, this.exponent] = [band(), band()];
    this.thinned = 0;
  }

  get end() {
    return this.time[this.time.length - 1] ?? 0;
  }

  /** Takes a frame, with the newest metrics. */
  push(frame, metrics, binWidth) {
    this.time.push(+((frame.bin + 1) * binWidth).toFixed(4));
    this.clock.push(frame.publish_time_ns / 1e6);
    this.posterior.push(frame.posterior);
    this.regime.push(frame.regime || "none yet");
    this.latency.push(frame.latency_us);
    this.place.push(frame.embedding);
    const push = (to, mean, ends) => {
      to.mean.push(mean ?? null);
      to.low.push(ends?.low ?? null);
      to.high.push(ends?.high ?? null);
    };
    push(this.radius, metrics?.spectral_radius, metrics?.spectral_radius_interval);
    const exponent = metrics?.edge?.exponent_driven_per_s;
    push(this.exponent, exponent?.mean, exponent);
    this.chaos.push(exponent ? metrics.edge.p_chaos : null);
    if (this.time.length - this.thinned > THIN_EVERY) this.thin();
  }

  /** Every series. */
  series() {
    const { time, clock, posterior, regime, latency, place, chaos } = this;
    const bands = [this.radius, this.exponent].flatMap(Object.values);
    return [time, clock, posterior, regime, latency, place, chaos, ...bands];
  }

  /** Leaves out what is too old, and of what is not of the last minute all but one each half
   * second and each change. */
  thin() {
    const { time, regime, end } = this;
    let last = -Infinity;
    const keep = time.map((t, i) => {
      const kept =
        t >= end - FINE_S ||
        (t >= end - KEPT_S && (t - last >= COARSE_S || regime[i] !== regime[i - 1]));
      if (kept) last = t;
      return kept;
    });
    for (const of of this.series()) {
      let n = 0;
      keep.forEach((kept, i) => {
        if (kept) of[n++] = of[i];
      });
      of.length = n;
    }
    this.thinned = time.length;
  }

  /** The part that is looked at: `wide` seconds that end at `until`, or now. */
  view(until, wide) {
    const end = until ?? this.end;
    const from = Math.max(0, reached(this.time, end - wide) - 1);
    const to = reached(this.time, end + 1e-6);
    const cut = (of) => of.slice(from, to);
    const bands = (of) => Object.fromEntries(Object.entries(of).map(([k, v]) => [k, cut(v)]));
    return {
      range: [end - wide, end],
      time: cut(this.time),
      clock: cut(this.clock),
      posterior: cut(this.posterior),
      regime: cut(this.regime),
      latency: cut(this.latency),
      chaos: cut(this.chaos),
      radius: bands(this.radius),
      exponent: bands(this.exponent),
    };
  }

  /** Index of what was shown at a second; -1 where nothing was. */
  at(second) {
    return Math.min(reached(this.time, second), this.time.length - 1);
  }
}
