//! Gauges of a reading of the dynamics: each a value of `wire::Metrics`, with its 90 % interval
//! where it has one.

use metrics::{Gauge, gauge};

use super::declared::{Kind, Metric};
use crate::wire::{Estimate, Interval, Metrics};

/// Where a reading's value comes from; `None` where it is absent, NaN to Prometheus.
enum Value {
    One(fn(&Metrics) -> Option<f32>),
    /// With the ends of its interval, in gauges of their own.
    WithEnds(fn(&Metrics) -> Option<Estimate>),
}

/// A quantity: the name without its unit, the unit with its underscore, its meaning, its value.
struct Quantity(&'static str, &'static str, &'static str, Value);

fn with(mean: f32, ends: Option<Interval>) -> Option<Estimate> {
    let (low, high) = ends.map_or((f32::NAN, f32::NAN), |i| (i.low, i.high));
    Some(Estimate { mean, low, high })
}

const QUANTITIES: [Quantity; 19] = [
    Quantity(
        "regimed_spectral_radius",
        "",
        "Spectral radius of the bin-to-bin map at the filtered state: 1 is the edge",
        Value::WithEnds(|m| with(m.spectral_radius, m.spectral_radius_interval)),
    ),
    Quantity(
        "regimed_spectral_abscissa",
        "_per_second",
        "Spectral abscissa of the continuous Jacobian at the filtered state: 0 is the edge",
        Value::WithEnds(|m| with(m.spectral_abscissa_per_s, m.spectral_abscissa_per_s_interval)),
    ),
    Quantity(
        "regimed_leading_frequency",
        "_hertz",
        "Frequency of the leading eigenvalue",
        Value::WithEnds(|m| with(m.leading_frequency_hz, m.leading_frequency_hz_interval)),
    ),
    Quantity(
        "regimed_leading_time_constant",
        "_seconds",
        "Time constant of the leading eigenvalue; negative where it grows",
        Value::One(|m| Some(m.leading_time_constant_s)),
    ),
    Quantity(
        "regimed_bare_spectral_radius",
        "",
        "Spectral radius of the bare connectivity J",
        Value::One(|m| Some(m.bare_spectral_radius)),
    ),
    Quantity(
        "regimed_lyapunov_max_noise_free",
        "_per_second",
        "Largest Lyapunov exponent of the fitted network without noise",
        Value::WithEnds(|m| m.lyapunov_max_noise_free_per_s),
    ),
    Quantity(
        "regimed_lyapunov_max_driven",
        "_per_second",
        "Largest Lyapunov exponent of the fitted network along noisy paths",
        Value::WithEnds(|m| m.lyapunov_max_driven_per_s),
    ),
    Quantity(
        "regimed_kaplan_yorke_dimension",
        "",
        "Kaplan-Yorke dimension of the noise-free spectrum",
        Value::WithEnds(|m| m.kaplan_yorke_dimension),
    ),
    Quantity(
        "regimed_oscillation",
        "_hertz",
        "Frequency of the noise-free run",
        Value::WithEnds(|m| m.oscillation_hz),
    ),
    Quantity(
        "regimed_stable_points",
        "",
        "Stable fixed points of the fitted network",
        Value::One(|m| Some(m.fixed_points?.stable as f32)),
    ),
    Quantity(
        "regimed_unstable_points",
        "",
        "Unstable fixed points of the fitted network",
        Value::One(|m| Some(m.fixed_points?.unstable as f32)),
    ),
    Quantity(
        "regimed_slow_points",
        "",
        "Slow points of the fitted network",
        Value::One(|m| Some(m.fixed_points?.slow as f32)),
    ),
    Quantity(
        "regimed_dynamical_signature",
        "",
        "0 undetermined, 1 stable, 2 multistable, 3 marginal, 4 oscillatory, 5 quasi-periodic, 6 \
         chaotic",
        Value::One(|m| Some(m.signature as f32)),
    ),
    Quantity(
        "regimed_edge_exponent_driven",
        "_per_second",
        "Largest driven Lyapunov exponent by the counts alone, clipped to +-2: above 0 is chaos",
        Value::WithEnds(|m| m.edge?.exponent_driven_per_s),
    ),
    Quantity(
        "regimed_edge_chaos",
        "_probability",
        "Probability of chaos by the counts alone",
        Value::One(|m| {
            let edge = m.edge?;
            edge.exponent_driven_per_s.map(|_| edge.p_chaos)
        }),
    ),
    Quantity(
        "regimed_edge_read",
        "_seconds",
        "Time that the exponent by the counts is read off",
        Value::One(|m| Some(m.edge?.seconds)),
    ),
    Quantity(
        "regimed_branching_ratio",
        "_per_bin",
        "Branching ratio of the population's activity: 1 is critical",
        Value::WithEnds(|m| m.branching_ratio_per_bin),
    ),
    Quantity(
        "regimed_branching_timescale",
        "_seconds",
        "Timescale of the population's activity",
        Value::WithEnds(|m| m.branching_timescale_s),
    ),
    Quantity(
        "regimed_connectivity_radius",
        "",
        "Effective connectivity radius from the counts' covariances",
        Value::WithEnds(|m| m.connectivity_radius),
    ),
];

impl Quantity {
    /// Names and helps of its gauges: the mean's, and those of the interval's ends where there is
    /// one.
    fn gauges(&self) -> Vec<(String, String)> {
        let Self(stem, unit, help, value) = self;
        let mut gauges = vec![(format!("{stem}{unit}"), format!("{help}."))];
        if let Value::WithEnds(_) = value {
            for (end, which) in [("low", "Lower"), ("high", "Upper")] {
                let help = format!("{which} end of the 90 % interval of {stem}{unit}.");
                gauges.push((format!("{stem}_{end}{unit}"), help));
            }
        }
        gauges
    }
}

/// Every reading's gauges, as they are declared: name and help.
#[must_use]
pub(crate) fn readings() -> Vec<(String, String)> {
    QUANTITIES.iter().flat_map(Quantity::gauges).collect()
}

/// What all of [`readings`] have in common as metrics.
pub(super) const READING: Metric =
    Metric { name: "", kind: Kind::Gauge, labels: "session", help: "" };

/// A session's gauges of readings.
pub(crate) struct Readings(Vec<Gauge>);

impl Readings {
    /// The readings of a session, of which nothing is known yet.
    #[must_use]
    pub(crate) fn new(session: &str) -> Self {
        let gauge = |(name, _)| gauge!(name, "session" => session.to_owned());
        let readings = Self(readings().into_iter().map(gauge).collect());
        readings.0.iter().for_each(|gauge| gauge.set(f64::NAN));
        readings
    }

    /// Takes a reading's values.
    pub(crate) fn set(&self, of: &Metrics) {
        let mut gauges = self.0.iter();
        let mut set = |value: f32| {
            if let Some(gauge) = gauges.next() {
                gauge.set(f64::from(value));
            }
        };
        for Quantity(.., value) in &QUANTITIES {
            match value {
                Value::One(value) => set(value(of).unwrap_or(f32::NAN)),
                Value::WithEnds(value) => {
                    let nan = Estimate { mean: f32::NAN, low: f32::NAN, high: f32::NAN };
                    let Estimate { mean, low, high } = value(of).unwrap_or(nan);
                    [mean, low, high].into_iter().for_each(&mut set);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_gauge_of_its_own() {
        let names: std::collections::HashSet<_> = readings().into_iter().map(|r| r.0).collect();
        assert_eq!(names.len(), readings().len());
        assert_eq!(Readings::new("x").0.len(), names.len());
        assert!(names.contains("regimed_spectral_abscissa_low_per_second"));
    }
}
