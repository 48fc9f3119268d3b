//! Rate networks whose structure makes the regime.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::super::animal::Regime;
use super::super::draws::{log_uniform, orthonormal, permuted};
use super::super::flow::product;
use super::body::Body;
use super::family::{BIN_S, Family};

/// Units, unless more are recorded.
const UNITS: [f64; 2] = [90.0, 320.0];
/// Columns of `M`: normal ones, then the two of a ring.
const NORMAL: usize = 4;
const LATENTS: usize = 6;
/// Membrane time constant, seconds.
const TAU_S: [f64; 2] = [0.06, 0.16];
/// Integration step over the time constant, at most.
const LEAK_MAX: f64 = 0.12;

/// Shares of the networks with heavy-tailed, and with sparse random weights.
const HEAVY_SHARE: f64 = 0.2;
const SPARSE_SHARE: f64 = 0.2;
/// Share of the connections that sparse ones keep.
const KEPT: [f64; 2] = [0.1, 0.5];
/// Share of the networks whose units are faster and slower, and by how much, logarithmic.
const UNEVEN_SHARE: f64 = 0.3;
const UNEVEN: f64 = 0.3;

/// Output of a unit.
#[derive(Debug, Clone, Copy)]
enum Transfer {
    Tanh,
    /// `x / sqrt(1 + x^2)`.
    Algebraic,
    /// tanh of what is above 0.
    Rectified,
}

impl Transfer {
    fn of(self, x: f32) -> f32 {
        match self {
            Self::Tanh => x.tanh(),
            Self::Algebraic => x / (1.0 + x * x).sqrt(),
            Self::Rectified => x.max(0.0).tanh(),
        }
    }
}

pub(super) struct NetworkBody {
    family: Family,
    units: usize,
    transfer: Transfer,
    leak: f32,
    steps: usize,
    /// How much faster than the others each unit is.
    pace: Vec<f32>,
    unit_noise: f32,
    latent_noise: f32,
    /// Gain of the random part outside chaos, and how far tasks turn their directions.
    background: f64,
    turned: f64,
    /// `[units, units]`, of variance 1 / units.
    chi: Vec<f32>,
    /// `[units][LATENTS]`.
    m: Vec<[f32; LATENTS]>,
    /// Angles of units on rings, radians, one order for each regime that has one.
    angles: [Vec<f32>; 2],
    /// Orthonormal directions in the normal latents, for each regime, `[NORMAL][NORMAL]`.
    frames: Vec<Vec<[f64; NORMAL]>>,
    recorded: Vec<usize>,
    /// Of the task in force.
    j: Vec<f32>,
    input: Vec<f32>,
    state: Vec<f32>,
    output: Vec<f32>,
    drive: Vec<f32>,
    observed: Vec<f32>,
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Standard deviations of the noise of units, and along latents.
fn noise(family: Family, rng: &mut ChaCha8Rng) -> [f64; 2] {
    match family {
        Family::Orthonormal => {
            let common = if rng.random_bool(0.6) { 0.0 } else { rng.random_range(0.0..0.12) };
            [rng.random_range(0.05..0.16), common]
        }
        _ => [rng.random_range(0.05..0.18), rng.random_range(0.0..0.16)],
    }
}

/// Of variance 1 / units.
fn random_weights(units: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let scale = 1.0 / (units as f64).sqrt();
    let (heavy, sparse) = (rng.random_bool(HEAVY_SHARE), rng.random_bool(SPARSE_SHARE));
    let kept = if sparse { log_uniform(KEPT, rng) } else { 1.0 };
    // exp(0.5 z) of a normal z has mean square exp(0.5).
    let tails = if heavy { (-0.25f64).exp() } else { 1.0 };
    let scale = scale * tails / kept.sqrt();
    let one = |_| match sparse && !rng.random_bool(kept) {
        true => 0.0,
        false if heavy => (scale * normal(rng) * (0.5 * normal(rng)).exp()) as f32,
        false => (scale * normal(rng)) as f32,
    };
    (0..units * units).map(one).collect()
}

fn paces(units: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let uneven = if rng.random_bool(UNEVEN_SHARE) { UNEVEN } else { 0.0 };
    (0..units).map(|_| (uneven * normal(rng)).clamp(-0.7, 0.7).exp() as f32).collect()
}

/// Directions of each regime.
fn frames(family: Family, rng: &mut ChaCha8Rng) -> Vec<Vec<[f64; NORMAL]>> {
    let mut frame =
        || orthonormal((0..NORMAL).map(|_| std::array::from_fn(|_| normal(rng))).collect());
    match family {
        // One axis for two points, one plane for cycles and rings.
        Family::Orthonormal => {
            let one = frame();
            let other = vec![one[1], one[2], one[0], one[3]];
            vec![one.clone(), one.clone(), other.clone(), other, one]
        }
        _ => Regime::ALL.iter().map(|_| frame()).collect(),
    }
}

impl NetworkBody {
    pub(super) fn new(family: Family, channels: usize, rng: &mut ChaCha8Rng) -> Self {
        let units = (log_uniform(UNITS, rng) as usize).max(channels);
        let leak = BIN_S / log_uniform(TAU_S, rng);
        let steps = (leak / LEAK_MAX).ceil() as usize;
        let transfer = match family {
            Family::Populations => Transfer::Rectified,
            _ if rng.random_bool(0.2) => Transfer::Algebraic,
            _ => Transfer::Tanh,
        };
        let angles = [0, 1].map(|_| {
            let turn = std::f32::consts::TAU / units as f32;
            permuted(units, rng).into_iter().map(|i| i as f32 * turn).collect::<Vec<f32>>()
        });
        let mut m: Vec<[f32; LATENTS]> = (0..units)
            .map(|i| {
                let mut row: [f32; LATENTS] = std::array::from_fn(|_| normal(rng) as f32);
                let root = std::f32::consts::SQRT_2;
                row[NORMAL] = root * angles[0][i].cos();
                row[NORMAL + 1] = root * angles[0][i].sin();
                row
            })
            .collect();
        if family == Family::Orthonormal {
            orthogonal_columns(&mut m);
        }
        let [unit_noise, latent_noise] = noise(family, rng);
        let recorded = permuted(units, rng)[..channels].to_vec();
        Self {
            family,
            units,
            transfer,
            leak: (leak / steps as f64) as f32,
            steps,
            unit_noise: unit_noise as f32,
            latent_noise: latent_noise as f32,
            background: rng.random_range(0.1..0.5),
            turned: if family == Family::Orthonormal { 0.0 } else { rng.random_range(0.05..0.5) },
            chi: random_weights(units, rng),
            pace: paces(units, rng),
            frames: frames(family, rng),
            m,
            angles,
            recorded,
            j: vec![0.0; units * units],
            input: vec![0.0; units],
            state: (0..units).map(|_| 0.3 * normal(rng) as f32).collect(),
            output: vec![0.0; units],
            drive: vec![0.0; units],
            observed: vec![0.0; channels],
        }
    }

    /// `J = random chi + M A M^T / units`, and no input.
    fn low_rank(&mut self, random: f64, a: &[[f64; LATENTS]; LATENTS]) {
        self.input.fill(0.0);
        for (i, row) in self.j.chunks_exact_mut(self.units).enumerate() {
            let left: [f32; LATENTS] = std::array::from_fn(|k| {
                let of = (0..LATENTS).map(|l| f64::from(self.m[i][l]) * a[l][k]);
                (of.sum::<f64>() / self.units as f64) as f32
            });
            let chi = &self.chi[i * self.units..(i + 1) * self.units];
            for ((w, chi), m) in row.iter_mut().zip(chi).zip(&self.m) {
                *w = random as f32 * chi + left.iter().zip(m).map(|(l, m)| l * m).sum::<f32>();
            }
        }
    }

    fn low_rank_task(&mut self, regime: Regime, at: usize, rng: &mut ChaCha8Rng) {
        let turned = self.turned;
        let rows = self.frames[at].iter().map(|row| row.map(|x| x + turned * normal(rng) / 2.0));
        let mut frame = [[0.0f64; LATENTS]; NORMAL];
        for (to, row) in frame.iter_mut().zip(orthonormal(rows.collect())) {
            to[..NORMAL].copy_from_slice(&row);
        }
        let ring = regime == Regime::RingAttractor;
        if ring {
            frame = std::array::from_fn(|i| {
                std::array::from_fn(|k| f64::from(u8::from(k == (NORMAL + i) % LATENTS)))
            });
        }
        let mut a = [[0.0; LATENTS]; LATENTS];
        let mut put = |row: usize, column: usize, weight: f64| {
            for i in 0..LATENTS {
                for k in 0..LATENTS {
                    a[i][k] += weight * frame[row][i] * frame[column][k];
                }
            }
        };
        let mut random = if ring { 0.0 } else { self.background };
        let mut drive = 0.0;
        match regime {
            Regime::Bistable => put(0, 0, rng.random_range(1.5..2.6)),
            Regime::LimitCycle | Regime::RingAttractor => {
                let growth = rng.random_range(1.55..2.5);
                (0..2).for_each(|d| put(d, d, growth));
                if !ring {
                    let hz = log_uniform([0.6, 4.0], rng);
                    let tau = BIN_S / (f64::from(self.leak) * self.steps as f64);
                    let turn = growth * std::f64::consts::TAU * hz * tau;
                    put(0, 1, -turn);
                    put(1, 0, turn);
                }
            }
            Regime::Chaotic => random = rng.random_range(1.6..2.7),
            Regime::StableFixedPoint | Regime::RandomLowRank => {
                // The family of `regimed simulate` has structure; the other one strong weights.
                let turned = self.family == Family::Turned;
                random = if turned { random } else { rng.random_range(0.2..0.8) };
                let most = if turned { 0.65 } else { 0.2 };
                let (decay, turn) = (rng.random_range(0.0..most), rng.random_range(-0.8..0.8));
                (0..2).for_each(|d| put(d, d, decay));
                put(0, 1, -turn);
                put(1, 0, turn);
                let driven = turned && rng.random_bool(0.75);
                drive =
                    if driven { rng.random_range(0.4..1.3) * normal(rng).signum() } else { 0.0 };
            }
        }
        self.low_rank(random, &a);
        for (input, m) in self.input.iter_mut().zip(&self.m) {
            let along: f64 = m.iter().zip(frame[2]).map(|(m, f)| f64::from(*m) * f).sum();
            *input = (drive * along) as f32;
        }
    }

    /// Connections by the angle between units, and weak random ones; all units excited alike.
    fn population_task(&mut self, regime: Regime, rng: &mut ChaCha8Rng) {
        let mut random = self.background;
        let level = rng.random_range(0.3..0.7);
        let (angles, turn, strength) = match regime {
            Regime::RingAttractor => (&self.angles[0], 0.0f32, rng.random_range(7.0..12.0)),
            Regime::LimitCycle => {
                // The bump moves by the tangent of the turn in a time constant.
                let tau = BIN_S / (f64::from(self.leak) * self.steps as f64);
                let hz = log_uniform([0.6, 4.0], rng);
                let turn = (std::f64::consts::TAU * hz * tau).atan();
                (&self.angles[1], turn as f32, rng.random_range(8.0..13.0) / turn.cos())
            }
            Regime::Bistable => (&self.angles[0], 0.0, rng.random_range(7.0..12.0)),
            Regime::Chaotic => {
                random = rng.random_range(3.8..6.0);
                (&self.angles[0], 0.0, 0.0)
            }
            Regime::StableFixedPoint | Regime::RandomLowRank => {
                (&self.angles[0], 0.0, rng.random_range(0.0..2.2))
            }
        };
        if regime == Regime::RingAttractor {
            random *= 0.1;
        }
        let two = regime == Regime::Bistable;
        let side: Vec<f32> = angles.iter().map(|a| (a + 0.7).cos().signum()).collect();
        let inhibition = 2.5f32 * strength as f32 / 9.0;
        let n = self.units as f32;
        for (i, row) in self.j.chunks_exact_mut(self.units).enumerate() {
            let chi = &self.chi[i * self.units..(i + 1) * self.units];
            for (k, (w, chi)) in row.iter_mut().zip(chi).enumerate() {
                let profile = match two {
                    true => 0.6 * side[i] * side[k],
                    false => (angles[i] - angles[k] - turn).cos(),
                };
                *w = random as f32 * chi + (strength as f32 * profile - inhibition) / n;
            }
        }
        let strong = regime == Regime::StableFixedPoint && rng.random_bool(0.5);
        let toward: f32 = rng.random_range(0.0..std::f32::consts::TAU);
        let pull: f32 = if strong { rng.random_range(0.3..0.9) } else { 0.0 };
        for (input, angle) in self.input.iter_mut().zip(&self.angles[1]) {
            *input = level as f32 + pull * (angle - toward).cos();
        }
    }
}

/// The normal columns orthogonal, each of length `sqrt(units)`.
fn orthogonal_columns(m: &mut [[f32; LATENTS]]) {
    let column = |c: usize| m.iter().map(|row| f64::from(row[c])).collect::<Vec<f64>>();
    let columns = orthonormal((0..NORMAL).map(column).collect());
    let length = (m.len() as f64).sqrt();
    for (c, column) in columns.into_iter().enumerate() {
        m.iter_mut().zip(column).for_each(|(row, x)| row[c] = (length * x) as f32);
    }
}

impl Body for NetworkBody {
    fn begin(&mut self, regime: Regime, kick: f32, rng: &mut ChaCha8Rng) {
        let at = Regime::ALL.iter().position(|r| *r == regime).unwrap_or(0);
        match self.family {
            Family::Populations => self.population_task(regime, rng),
            _ => self.low_rank_task(regime, at, rng),
        }
        let direction: [f32; LATENTS] = std::array::from_fn(|_| kick * normal(rng) as f32);
        for (x, m) in self.state.iter_mut().zip(&self.m) {
            *x += m.iter().zip(direction).map(|(m, d)| m * d).sum::<f32>();
        }
    }

    fn advance(&mut self, rng: &mut ChaCha8Rng) {
        let noise = (2.0 * self.leak).sqrt();
        for _ in 0..self.steps {
            for (output, x) in self.output.iter_mut().zip(&self.state) {
                *output = self.transfer.of(*x);
            }
            product(&self.j, &self.output, &mut self.drive);
            let common: [f32; LATENTS] =
                std::array::from_fn(|_| noise * self.latent_noise * normal(rng) as f32);
            for (i, x) in self.state.iter_mut().enumerate() {
                let shared: f32 = self.m[i].iter().zip(common).map(|(m, c)| m * c).sum();
                let own = noise * self.unit_noise * normal(rng) as f32;
                let leak = self.leak * self.pace[i];
                *x += leak * (self.drive[i] + self.input[i] - *x) + shared + own;
            }
        }
        for (observed, &unit) in self.observed.iter_mut().zip(&self.recorded) {
            let x = self.state[unit];
            *observed = if self.family == Family::Turned { x.tanh() } else { x };
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

    /// Without noise.
    fn silent(family: Family, seed: u64) -> (NetworkBody, ChaCha8Rng) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut body = NetworkBody::new(family, 30, &mut rng);
        (body.unit_noise, body.latent_noise) = (0.0, 0.0);
        body.pace.fill(1.0);
        (body, rng)
    }

    /// States after a while from several starts, how fast they still move relative to their size,
    /// and how far two neighbours are apart relative to where they began.
    fn ends(family: Family, regime: Regime, seed: u64) -> (Vec<Vec<f32>>, f32, f32) {
        let (mut body, mut rng) = silent(family, seed);
        body.begin(regime, 0.0, &mut rng);
        let mut ends = Vec::new();
        let (mut speed, mut apart) = (0.0f32, 0.0f32);
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        for start in 0..4 {
            body.state = (0..body.units).map(|_| 0.8 * normal(&mut rng) as f32).collect();
            if start > 0 {
                // Along the latents as well.
                let along: [f32; LATENTS] = std::array::from_fn(|_| normal(&mut rng) as f32);
                for (x, m) in body.state.iter_mut().zip(&body.m) {
                    *x += m.iter().zip(along).map(|(m, a)| m * a).sum::<f32>();
                }
            }
            (0..300).for_each(|_| body.advance(&mut rng));
            let settled = body.state.clone();
            let mut twin: Vec<f32> =
                settled.iter().map(|x| x + 1e-3 * normal(&mut rng) as f32).collect();
            let began: Vec<f32> = twin.iter().zip(&settled).map(|(a, b)| a - b).collect();
            (0..100).for_each(|_| body.advance(&mut rng));
            let end = std::mem::replace(&mut body.state, std::mem::take(&mut twin));
            (0..100).for_each(|_| body.advance(&mut rng));
            let between: Vec<f32> = body.state.iter().zip(&end).map(|(a, b)| a - b).collect();
            apart = apart.max(norm(&between) / norm(&began));
            let moved: Vec<f32> = end.iter().zip(&settled).map(|(a, b)| a - b).collect();
            speed = speed.max(norm(&moved) / norm(&end).max(1e-3));
            ends.push(end);
        }
        (ends, speed, apart)
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        (apart / a.len() as f32).sqrt()
    }

    /// Different ends among several, further than a tenth apart.
    fn different(ends: &[Vec<f32>]) -> usize {
        let mut kept: Vec<&Vec<f32>> = Vec::new();
        for end in ends {
            if kept.iter().all(|k| distance(k, end) > 0.1) {
                kept.push(end);
            }
        }
        kept.len()
    }

    #[test]
    fn regimes_are_what_they_are_called_in_every_family() {
        for family in [Family::Orthonormal, Family::Turned, Family::Populations] {
            let share = |regime: Regime, is: &dyn Fn(usize, f32, f32) -> bool| {
                let held = (0..8).filter(|&seed| {
                    let (ends, speed, apart) = ends(family, regime, seed);
                    is(different(&ends), speed, apart)
                });
                held.count()
            };
            let stable = share(Regime::StableFixedPoint, &|n, speed, _| n == 1 && speed < 0.05);
            let two = share(Regime::Bistable, &|n, speed, _| (1..=2).contains(&n) && speed < 0.05);
            let cycle = share(Regime::LimitCycle, &|_, speed, apart| speed > 0.1 && apart < 20.0);
            let ring = share(Regime::RingAttractor, &|n, speed, _| n >= 2 && speed < 0.3);
            let chaos = share(Regime::Chaotic, &|_, speed, apart| speed > 0.1 && apart > 1.5);
            let found = [stable, two, cycle, ring, chaos];
            // Small networks of a gain little above 1 may fall into a cycle.
            let least = [7, 7, 7, 7, 6];
            let held = found.iter().zip(least).all(|(n, least)| *n >= least);
            assert!(held, "{family:?}: {found:?} of 8");
        }
    }
}
