//! What a model's low-rank network does: spectra of its linearisation, Lyapunov exponents, fixed
//! points, forecasts; and measures of the counts alone.
//!
//! What takes longer than a decision yields within (docs/decisions/0016).

mod eigenvalues;
mod estimate;
mod explorer;
mod fixed_points;
mod flow;
mod forecast;
mod lyapunov;
mod monitor;
mod population;
mod signature;
mod skill;
mod spectrum;

pub(crate) use eigenvalues::eigenvalues;
pub(crate) use estimate::{Estimate, NORMAL_HALF_WIDTH};
pub(crate) use fixed_points::{FixedPoint, fixed_points};
pub(crate) use forecast::forecast;
pub(crate) use monitor::{Monitor, Position, Reading};
pub(crate) use signature::{Signature, ZERO_WITHIN_PER_S};
pub(crate) use skill::{DynamicsSkill, SkillMeter};
pub use spectrum::{StatePosterior, spectrum, spectrum_interval};

/// A network of two units whose feedback is `N^T M = [[a, b], [c, d]]` at rest, with `tau` 0.1 s in
/// bins of 10 ms: everything about it is known.
#[cfg(test)]
pub(crate) fn planar([a, b, c, d]: [f32; 4]) -> crate::model::Model {
    use ndarray::{Array1, Array2, Array3, arr2};

    use crate::model::{
        Component, Dimensions, Hypernetwork, Model, Network, OnlineSettings, RegimePrior,
    };
    Model {
        dims: Dimensions { embedding: 1, rank: 2, units: 2, hidden: [1, 1] },
        bin_width_s: 0.01,
        regime_names: vec!["a".into()],
        hypernetwork: Hypernetwork {
            w1: Array2::zeros((1, 1)),
            b1: Array1::zeros(1),
            w2: Array2::zeros((1, 1)),
            b2: Array1::zeros(1),
            wn: Array3::zeros((1, 2, 2)),
            n0: arr2(&[[a, b], [c, d]]),
            wc: Array2::zeros((1, 2)),
        },
        network: Network {
            m: Array2::eye(2),
            offset: Array1::zeros(2),
            leak: 0.1,
            process_variance: Array1::from_elem(2, 1e-4),
            initial_variance: Array1::ones(2),
        },
        readouts: vec![],
        prior: RegimePrior {
            components: vec![Component {
                regime: Some(0),
                weight: 1.0,
                mean: Array1::zeros(1),
                covariance: Array2::ones((1, 1)),
            }],
        },
        online: OnlineSettings::new(1),
    }
}
