//! Minutes of counts in switching regimes with their labels: of animals of `regimed simulate`, and
//! of networks whose units adapt, which no part of the product knows.

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use regimed::internals::recogniser::BIN_S;
use regimed::internals::teacher::{Animal, AnimalSettings, Regime, Simulation};

const SECONDS: f64 = 60.0;
const SWITCH_EVERY_S: f64 = 3.0;
const CHANNELS: usize = 96;

/// Counts `[bins, channels]` and the regime of each bin.
pub(crate) type Minute = (Array2<f32>, Vec<usize>);

fn bins() -> usize {
    (SECONDS / BIN_S).round() as usize
}

/// Of some regimes alone, with so much of the usual rate.
pub(crate) fn simulated(index: u64, allowed: &[usize], rate: f64) -> Minute {
    let usual = AnimalSettings::default();
    let settings = AnimalSettings { rate_hz: rate * usual.rate_hz, ..usual };
    let animal = Animal::new(1, index, settings);
    let mut rng = ChaCha8Rng::seed_from_u64(index);
    let dwell = (SWITCH_EVERY_S / BIN_S).round() as usize;
    let together = (BIN_S / settings.bin_width_s).round() as usize;
    let mut counts = Array2::zeros((bins(), animal.n_channels()));
    let mut regimes = Vec::with_capacity(bins());
    let mut now = allowed[rng.random_range(0..allowed.len())];
    let task = |now: usize, number: u64| animal.task(Regime::ALL[now], 9_000 + number);
    let mut simulation = Simulation::new(animal.clone(), task(now, 0), index);
    let mut bin = vec![0u16; animal.n_channels()];
    for (t, mut row) in counts.rows_mut().into_iter().enumerate() {
        if t > 0 && t % dwell == 0 {
            now = another(now, allowed, &mut rng);
            simulation.begin(task(now, (t / dwell) as u64));
        }
        for _ in 0..together {
            simulation.bin(&mut bin);
            row.iter_mut().zip(&bin).for_each(|(c, b)| *c += f32::from(*b));
        }
        regimes.push(now);
    }
    (counts, regimes)
}

/// Another of those allowed, where there is one.
fn another(now: usize, allowed: &[usize], rng: &mut ChaCha8Rng) -> usize {
    let others: Vec<usize> = allowed.iter().copied().filter(|r| *r != now).collect();
    if others.is_empty() { now } else { others[rng.random_range(0..others.len())] }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// `tau dx/dt = -x + J phi(x) - b w + c + noise`, `tau_w dw/dt = -w + x`, phi an arctangent: the
/// cycle is a relaxation along one line, weights are heavy-tailed, rates are softplus.
pub(crate) fn adapting(index: u64) -> Minute {
    const UNITS: usize = 220;
    const STEP_S: f64 = 0.005;
    let mut rng = ChaCha8Rng::seed_from_u64(77_000 + index);
    let tau = rng.random_range(0.08..0.13);
    let phi = |x: f64| (std::f64::consts::FRAC_PI_2 * x).atan() / std::f64::consts::FRAC_PI_2;
    let heavy = |rng: &mut ChaCha8Rng| normal(rng) * (0.4 * normal(rng)).exp() / 1.17;
    let chi: Vec<f64> =
        (0..UNITS * UNITS).map(|_| heavy(&mut rng) / (UNITS as f64).sqrt()).collect();
    let columns: Vec<Vec<f64>> =
        (0..4).map(|_| (0..UNITS).map(|_| heavy(&mut rng)).collect()).collect();
    let ring: Vec<[f64; 2]> = (0..UNITS)
        .map(|i| {
            let angle = std::f64::consts::TAU * ((i * 89) % UNITS) as f64 / UNITS as f64;
            [angle.cos(), angle.sin()].map(|x| x * std::f64::consts::SQRT_2)
        })
        .collect();
    let slope: Vec<f64> = (0..CHANNELS).map(|_| rng.random_range(0.7..1.6)).collect();
    let threshold: Vec<f64> = (0..CHANNELS).map(|_| rng.random_range(-0.5..0.5)).collect();
    let noise = rng.random_range(0.06..0.14);
    let dwell = (SWITCH_EVERY_S / BIN_S).round() as usize;
    let (mut x, mut w) = (vec![0.0; UNITS], vec![0.0; UNITS]);
    let (mut now, mut j, mut input, mut adapts, mut tau_w) =
        (0, vec![0.0; UNITS * UNITS], vec![0.0; UNITS], 0.0, 0.3);
    let mut rates = Array2::<f64>::zeros((bins(), CHANNELS));
    let mut regimes = Vec::with_capacity(bins());
    for (t, mut row) in rates.rows_mut().into_iter().enumerate() {
        if t % dwell == 0 {
            now = another(now, &[0, 1, 2, 3, 4], &mut rng);
            let random = match now {
                3 => 0.0,
                4 => rng.random_range(1.7..2.4),
                _ => 0.25,
            };
            let gain = match now {
                1 => rng.random_range(1.7..2.4),
                2 => rng.random_range(2.0..2.6),
                3 => rng.random_range(1.8..2.4),
                _ => 0.3,
            };
            for i in 0..UNITS {
                for k in 0..UNITS {
                    let structure = match now {
                        3 => ring[i][0] * ring[k][0] + ring[i][1] * ring[k][1],
                        4 => 0.0,
                        n => columns[n][i] * columns[n][k],
                    };
                    j[i * UNITS + k] =
                        random * chi[i * UNITS + k] + gain * structure / UNITS as f64;
                }
            }
            let drive =
                if now == 0 { rng.random_range(0.4..1.1) * normal(&mut rng).signum() } else { 0.0 };
            input = columns[3].iter().map(|m| drive * m).collect();
            (adapts, tau_w) = if now == 2 {
                (rng.random_range(1.6..2.4), rng.random_range(0.2..0.45))
            } else {
                (0.0, tau_w)
            };
            w.iter_mut().for_each(|w: &mut f64| *w = 0.0);
        }
        for _ in 0..(BIN_S / STEP_S).round() as usize {
            let out: Vec<f64> = x.iter().map(|&x: &f64| phi(x)).collect();
            let a = STEP_S / tau;
            for i in 0..UNITS {
                let to: f64 =
                    j[i * UNITS..(i + 1) * UNITS].iter().zip(&out).map(|(w, y)| w * y).sum();
                w[i] += STEP_S / tau_w * (x[i] - w[i]);
                x[i] += a * (to + input[i] - adapts * w[i] - x[i])
                    + (2.0 * a).sqrt() * noise * normal(&mut rng);
            }
        }
        for (c, rate) in row.iter_mut().enumerate() {
            *rate = (2.5 * slope[c] * (x[c] - threshold[c])).exp().ln_1p() + 0.1;
        }
        regimes.push(now);
    }
    let mean = rates.mean().unwrap_or(1.0);
    let scale = 14.0 * BIN_S / mean;
    let counts = rates.mapv(|r| {
        let drawn: f64 = Poisson::new(r * scale).map_or(0.0, |p| p.sample(&mut rng));
        drawn as f32
    });
    (counts, regimes)
}
