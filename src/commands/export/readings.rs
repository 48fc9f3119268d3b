//! Readings of the dynamics as they are exported: each with its 90 % interval where it has one.

use crate::wire::{Estimate, Interval, Metrics};

type Value = fn(&Metrics) -> f32;
type WithEnds = fn(&Metrics) -> Option<Estimate>;

/// How a reading is got from a message.
#[derive(Clone, Copy)]
enum Of {
    Value(Value),
    WithEnds(WithEnds),
}

/// One reading.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Its name in `metrics_NAME`.
    pub(super) name: &'static str,
    /// Its unit, as NWB wants it.
    pub(super) unit: &'static str,
    of: Of,
}

impl Reading {
    /// Keys of its arrays.
    pub(super) fn keys(&self) -> Vec<String> {
        let name = self.name;
        match self.of {
            Of::Value(_) => vec![format!("metrics_{name}")],
            Of::WithEnds(_) => {
                ["", "_low", "_high"].map(|end| format!("metrics_{name}{end}")).to_vec()
            }
        }
    }

    /// Its values, NaN where it is not known: one, or mean, low and high.
    pub(super) fn values(&self, m: &Metrics) -> Vec<f32> {
        match self.of {
            Of::Value(of) => vec![of(m)],
            Of::WithEnds(of) => of(m).map_or(vec![f32::NAN; 3], |e| vec![e.mean, e.low, e.high]),
        }
    }
}

const fn value(name: &'static str, unit: &'static str, of: Value) -> Reading {
    Reading { name, unit, of: Of::Value(of) }
}

const fn with_ends(name: &'static str, unit: &'static str, of: WithEnds) -> Reading {
    Reading { name, unit, of: Of::WithEnds(of) }
}

fn estimate(mean: f32, ends: Option<Interval>) -> Option<Estimate> {
    let (low, high) = ends.map_or((f32::NAN, f32::NAN), |e| (e.low, e.high));
    Some(Estimate { mean, low, high })
}

/// All of them.
pub(super) const READINGS: [Reading; 18] = [
    with_ends("spectral_radius", "1", |m| estimate(m.spectral_radius, m.spectral_radius_interval)),
    with_ends("spectral_abscissa_per_s", "1/s", |m| {
        estimate(m.spectral_abscissa_per_s, m.spectral_abscissa_per_s_interval)
    }),
    with_ends("leading_frequency_hz", "Hz", |m| {
        estimate(m.leading_frequency_hz, m.leading_frequency_hz_interval)
    }),
    value("leading_time_constant_s", "s", |m| m.leading_time_constant_s),
    value("participation_ratio", "1", |m| m.participation_ratio),
    value("bare_spectral_radius", "1", |m| m.bare_spectral_radius),
    with_ends("lyapunov_max_noise_free_per_s", "1/s", |m| m.lyapunov_max_noise_free_per_s),
    with_ends("lyapunov_max_driven_per_s", "1/s", |m| m.lyapunov_max_driven_per_s),
    with_ends("kaplan_yorke_dimension", "1", |m| m.kaplan_yorke_dimension),
    with_ends("oscillation_hz", "Hz", |m| m.oscillation_hz),
    with_ends("branching_ratio_per_bin", "1", |m| m.branching_ratio_per_bin),
    with_ends("branching_timescale_s", "s", |m| m.branching_timescale_s),
    with_ends("connectivity_radius", "1", |m| m.connectivity_radius),
    with_ends("edge_exponent_driven_per_s", "1/s", |m| m.edge.as_ref()?.exponent_driven_per_s),
    value("edge_p_chaos", "1", |m| m.edge.as_ref().map_or(f32::NAN, |e| e.p_chaos)),
    value("stable_points", "1", |m| m.fixed_points.as_ref().map_or(f32::NAN, |p| p.stable as f32)),
    value("unstable_points", "1", |m| {
        m.fixed_points.as_ref().map_or(f32::NAN, |p| p.unstable as f32)
    }),
    value("signature", "1", |m| m.signature as f32),
];
