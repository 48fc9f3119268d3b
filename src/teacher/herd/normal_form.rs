//! Latents that follow the normal form of each regime (Strogatz 2015), seen by channels.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::super::animal::Regime;
use super::super::draws::{log_uniform, orthonormal};
use super::body::Body;
use super::family::BIN_S;

/// Latents.
const LATENTS: usize = 6;
/// Units behind chaos.
const HIDDEN: usize = 100;
/// Steps of the integration in a bin.
const STEPS: usize = 4;

/// What the first latents of a task's frame do, `z` in units of its time constant.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// To a point, turning or not.
    Point { offset: f32, turn: f32 },
    /// `dz = mu (z - z^3 / size^2 + tilt)`.
    TwoPoints { mu: f32, size: f32, tilt: f32 },
    /// `dr = mu (r - r^3 / size^2)` and `turn`, at times faster than at others where it is bent.
    Cycle { mu: f32, size: f32, turn: f32, bend: f32 },
    /// Van der Pol's oscillator, a relaxation along a line where it is stiff and flat.
    Relaxation { stiff: f32, flat: f32, turn: f32 },
    /// A cycle without a turn.
    Ring { mu: f32, size: f32 },
    /// What a random network does.
    Chaos { gain: f32 },
    /// Lorenz's equations, so fast.
    Lorenz { rho: f32, rate: f32 },
}

impl Form {
    /// How far out a latent may lie.
    fn most(self) -> f32 {
        match self {
            Self::TwoPoints { size, .. } | Self::Cycle { size, .. } | Self::Ring { size, .. } => {
                2.0 * size
            }
            Self::Relaxation { .. } => 1.5,
            Self::Point { .. } | Self::Chaos { .. } | Self::Lorenz { .. } => 3.0,
        }
    }
}

/// Share of the cycles that are relaxations, and of chaos that is Lorenz's.
const RELAXATION_SHARE: f64 = 0.35;
const LORENZ_SHARE: f64 = 0.3;
/// Lorenz's equations turn about once in so much of their time, and go so far.
const LORENZ_TURN: f32 = 0.75;
const LORENZ_SIZE: f32 = 20.0;
const LORENZ_MIDDLE: f32 = 25.0;

pub(super) struct NormalFormBody {
    leak: f32,
    noise: f32,
    form: Form,
    /// Orthonormal directions of each regime's task, and how far tasks turn them.
    frames: Vec<Vec<[f32; LATENTS]>>,
    turned: f64,
    frame: Vec<[f32; LATENTS]>,
    state: [f32; LATENTS],
    /// Of the network behind chaos: weights of variance 1 over their number, and state.
    weights: Vec<f32>,
    hidden: Vec<f32>,
    /// How channels see the latents, `[channels][LATENTS]`.
    seen: Vec<[f32; LATENTS]>,
    observed: Vec<f32>,
    saturates: bool,
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    StandardNormal.sample(rng)
}

/// Directions, of length 1 and square to each other.
fn frame(mut row: impl FnMut(usize) -> [f64; LATENTS]) -> Vec<[f32; LATENTS]> {
    let rows = orthonormal((0..LATENTS).map(&mut row).collect());
    rows.into_iter().map(|row| row.map(|x| x as f32)).collect()
}

fn drawn(rng: &mut ChaCha8Rng) -> Vec<[f32; LATENTS]> {
    frame(|_| std::array::from_fn(|_| f64::from(normal(rng))))
}

impl NormalFormBody {
    pub(super) fn new(channels: usize, rng: &mut ChaCha8Rng) -> Self {
        let tau = log_uniform([0.05, 0.16], rng);
        let scale = 1.0 / (HIDDEN as f32).sqrt();
        // Channels see few latents or all.
        let sparse = rng.random_bool(0.4);
        let mut see = || -> [f32; LATENTS] {
            let all = std::array::from_fn(|_| normal(rng));
            if !sparse {
                return all;
            }
            let kept = [rng.random_range(0..LATENTS), rng.random_range(0..LATENTS)];
            std::array::from_fn(|d| if kept.contains(&d) { 1.7 * all[d] } else { 0.0 })
        };
        let seen = (0..channels).map(|_| see()).collect();
        Self {
            leak: (BIN_S / STEPS as f64 / tau) as f32,
            noise: log_uniform([0.05, 0.22], rng) as f32,
            form: Form::Point { offset: 0.0, turn: 0.0 },
            frames: Regime::ALL.iter().map(|_| drawn(rng)).collect(),
            turned: rng.random_range(0.0..0.6),
            frame: drawn(rng),
            state: [0.0; LATENTS],
            weights: (0..HIDDEN * HIDDEN).map(|_| scale * normal(rng)).collect(),
            hidden: (0..HIDDEN).map(|_| normal(rng)).collect(),
            seen,
            observed: vec![0.0; channels],
            saturates: rng.random_bool(0.7),
        }
    }

    /// Change of the latents in the frame's directions, in a time constant.
    fn flow(&self, z: [f32; LATENTS]) -> [f32; LATENTS] {
        let mut d = z.map(|x| -x);
        match self.form {
            Form::Point { offset, turn } => {
                d[0] = offset - z[0];
                (d[1], d[2]) = (-z[1] - turn * z[2], -z[2] + turn * z[1]);
            }
            Form::TwoPoints { mu, size, tilt } => {
                d[0] = mu * (z[0] - z[0].powi(3) / (size * size) + tilt);
            }
            Form::Cycle { mu, size, turn, bend } => {
                let grown = mu * (1.0 - (z[0] * z[0] + z[1] * z[1]) / (size * size));
                let slow = 1.0 - bend * (z[0] * z[1]).clamp(-0.5, 0.5);
                d[0] = grown * z[0] - turn * slow * z[1];
                d[1] = grown * z[1] + turn * slow * z[0];
            }
            Form::Relaxation { stiff, flat, turn } => {
                d[0] = turn * (stiff * (z[0] - z[0].powi(3) * 4.0 / 3.0) - z[1] / flat);
                d[1] = turn * flat * z[0];
            }
            Form::Ring { mu, size } => {
                let grown = mu * (1.0 - (z[0] * z[0] + z[1] * z[1]) / (size * size));
                (d[0], d[1]) = (grown * z[0], grown * z[1]);
            }
            Form::Lorenz { rho, rate } => {
                let [x, y] = [z[0], z[1]].map(|z| LORENZ_SIZE * z);
                let up = LORENZ_SIZE * z[2] + LORENZ_MIDDLE;
                let slopes = [10.0 * (y - x), x * (rho - up) - y, x * y - 8.0 / 3.0 * up];
                d[..3].copy_from_slice(&slopes.map(|s| rate * s / LORENZ_SIZE));
            }
            Form::Chaos { .. } => {
                let part = HIDDEN / LATENTS;
                let size = 1.6 / (part as f32).sqrt();
                for (k, d) in d.iter_mut().enumerate() {
                    let of = &self.hidden[k * part..(k + 1) * part];
                    *d += size * of.iter().map(|h| h.tanh()).sum::<f32>();
                }
            }
        }
        d
    }

    fn chaos(&mut self, gain: f32, rng: &mut ChaCha8Rng) {
        let output: Vec<f32> = self.hidden.iter().map(|h| h.tanh()).collect();
        let noise = self.noise * (2.0 * self.leak).sqrt();
        for (h, row) in self.hidden.iter_mut().zip(self.weights.chunks_exact(HIDDEN)) {
            let along: f32 = row.iter().zip(&output).map(|(w, o)| w * o).sum();
            *h += self.leak * (gain * along - *h) + 0.3 * noise * normal(rng);
        }
    }
}

/// A regime's form, drawn, where latents' time constant is `tau_s`.
fn form(regime: Regime, tau_s: f32, rng: &mut ChaCha8Rng) -> Form {
    let [relaxes, lorenz] = [RELAXATION_SHARE, LORENZ_SHARE].map(|share| rng.random_bool(share));
    let mut between = |low: f64, high: f64| rng.random_range(low..high) as f32;
    let (mu, size) = (between(0.6, 1.6), between(0.6, 1.2));
    let hz = between(0.6f64.ln(), 4.0f64.ln()).exp();
    let turn = std::f32::consts::TAU * hz * tau_s;
    match regime {
        Regime::Bistable => Form::TwoPoints { mu, size, tilt: between(-0.2, 0.2) * size },
        Regime::LimitCycle if relaxes => {
            // Slower the stiffer, by the square at first.
            let (stiff, flat) = (between(0.5, 2.5), between(0.15, 1.0));
            Form::Relaxation { stiff, flat, turn: turn * (1.0 + 0.05 * stiff * stiff) }
        }
        Regime::LimitCycle => Form::Cycle { mu, size, turn, bend: between(0.0, 1.2) },
        Regime::RingAttractor => Form::Ring { mu, size },
        Regime::Chaotic if lorenz => {
            Form::Lorenz { rho: between(28.0, 40.0), rate: LORENZ_TURN * hz.min(2.5) * tau_s }
        }
        Regime::Chaotic => Form::Chaos { gain: between(1.8, 3.0) },
        Regime::StableFixedPoint | Regime::RandomLowRank => {
            let (offset, turn) = (between(-1.2, 1.2), between(-1.0, 1.0));
            Form::Point { offset: if offset.abs() < 0.4 { 0.0 } else { offset }, turn }
        }
    }
}

impl Body for NormalFormBody {
    fn begin(&mut self, regime: Regime, kick: f32, rng: &mut ChaCha8Rng) {
        let at = Regime::ALL.iter().position(|r| *r == regime).unwrap_or(0);
        let turned = self.turned;
        let own = self.frames[at].clone();
        let mut turn = |x: f32| f64::from(x) + turned * f64::from(normal(rng)) / 2.0;
        self.frame = frame(|i| own[i].map(&mut turn));
        let tau = f64::from(BIN_S as f32 / STEPS as f32 / self.leak);
        self.form = form(regime, tau as f32, rng);
        self.state.iter_mut().for_each(|x| *x += kick * normal(rng));
        self.hidden.iter_mut().for_each(|h| *h += kick * normal(rng));
    }

    fn advance(&mut self, rng: &mut ChaCha8Rng) {
        for _ in 0..STEPS {
            if let Form::Chaos { gain } = self.form {
                self.chaos(gain, rng);
            }
            let z: [f32; LATENTS] = std::array::from_fn(|k| {
                self.frame[k].iter().zip(self.state).map(|(f, x)| f * x).sum()
            });
            let d = self.flow(z);
            for i in 0..LATENTS {
                let moved: f32 = (0..LATENTS).map(|k| self.frame[k][i] * d[k]).sum();
                self.state[i] +=
                    self.leak * moved + self.noise * (2.0 * self.leak).sqrt() * normal(rng);
            }
            // Beyond, cubic terms would run away in one step.
            let most = self.form.most();
            self.state.iter_mut().for_each(|x| *x = x.clamp(-most, most));
        }
        for (observed, seen) in self.observed.iter_mut().zip(&self.seen) {
            let x: f32 = seen.iter().zip(self.state).map(|(s, x)| s * x).sum();
            *observed = if self.saturates { x.tanh() } else { 0.6 * x };
        }
    }

    fn observed(&self) -> &[f32] {
        &self.observed
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn forms_rest_where_they_should_and_turn_as_fast_as_they_should() {
        let mut body = NormalFormBody::new(30, &mut ChaCha8Rng::seed_from_u64(1));
        let mut flow = |form: Form, at: [f32; 2]| {
            body.form = form;
            body.flow([at[0], at[1], 0.0, 0.0, 0.0, 0.0])
        };
        let size = 0.8;
        for (form, at) in [
            (Form::Point { offset: 0.7, turn: 0.5 }, [0.7, 0.0]),
            (Form::TwoPoints { mu: 0.8, size, tilt: 0.0 }, [0.8, 0.0]),
            (Form::TwoPoints { mu: 0.8, size, tilt: 0.0 }, [-0.8, 0.0]),
            (Form::Ring { mu: 0.8, size }, [0.48, 0.64]),
            (Form::Ring { mu: 0.8, size }, [-0.64, 0.48]),
        ] {
            assert!(flow(form, at).iter().all(|d| d.abs() < 1e-6), "{form:?} at {at:?}");
        }
        let d = flow(Form::Cycle { mu: 0.8, size: 1.0, turn: 0.4, bend: 0.0 }, [0.6, 0.8]);
        assert!((d[0] + 0.4 * 0.8).abs() < 1e-6 && (d[1] - 0.4 * 0.6).abs() < 1e-6, "{d:?}");
    }
    /// Turns per second of a form's first latent, by its crossings of 0.
    fn turns(form: Form, tau_s: f32) -> f32 {
        let mut body = NormalFormBody::new(30, &mut ChaCha8Rng::seed_from_u64(1));
        body.form = form;
        let (mut z, step) = ([0.5, 0.1, 0.1, 0.0, 0.0, 0.0], 1e-4);
        let (mut crossed, mut first, mut last) = (0, 0.0, 0.0);
        for t in 0..100_000 {
            let d = body.flow(z);
            let before = z[0];
            z.iter_mut().zip(d).for_each(|(z, d)| *z += step / tau_s * d);
            if t > 20_000 && before <= 0.0 && z[0] > 0.0 {
                last = t as f32 * step;
                if crossed == 0 {
                    first = last;
                }
                crossed += 1;
            }
        }
        (crossed - 1) as f32 / (last - first)
    }

    #[test]
    fn whatever_kicks_it_a_form_comes_back() {
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut body = NormalFormBody::new(30, &mut rng);
            body.noise = 0.0;
            for regime in [Regime::Bistable, Regime::RingAttractor, Regime::LimitCycle] {
                body.begin(regime, 4.0, &mut rng);
                (0..150).for_each(|_| body.advance(&mut rng));
                let largest = body.state.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                assert!(largest < 1.6, "{regime:?} {seed}: {:?}", body.state);
            }
        }
    }

    #[test]
    fn relaxations_turn_about_as_often_as_asked() {
        for seed in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let form = form(Regime::LimitCycle, 0.1, &mut rng);
            if let Form::Relaxation { stiff, turn, .. } = form {
                let asked = turn / (1.0 + 0.05 * stiff * stiff) / std::f32::consts::TAU / 0.1;
                let found = turns(form, 0.1);
                assert!((found / asked - 1.0).abs() < 0.1, "{form:?}: {found} for {asked}");
            }
        }
    }
}
