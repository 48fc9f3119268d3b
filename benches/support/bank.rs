//! A filter bank's model of any size, and counts for it.
#![allow(dead_code)] // not every bench asks for all of it

use ndarray::{Array, Array1, Array2, Array3, Dimension, IntoDimension};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson, StandardNormal};
use regimed::internals::model::{
    AveragesHead, Component, Dimensions, Experts, Hypernetwork, Model, Network, OnlineSettings,
    Pool, RateStates, Readout, RecurrentHead, RegimePrior,
};

/// The sizes that budgets name.
pub(crate) const BUDGETED: Dimensions =
    Dimensions { embedding: 8, rank: 6, units: 64, hidden: [64, 24] };

/// A model of the budget's sizes, numbers as small as trained ones.
pub(crate) fn model(
    dims: Dimensions,
    channels: usize,
    hypotheses: usize,
    rng: &mut ChaCha8Rng,
) -> Model {
    let Dimensions { embedding: d, rank, units, hidden: [h1, h2] } = dims;
    let mut normals = |n: usize, sd: f32| -> Vec<f32> {
        (0..n).map(|_| sd * rng.sample::<f32, _>(StandardNormal)).collect()
    };
    let components = (0..hypotheses)
        .map(|k| Component {
            regime: Some(k % 5),
            weight: 1.0 / hypotheses as f32,
            mean: Array1::from(normals(d, 0.3)),
            covariance: Array2::eye(d) * 0.02,
        })
        .collect();
    let prior = RegimePrior { components };
    let readout = Readout {
        session: "bench".into(),
        loading: array((channels, rank), normals(channels * rank, 0.3)),
        baseline: Array1::from(normals(channels, 0.5)) - 1.9,
        channels: None,
        dispersion: None,
        trusted: true,
        experts: None,
        prior: prior.clone(),
    };
    Model {
        dims,
        bin_width_s: 0.01,
        regime_names: (0..5).map(|r| r.to_string()).collect(),
        hypernetwork: Hypernetwork {
            w1: array((d, h1), normals(d * h1, 0.3)),
            b1: Array1::from(normals(h1, 0.1)),
            w2: array((h1, h2), normals(h1 * h2, 0.15)),
            b2: Array1::from(normals(h2, 0.1)),
            wn: array((h2, rank, units), normals(h2 * rank * units, 0.02)),
            n0: array((rank, units), normals(rank * units, 0.02)),
            wc: array((h2, rank), normals(h2 * rank, 0.1)),
        },
        network: Network {
            m: array((units, rank), normals(units * rank, 0.4)),
            offset: Array1::from(normals(units, 0.1)),
            leak: 0.1,
            process_variance: Array1::from_elem(rank, 0.02),
            initial_variance: Array1::from_elem(rank, 0.5),
        },
        readouts: vec![readout],
        prior,
        online: OnlineSettings::new(5),
    }
}

fn array<D: Dimension>(shape: impl IntoDimension<Dim = D>, values: Vec<f32>) -> Array<f32, D> {
    Array::from_shape_vec(shape.into_dimension(), values).expect("as many values")
}

pub(crate) fn draw(model: &Model, bins: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
    let rate = |b: &f32| Poisson::new(b.exp()).expect("a rate");
    let baseline = &model.readouts[0].baseline;
    (0..bins).map(|_| baseline.iter().map(|b| rate(b).sample(rng)).collect()).collect()
}

/// Gives the model experts of the sizes that `pretrain` learns: two states for each of 5 regimes,
/// averages over three times, 32 hidden units.
pub(crate) fn with_experts(mut model: Model, rng: &mut ChaCha8Rng) -> Model {
    const REGIMES: usize = 5;
    const HIDDEN: usize = 32;
    let channels = model.readouts[0].n_channels();
    let states = 2 * REGIMES;
    let mut normals = |n: usize, sd: f32| -> Vec<f32> {
        (0..n).map(|_| sd * rng.sample::<f32, _>(StandardNormal)).collect()
    };
    let rates = normals(states * channels, 0.3).into_iter().map(|x| 0.15 * x.exp()).collect();
    model.readouts[0].experts = Some(Experts {
        rates: RateStates {
            rates: array((states, channels), rates),
            transition: Array2::from_shape_fn((states, states), |(a, b)| {
                if a == b { 0.9 } else { 0.1 / (states - 1) as f32 }
            }),
            regime: (0..states).map(|s| s % REGIMES).collect(),
            power: 0.25,
        },
        averages: AveragesHead {
            mean: Array1::from_elem(channels, 0.15),
            shares: vec![0.2, 0.05, 0.0125],
            weights: Array3::from_shape_vec(
                (3, channels, REGIMES),
                normals(3 * channels * REGIMES, 0.02),
            )
            .expect("as many values"),
            bias: Array1::zeros(REGIMES),
        },
        recurrent: RecurrentHead {
            mean: Array1::from_elem(channels, 0.15),
            input: array((channels, 3 * HIDDEN), normals(channels * 3 * HIDDEN, 0.05)),
            bias: Array1::zeros(3 * HIDDEN),
            recurrent: array((HIDDEN, 3 * HIDDEN), normals(HIDDEN * 3 * HIDDEN, 0.15)),
            output: array((HIDDEN, REGIMES), normals(HIDDEN * REGIMES, 0.2)),
            output_bias: Array1::zeros(REGIMES),
        },
    });
    model.online.pool = Pool { weights: [0.4, 0.2, 0.2, 0.2], temperature: 1.2, evenness: 0.5 };
    model.online.base_rates = vec![1.0 / REGIMES as f32; REGIMES];
    model
}
