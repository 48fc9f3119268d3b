//! A network's state, with a tangent vector along it.

use pulp::{Arch, Simd, WithSimd};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::drive::{Driven, normals};

/// Steps between two rescalings of the tangent vector.
const RESCALED_EVERY: usize = 5;
/// Where the rectified transfer function begins.
const THRESHOLD: f32 = -0.3;

/// A unit's output as a function of its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transfer {
    Tanh,
    /// The state itself, between -1 and 1.
    Clipped,
    /// `x / sqrt(1 + x^2)`.
    Algebraic,
    /// 0 below a threshold, tanh of the rest above.
    Rectified,
}

impl Transfer {
    pub(crate) const ALL: [Self; 4] = [Self::Tanh, Self::Clipped, Self::Algebraic, Self::Rectified];

    /// Its name in tables.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tanh => "tanh",
            Self::Clipped => "clipped",
            Self::Algebraic => "algebraic",
            Self::Rectified => "rectified",
        }
    }

    /// Output and slope.
    #[inline(always)]
    fn of(self, x: f32) -> [f32; 2] {
        match self {
            Self::Tanh => {
                let p = x.tanh();
                [p, 1.0 - p * p]
            }
            Self::Clipped => [x.clamp(-1.0, 1.0), if x.abs() < 1.0 { 1.0 } else { 0.0 }],
            Self::Algebraic => {
                let s = 1.0 + x * x;
                [x / s.sqrt(), 1.0 / (s * s.sqrt())]
            }
            Self::Rectified => {
                let p = (x - THRESHOLD).tanh();
                if x > THRESHOLD { [p, 1.0 - p * p] } else { [0.0, 0.0] }
            }
        }
    }
}

/// `x <- x + a (-x + J phi(x) + U u) + sqrt(a) sigma xi`, and of a tangent vector
/// `v <- v + a (-v + J phi'(x) v)`.
pub(super) struct Flow<'a> {
    arch: Arch,
    /// `[units, units]`.
    j: &'a [f32],
    transfer: Transfer,
    leak: f32,
    state: Vec<f32>,
    tangent: Vec<f32>,
    output: Vec<f32>,
    pushed: Vec<f32>,
    drive: Vec<f32>,
    moved: Vec<f32>,
    steps: usize,
    /// Steps measured up to the last rescaling, and how much the tangent vector has grown since.
    measured: usize,
    log_growth: f64,
}

impl<'a> Flow<'a> {
    /// From a random state.
    pub(super) fn new(j: &'a [f32], transfer: Transfer, leak: f32, rng: &mut ChaCha8Rng) -> Self {
        let units = j.len().isqrt();
        let zeros = || vec![0.0; units];
        Self {
            arch: Arch::new(),
            j,
            transfer,
            leak,
            state: normals(units, rng),
            tangent: normals(units, rng),
            output: zeros(),
            pushed: zeros(),
            drive: zeros(),
            moved: zeros(),
            steps: 0,
            measured: 0,
            log_growth: 0.0,
        }
    }

    pub(super) fn state(&self) -> &[f32] {
        &self.state
    }

    /// Growth counts from here on.
    pub(super) fn start_measuring(&mut self) {
        self.rescale();
        (self.steps, self.measured, self.log_growth) = (0, 0, 0.0);
    }

    /// Mean growth of the tangent vector per step, natural log.
    pub(super) fn exponent(&self) -> f64 {
        self.log_growth / self.measured.max(1) as f64
    }

    /// One step with noise of a standard deviation per root of a step's leak.
    pub(super) fn step(&mut self, noise: f32, input: Driven<'_>, rng: &mut ChaCha8Rng) {
        for (i, (x, v)) in self.state.iter().zip(&self.tangent).enumerate() {
            let [output, slope] = self.transfer.of(*x);
            self.output[i] = output;
            self.pushed[i] = slope * v;
        }
        let Self { arch, j, output, pushed, drive, moved, .. } = self;
        arch.dispatch(Products { j, xs: [output, pushed], out: [drive, moved] });
        let a = self.leak;
        // White input adds like noise: by the root of the time.
        let strength = if input.white { a.sqrt() } else { a };
        for (i, x) in self.state.iter_mut().enumerate() {
            *x += a * (self.drive[i] - *x);
            let sources = input.now.len();
            let weights = &input.weights[i * sources..(i + 1) * sources];
            let u: f32 = weights.iter().zip(input.now).map(|(w, u)| w * u).sum();
            *x += strength * u;
            if noise > 0.0 {
                let own: f32 = StandardNormal.sample(rng);
                *x += a.sqrt() * noise * own;
            }
        }
        for (v, moved) in self.tangent.iter_mut().zip(&self.moved) {
            *v += a * (moved - *v);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(RESCALED_EVERY) {
            self.rescale();
        }
    }

    fn rescale(&mut self) {
        let norm = self.tangent.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        // All units may be where their slope is 0: nothing pushes then, and the leak is left.
        let norm = norm.max(f64::from(f32::MIN_POSITIVE));
        self.tangent.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        self.log_growth += norm.ln();
        self.measured = self.steps;
    }
}

/// `J x`.
pub(super) fn product(j: &[f32], x: &[f32], jx: &mut [f32]) {
    Arch::new().dispatch(Products { j, xs: [x], out: [jx] });
}

/// `J x` for several `x` in one pass over `J`.
struct Products<'a, const N: usize> {
    j: &'a [f32],
    xs: [&'a [f32]; N],
    out: [&'a mut [f32]; N],
}

/// Running sums, so that additions need not wait for one another.
const LANES: usize = 32;

impl<const N: usize> WithSimd for Products<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { j, xs, mut out } = self;
        let units = xs[0].len();
        let whole = units - units % LANES;
        for (i, row) in j.chunks_exact(units).enumerate() {
            let mut sums = [[0.0f32; LANES]; N];
            for at in (0..whole).step_by(LANES) {
                let w = &row[at..at + LANES];
                for (sums, x) in sums.iter_mut().zip(&xs) {
                    let x = &x[at..at + LANES];
                    for l in 0..LANES {
                        sums[l] += w[l] * x[l];
                    }
                }
            }
            for ((out, sums), x) in out.iter_mut().zip(&sums).zip(&xs) {
                let mut rest = 0.0;
                for (w, x) in row[whole..].iter().zip(&x[whole..]) {
                    rest += w * x;
                }
                out[i] = rest + sums.iter().sum::<f32>();
            }
        }
    }
}
