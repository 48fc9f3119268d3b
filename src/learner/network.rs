//! A small feed-forward network: the log odds of several things at once, or of one among several.

use ndarray::{Array1, Array2, Axis, Zip};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Units of each of the two hidden layers.
const HIDDEN: usize = 128;
/// Rows of a step.
const BATCH: usize = 256;
/// Steps at least.
const STEPS_MIN: usize = 200;
/// Share of the hidden units that are silent in a step, drawn anew for each row (Srivastava et al.
/// 2014).
const SILENT: f32 = 0.35;
/// Learning rate at the start, which falls to 0 by half a cosine, and share of it by which weights
/// shrink (Loshchilov & Hutter 2019).
const RATE: f32 = 2e-3;
const SHRINK: f32 = 1e-2;
/// Memory of Adam's moments (Kingma & Ba 2015).
const MEMORY: [f32; 2] = [0.9, 0.99];

/// `[inputs, outputs]` and `[outputs]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layer {
    pub(super) weights: Array2<f32>,
    pub(super) bias: Array1<f32>,
}

/// Two hidden layers of `x sigmoid(x)` and a linear one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    pub(super) layers: [Layer; 3],
}

/// What outputs are log odds of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Each of something by itself.
    Each,
    /// Of one among all, up to what they have in common.
    OneOf,
}

impl Link {
    /// Probabilities of each row's outputs.
    fn probabilities(self, outputs: &Array2<f32>) -> Array2<f32> {
        if self == Self::Each {
            return outputs.mapv(sigmoid);
        }
        let mut p = outputs.clone();
        for mut row in p.rows_mut() {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.mapv_inplace(|x| (x - top).exp());
            let sum = row.sum();
            row /= sum;
        }
        p
    }
}

/// How a network learns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) link: Link,
    /// Times that every row is seen, about.
    pub(crate) epochs: f64,
    pub(crate) seed: u64,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Inputs and outputs of each layer.
pub(super) fn sizes(inputs: usize, outputs: usize) -> [[usize; 2]; 3] {
    [[inputs, HIDDEN], [HIDDEN, HIDDEN], [HIDDEN, outputs]]
}

impl Network {
    /// Log odds for a row, `[outputs]`.
    pub(crate) fn predict(&self, row: &[f32]) -> Vec<f32> {
        let mut x = row.to_vec();
        for (i, layer) in self.layers.iter().enumerate() {
            let mut y = layer.bias.to_vec();
            for (x, weights) in x.iter().zip(layer.weights.rows()) {
                y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
            }
            if i + 1 < self.layers.len() {
                y.iter_mut().for_each(|y| *y *= sigmoid(*y));
            }
            x = y;
        }
        x
    }

    fn drawn(sizes: [[usize; 2]; 3], rng: &mut ChaCha8Rng) -> Self {
        let layer = |[inputs, outputs]: [usize; 2]| {
            let scale = (2.0 / inputs as f32).sqrt();
            let mut normal = || -> f32 { StandardNormal.sample(rng) };
            Layer {
                weights: Array2::from_shape_simple_fn((inputs, outputs), || scale * normal()),
                bias: Array1::zeros(outputs),
            }
        };
        Self { layers: sizes.map(layer) }
    }

    /// Learns from `rows` `[n, inputs]` and how true each thing is of each, 0 to 1, `[n, outputs]`.
    pub(crate) fn fit(rows: &Array2<f32>, targets: &Array2<f32>, plan: Plan) -> Self {
        Self::fit_some(rows, targets, &(0..rows.nrows()).collect::<Vec<_>>(), plan)
    }

    /// The same from some of the rows.
    pub(crate) fn fit_some(
        rows: &Array2<f32>,
        targets: &Array2<f32>,
        some: &[usize],
        plan: Plan,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let mut network = Self::drawn(sizes(rows.ncols(), targets.ncols()), &mut rng);
        if some.is_empty() {
            return network;
        }
        let like = |l: &Layer| Layer {
            weights: Array2::zeros(l.weights.raw_dim()),
            bias: Array1::zeros(l.bias.raw_dim()),
        };
        let mut moments: [[Layer; 2]; 3] =
            std::array::from_fn(|i| [0, 1].map(|_| like(&network.layers[i])));
        let steps = plan.epochs * some.len() as f64 / BATCH as f64;
        let steps = (steps as usize).max(STEPS_MIN);
        for step in 0..steps {
            let chosen: Vec<usize> =
                (0..BATCH).map(|_| some[rng.random_range(0..some.len())]).collect();
            let (x, y) = (rows.select(Axis(0), &chosen), targets.select(Axis(0), &chosen));
            let up = 1.0 / (1.0 - SILENT);
            let masks = [0, 1].map(|_| {
                let mut one = || if rng.random::<f32>() < SILENT { 0.0 } else { up };
                Array2::from_shape_simple_fn((BATCH, HIDDEN), &mut one)
            });
            let slopes = network.slopes(&x, &y, &masks, plan.link);
            let done = step as f32 / steps as f32;
            let rate = RATE * 0.5 * (1.0 + (std::f32::consts::PI * done).cos());
            for ((layer, slope), moments) in
                network.layers.iter_mut().zip(&slopes).zip(&mut moments)
            {
                let [first, second] = moments;
                let how = Adam::new(step, rate);
                Zip::from(&mut layer.weights)
                    .and(&slope.weights)
                    .and(&mut first.weights)
                    .and(&mut second.weights)
                    .for_each(|w, g, m, v| how.step(w, *g, m, v));
                Zip::from(&mut layer.bias)
                    .and(&slope.bias)
                    .and(&mut first.bias)
                    .and(&mut second.bias)
                    .for_each(|w, g, m, v| how.step(w, *g, m, v));
            }
        }
        network
    }

    /// Slopes of the mean cross-entropy, with hidden units multiplied by masks.
    fn slopes(
        &self,
        x: &Array2<f32>,
        y: &Array2<f32>,
        masks: &[Array2<f32>; 2],
        link: Link,
    ) -> [Layer; 3] {
        let mut inputs = vec![x.clone()];
        let mut rises = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let mut z = inputs[i].dot(&layer.weights) + &layer.bias;
            if let Some(mask) = masks.get(i) {
                let mut rise = z.mapv(|z| {
                    let s = sigmoid(z);
                    s * (1.0 + z * (1.0 - s))
                });
                rise *= mask;
                rises.push(rise);
                z.mapv_inplace(|z| z * sigmoid(z));
                z *= mask;
            }
            inputs.push(z);
        }
        let mut back = link.probabilities(&inputs[3]) - y;
        back /= y.len() as f32;
        let mut slopes: Vec<Layer> = Vec::new();
        for i in (0..3).rev() {
            slopes.push(Layer { weights: inputs[i].t().dot(&back), bias: back.sum_axis(Axis(0)) });
            if i > 0 {
                back = back.dot(&self.layers[i].weights.t()) * &rises[i - 1];
            }
        }
        let [last, middle, first] = [slopes.remove(0), slopes.remove(0), slopes.remove(0)];
        [first, middle, last]
    }
}

/// One step of Adam with weights that shrink.
#[derive(Clone, Copy)]
struct Adam {
    rate: f32,
    /// What the moments, which start at 0, are divided by.
    grown: [f32; 2],
}

impl Adam {
    fn new(step: usize, rate: f32) -> Self {
        Self { rate, grown: MEMORY.map(|m| 1.0 - m.powi(step as i32 + 1)) }
    }

    fn step(&self, weight: &mut f32, slope: f32, first: &mut f32, second: &mut f32) {
        *first += (1.0 - MEMORY[0]) * (slope - *first);
        *second += (1.0 - MEMORY[1]) * (slope * slope - *second);
        let [mean, square] = [*first / self.grown[0], *second / self.grown[1]];
        *weight -= self.rate * (mean / (square.sqrt() + 1e-8) + SHRINK * *weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((n, 6), || rng.random_range(-1.7..1.7))
    }

    const PLAN: Plan = Plan { link: Link::Each, epochs: 70.0, seed: 0 };

    /// A slope, and a step and a product, in log odds.
    fn truth(row: &[f32]) -> [f32; 2] {
        let step = if row[1] > 0.3 { 2.0 } else { -1.0 };
        [2.0 * row[0], 2.0 * row[2] * row[3] + step].map(sigmoid)
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let network = Network::drawn(sizes(6, 2), &mut rng);
        let x = rows(16, 2);
        let y = Array2::from_shape_simple_fn((16, 2), || f32::from(u8::from(rng.random::<bool>())));
        let masks = [0, 1].map(|_| {
            Array2::from_shape_simple_fn((16, HIDDEN), || if rng.random() { 0.0 } else { 2.0 })
        });
        // In double precision, a row and an output at a time.
        let loss = |network: &Network| -> f64 {
            let mut sum = 0.0;
            for r in 0..16 {
                let mut now: Vec<f64> = x.row(r).iter().map(|&x| f64::from(x)).collect();
                for (i, layer) in network.layers.iter().enumerate() {
                    let out = layer.bias.len();
                    now = (0..out)
                        .map(|o| {
                            let products = now.iter().zip(layer.weights.column(o));
                            let z = products.map(|(x, w)| x * f64::from(*w)).sum::<f64>()
                                + f64::from(layer.bias[o]);
                            match masks.get(i) {
                                Some(m) => z / (1.0 + (-z).exp()) * f64::from(m[(r, o)]),
                                None => z,
                            }
                        })
                        .collect();
                }
                for (o, z) in now.iter().enumerate() {
                    sum += z.exp().ln_1p() - f64::from(y[(r, o)]) * z;
                }
            }
            sum / 32.0
        };
        let slopes = network.slopes(&x, &y, &masks, Link::Each);
        for (layer, at) in [(0, (3, 17)), (0, (5, 90)), (1, (40, 2)), (2, (7, 1))] {
            let moved = |by: f32| {
                let mut other = network.clone();
                other.layers[layer].weights[at] += by;
                loss(&other)
            };
            let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let found = f64::from(slopes[layer].weights[at]);
            assert!((found - expected).abs() < 1e-4 + 0.02 * expected.abs(), "{found} {expected}");
        }
    }

    #[test]
    fn one_among_several_is_learned_with_its_probability() {
        let (train, test) = (rows(8000, 3), rows(1000, 4));
        let chances = |row: &[f32]| {
            let odds = [2.0 * row[0], row[1] - row[2], 0.0].map(f32::exp);
            odds.map(|o| o / odds.iter().sum::<f32>())
        };
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut targets = Array2::zeros((8000, 3));
        for (row, mut target) in train.rows().into_iter().zip(targets.rows_mut()) {
            let mut left = rng.random::<f32>();
            let p = chances(row.as_slice().expect("a row"));
            let at = p.iter().position(|p| {
                left -= p;
                left <= 0.0
            });
            target[at.unwrap_or(2)] = 1.0;
        }
        let network = Network::fit(&train, &targets, Plan { link: Link::OneOf, ..PLAN });
        let mut error = 0.0;
        for row in test.rows() {
            let row = row.as_slice().expect("a row");
            let outputs = Array2::from_shape_vec((1, 3), network.predict(row)).expect("a shape");
            let found = Link::OneOf.probabilities(&outputs);
            error += found.iter().zip(chances(row)).map(|(f, p)| (f - p).abs()).sum::<f32>();
        }
        assert!(error / 3000.0 < 0.05, "{}", error / 3000.0);
    }

    #[test]
    fn log_odds_of_several_things_are_learned_and_predicted_one_by_one() {
        let (train, test) = (rows(8000, 3), rows(1000, 4));
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let targets: Vec<f32> = train
            .rows()
            .into_iter()
            .flat_map(|r| truth(r.as_slice().expect("a row")))
            .map(|p| f32::from(u8::from(rng.random::<f32>() < p)))
            .collect();
        let targets = Array2::from_shape_vec((8000, 2), targets).expect("a shape");
        let network = Network::fit(&train, &targets, PLAN);
        let mut errors = [0.0f32; 2];
        for row in test.rows() {
            let row = row.as_slice().expect("a row");
            for ((e, found), p) in errors.iter_mut().zip(network.predict(row)).zip(truth(row)) {
                *e += (sigmoid(found) - p).abs() / 1000.0;
            }
        }
        assert!(errors[0] < 0.04 && errors[1] < 0.08, "{errors:?}");
        assert_eq!(network, Network::fit(&train, &targets, PLAN), "the same each time");
    }
}
