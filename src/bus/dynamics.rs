//! A reading of a session's dynamics as a message.

use super::Outcome;
use crate::dynamics::{Estimate, Reading, Signature};
use crate::edge::EdgeReading;
use crate::wire;

fn message(e: Estimate) -> wire::Estimate {
    wire::Estimate { mean: e.mean as f32, low: e.low as f32, high: e.high as f32 }
}

fn interval([low, high]: [f64; 2]) -> wire::Interval {
    wire::Interval { low: low as f32, high: high as f32 }
}

fn signature(s: Signature) -> wire::Signature {
    match s {
        Signature::Undetermined => wire::Signature::Undetermined,
        Signature::Stable => wire::Signature::Stable,
        Signature::Multistable => wire::Signature::Multistable,
        Signature::Marginal => wire::Signature::Marginal,
        Signature::Oscillatory => wire::Signature::Oscillatory,
        Signature::QuasiPeriodic => wire::Signature::QuasiPeriodic,
        Signature::Chaotic => wire::Signature::Chaotic,
    }
}

fn edge(of: &EdgeReading) -> wire::Edge {
    let [mean, low, high, p_chaos] =
        of.exponent.map_or([0.0; 4], |e| [e.per_s, e.low, e.high, e.p_chaos].map(|x| x as f32));
    wire::Edge {
        seconds: of.seconds as f32,
        exponent_driven_per_s: of.exponent.map(|_| wire::Estimate { mean, low, high }),
        p_chaos,
    }
}

/// The message about the bin of `outcome`.
#[must_use]
pub(crate) fn metrics(
    outcome: &Outcome,
    of: &Reading,
    of_counts: Option<&EdgeReading>,
) -> wire::Metrics {
    let (s, p) = (&of.spectrum, &of.portrait);
    let single = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
    wire::Metrics {
        bin: outcome.bin,
        spectral_radius: s.mean.spectral_radius as f32,
        spectral_abscissa_per_s: s.mean.spectral_abscissa_per_s as f32,
        leading_frequency_hz: s.mean.leading_frequency_hz as f32,
        leading_time_constant_s: s.mean.leading_time_constant_s as f32,
        participation_ratio: outcome.participation_ratio,
        spectral_radius_interval: Some(interval(s.spectral_radius)),
        spectral_abscissa_per_s_interval: Some(interval(s.spectral_abscissa_per_s)),
        leading_frequency_hz_interval: Some(interval(s.leading_frequency_hz)),
        bare_spectral_radius: s.mean.bare_radius as f32,
        lyapunov_noise_free_per_s: single(&p.lyapunov_noise_free_per_s),
        lyapunov_driven_per_s: single(&p.lyapunov_driven_per_s),
        lyapunov_max_noise_free_per_s: Some(message(p.lyapunov_max_noise_free_per_s)),
        lyapunov_max_driven_per_s: Some(message(p.lyapunov_max_driven_per_s)),
        kaplan_yorke_dimension: Some(message(p.kaplan_yorke_dimension)),
        oscillation_hz: p.oscillation_hz.map(message),
        fixed_points: p.fixed_points.map(|f| wire::FixedPoints {
            stable: f.stable as u32,
            unstable: f.unstable as u32,
            slow: f.slow as u32,
            probability: f.probability as f32,
        }),
        signature: signature(p.signature).into(),
        branching_ratio_per_bin: of.branching.map(|b| message(b.ratio_per_bin)),
        branching_timescale_s: of.branching.map(|b| message(b.timescale_s)),
        connectivity_radius: of.connectivity_radius.map(message),
        map_eigenvalues: s
            .map_eigenvalues
            .iter()
            .map(|&[re, im]| wire::Eigenvalue { re: re as f32, im: im as f32 })
            .collect(),
        edge: of_counts.map(edge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_have_the_names_of_the_core() {
        for s in Signature::ALL {
            let name = s.name().to_uppercase().replace('-', "_");
            assert_eq!(signature(s).as_str_name(), format!("SIGNATURE_{name}"));
        }
    }
}
