//! Threshold crossings of continuous data, for rigs without a spike detector: high-pass filter,
//! noise from the median of the absolute values (Quiroga et al. 2004, equation 3.1), downward
//! crossings with a dead time.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::header::Data;

/// Median of a normal variable's absolute value, standard deviations.
const MEDIAN_PER_SD: f32 = 0.6745;
/// Time constant of the noise, seconds; crossings are reported after a twentieth of it.
const NOISE_S: f64 = 10.0;
/// Dead time after a crossing, seconds.
const DEAD_S: f64 = 0.001;

/// Second-order Butterworth high-pass filter.
#[derive(Debug, Clone, Copy)]
struct HighPass {
    b: [f32; 3],
    a: [f32; 2],
    x: [f32; 2],
    y: [f32; 2],
}

impl HighPass {
    fn new(corner_hz: f64, rate_hz: f64) -> Self {
        let w = 2.0 * PI * (corner_hz / rate_hz).min(0.45);
        let alpha = w.sin() * FRAC_1_SQRT_2;
        let scale = 1.0 / (1.0 + alpha);
        let b = (1.0 + w.cos()) / 2.0 * scale;
        Self {
            b: [b as f32, (-2.0 * b) as f32, b as f32],
            a: [(-2.0 * w.cos() * scale) as f32, ((1.0 - alpha) * scale) as f32],
            x: [0.0; 2],
            y: [0.0; 2],
        }
    }

    fn push(&mut self, x: f32) -> f32 {
        let [x1, x2] = self.x;
        let [y1, y2] = self.y;
        let y = self.b[0] * x + self.b[1] * x1 + self.b[2] * x2 - self.a[0] * y1 - self.a[1] * y2;
        (self.x, self.y) = ([x, x1], [y, y1]);
        y
    }
}

#[derive(Debug, Clone)]
struct Channel {
    filter: Option<HighPass>,
    /// Standard deviation of the noise, and samples it was taken from.
    noise: f32,
    seen: f64,
    below: bool,
    dead_until: i64,
    expected: i64,
}

/// Detectors of all channels.
#[derive(Debug)]
pub(crate) struct Threshold {
    sd: f32,
    high_pass_hz: f64,
    channels: Vec<Option<Channel>>,
    filtered: Vec<f32>,
    sorted: Vec<f32>,
}

impl Threshold {
    pub(crate) fn new(sd: f64, high_pass_hz: f64) -> Self {
        let (channels, filtered, sorted) = (Vec::new(), Vec::new(), Vec::new());
        Self { sd: sd as f32, high_pass_hz, channels, filtered, sorted }
    }

    /// Processes a channel's block; calls `found` with each crossing's sample.
    pub(crate) fn block(
        &mut self,
        channel: usize,
        data: &Data<'_>,
        samples: impl Iterator<Item = f32>,
        mut found: impl FnMut(i64),
    ) {
        if self.channels.len() <= channel {
            self.channels.resize(channel + 1, None);
        }
        let rate = data.sample_rate;
        let fresh = || Channel {
            filter: (self.high_pass_hz > 0.0).then(|| HighPass::new(self.high_pass_hz, rate)),
            noise: 0.0,
            seen: 0.0,
            below: true,
            dead_until: 0,
            expected: data.sample_num,
        };
        let state = self.channels[channel].get_or_insert_with(fresh);
        if state.expected != data.sample_num {
            // A block is missing: the filter restarts, the noise estimate stays.
            *state = Channel { noise: state.noise, seen: state.seen, ..fresh() };
        }
        state.expected = data.sample_num + data.num_samples;
        self.filtered.clear();
        self.filtered.extend(samples.map(|x| {
            let x = if x.is_finite() { x } else { 0.0 };
            state.filter.as_mut().map_or(x, |f| f.push(x))
        }));
        let n = self.filtered.len();
        if n == 0 {
            return;
        }
        self.sorted.clear();
        self.sorted.extend(self.filtered.iter().map(|x| x.abs()));
        let (_, median, _) = self.sorted.select_nth_unstable_by(n / 2, f32::total_cmp);
        let of_block = *median / MEDIAN_PER_SD;
        state.seen += n as f64;
        let weight = (n as f64 / state.seen.min(NOISE_S * rate)) as f32;
        state.noise += weight * (of_block - state.noise);
        let known = state.seen >= NOISE_S * rate / 20.0;
        let threshold = self.sd * state.noise;
        let dead = (DEAD_S * rate) as i64;
        for (x, sample) in self.filtered.iter().zip(data.sample_num..) {
            let below = *x < threshold;
            if below && !state.below && known && sample >= state.dead_until {
                state.dead_until = sample + dead;
                found(sample);
            }
            state.below = below;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_distr::{Distribution, Normal};

    #[test]
    fn spikes_in_noise_on_a_slow_wave_are_found() {
        let mut generator = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let noise = Normal::new(0.0, 5.0).expect("a deviation");
        let mut threshold = Threshold::new(-5.0, 300.0);
        let mut found = Vec::new();
        let truth: Vec<i64> = (1..=50).map(|i| 30_000 + i * 1777).collect();
        for block in 0..400i64 {
            let first = block * 300;
            let data = Data {
                stream: None,
                channel_num: 0,
                channel_name: None,
                num_samples: 300,
                sample_num: first,
                sample_rate: 30_000.0,
            };
            let samples: Vec<f32> = (first..first + 300)
                .map(|t| {
                    let wave =
                        200.0 * (t as f32 * 2.0 * std::f32::consts::PI * 8.0 / 30_000.0).sin();
                    let spike =
                        if truth.iter().any(|s| (*s..*s + 6).contains(&t)) { -80.0 } else { 0.0 };
                    wave + spike + noise.sample(&mut generator)
                })
                .collect();
            threshold.block(0, &data, samples.into_iter(), |s| found.push(s));
        }
        let hit = truth.iter().filter(|s| found.iter().any(|f| (f - **s).abs() <= 3)).count();
        assert!(hit >= 49, "{hit} of 50");
        // At 5 deviations noise crosses less than once in a second of these four.
        assert!(found.len() <= 53, "{} crossings", found.len());
    }
}
