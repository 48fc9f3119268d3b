//! What a model's low-rank network does: spectra of its linearisation, Lyapunov exponents.

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
mod spectrum;

pub(crate) use estimate::Estimate;
pub(crate) use fixed_points::{FixedPoint, fixed_points};
pub(crate) use forecast::forecast;
pub(crate) use monitor::{Monitor, Position, Reading, feature_count};
pub(crate) use signature::Signature;
pub use spectrum::{StatePosterior, spectrum, spectrum_interval};

/// A network of two units whose feedback is `N^T M = [[a, b], [c, d]]` at rest, with `tau` 0.1 s in bins
/// of 10 ms: everything about it is known.
#[cfg(test)]
pub(crate) fn planar([a, b, c, d]: [f32; 4]) -> crate::model::Model {
    use crate::model::{
        Component, Dimensions, Hypernetwork, Model, Network, OnlineSettings, RegimePrior,
    };
    Model {
        dims: Dimensions { embedding: 1, rank: 2, units: 2, hidden: [1, 1] },
        bin_width_s: 0.01,
        regime_names: vec!["a".into()],
        hypernetwork: Hypernetwork {
            w1: vec![0.0],
            b1: vec![0.0],
            w2: vec![0.0],
            b2: vec![0.0],
            wn: vec![0.0; 4],
            n0: vec![a, b, c, d],
            wc: vec![0.0; 2],
        },
        network: Network {
            m: vec![1.0, 0.0, 0.0, 1.0],
            offset: vec![0.0; 2],
            leak: 0.1,
            process_variance: vec![1e-4; 2],
            initial_variance: vec![1.0; 2],
        },
        readouts: vec![],
        prior: RegimePrior {
            components: vec![Component {
                regime: Some(0),
                weight: 1.0,
                mean: vec![0.0],
                covariance: vec![1.0],
            }],
        },
        online: OnlineSettings::new(1),
        metric_head: None,
    }
}
