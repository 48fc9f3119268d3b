//! Experts beside the dynamics, learned from labels: for each session of each fold, with every
//! choice made on what the folds hold out.

mod averages;
mod gated;
mod labelled;
mod rates;
mod recurrent;

use std::sync::Mutex;

use ndarray::Array2;

use super::error::FinishError;
use super::finish::hazard;
use super::folds::Folds;
use super::settings::TrainingSettings;
use super::threads::{both, on_each};
use crate::model::Experts;
use labelled::Session;

/// Experts of a training's sessions; `None` where a session has none.
pub(crate) type SessionExperts = Vec<Option<Experts>>;

/// Sessions whose experts are learned at once, at most: the counts of each lie in memory.
const AT_ONCE: usize = 4;

/// Learns the experts of every member of `folds`, `[members][sessions]`. Calls `each` with the
/// share of the work done; `false` stops it, and nothing is returned.
///
/// # Errors
/// Errors of candle, and counts that cannot be read back.
pub(crate) fn fit_experts(
    folds: &Folds,
    settings: &TrainingSettings,
    each: impl FnMut(f64) -> bool + Send,
) -> Result<Option<Vec<SessionExperts>>, FinishError> {
    let data = folds.serving();
    let members = folds.members().count();
    let mut sessions: Vec<usize> = (0..data.sessions.len()).collect();
    let at_once = settings.threads.clamp(1, AT_ONCE.min(sessions.len().max(1)));
    let threads = settings.threads.div_ceil(at_once);
    let progress = Mutex::new((vec![0.0; sessions.len()], each));
    let going = |s: usize, done: f64| {
        // A panic elsewhere has ended the program already.
        progress.lock().is_ok_and(|mut progress| {
            let (shares, each) = &mut *progress;
            shares[s] = done;
            each(shares.iter().sum::<f64>() / shares.len() as f64)
        })
    };
    let found = on_each(&mut sessions, at_once, |&mut s| {
        if !going(s, 0.0) {
            return Ok::<_, FinishError>(None);
        }
        // One label is nothing to tell apart.
        let tells = data.regime_names.len() > 1;
        let session = tells.then(|| Session::of(folds, s)).transpose()?.flatten();
        let experts = match session {
            None => Some(vec![None; members]),
            Some(session) => {
                let hazard: Array2<f32> = hazard(data, session.unlabelled);
                let seed = settings.seed.wrapping_add(s as u64);
                fit_session(&session, &hazard, (seed, threads), |done| going(s, done))?
            }
        };
        Ok(experts.filter(|_| going(s, 1.0)))
    })?;
    let Some(found) = found.into_iter().collect::<Option<Vec<SessionExperts>>>() else {
        return Ok(None);
    };
    let of_member = |m: usize| found.iter().map(|session| session[m].clone()).collect();
    Ok(Some((0..members).map(of_member).collect()))
}

/// Experts of one session for every member; `None` where `going` stops the work.
fn fit_session(
    session: &Session,
    hazard: &Array2<f32>,
    (seed, threads): (u64, usize),
    going: impl FnMut(f64) -> bool,
) -> Result<Option<SessionExperts>, FinishError> {
    let (heads, others) = both(
        threads,
        || recurrent::fit(session, seed, threads, going),
        || {
            let rates = rates::fit(session, hazard, seed);
            (rates, averages::fit(session, session.bin_width_s, threads))
        },
    );
    let (Some(heads), Some((rates, averages))) = (heads?, others) else { return Ok(None) };
    let all = rates.into_iter().zip(averages).zip(heads);
    let experts =
        all.map(|((rates, averages), recurrent)| Some(Experts { rates, averages, recurrent }));
    Ok(Some(experts.collect()))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Poisson};

    use super::*;
    use crate::experts::{AveragesFilter, Expert, RateFilter, RecurrentFilter};
    use crate::inference::Seen;
    use crate::recording::{DynamicsTruth, Recording, Trial, in_bins};
    use crate::training::folds::Gathering;

    const CHANNELS: usize = 12;

    /// Two regimes of 40 bins with the same mean rates: each goes to and fro between two states of
    /// its own.
    fn stream(epochs: usize, seed: u64) -> (Vec<u16>, Vec<Option<usize>>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut counts, mut regime) = (Vec::new(), Vec::new());
        for epoch in 0..epochs {
            let of = epoch % 2;
            let phase = rng.random_range(0..2);
            for t in 0..40 {
                let side = (t / 10 + phase) % 2;
                for i in 0..CHANNELS {
                    let high = (if of == 0 { i / 3 } else { i }) % 2 == side;
                    let rate = if high { 1.5 } else { 0.3 };
                    let count: f64 = Poisson::new(rate).expect("a rate").sample(&mut rng);
                    counts.push(count as u16);
                }
                regime.push(Some(of));
            }
        }
        (counts, regime)
    }

    #[test]
    fn each_expert_tells_apart_what_is_in_its_reach() {
        let (counts, regime) = stream(36, 1);
        let recording = Recording {
            path: "test".into(),
            n_channels: CHANNELS,
            channels: None,
            bin_width_s: 0.05,
            regime_names: vec!["a".into(), "b".into()],
            trials: vec![Trial {
                session: "s".into(),
                task: vec![0; regime.len()],
                regime,
                counts: in_bins(counts, CHANNELS),
                truth: DynamicsTruth::default(),
            }],
            continuous: true,
        };
        let mut gathering = Gathering::new(None);
        gathering.add(&recording).expect("a recording");
        let folds = gathering.finish().expect("data");
        let settings = TrainingSettings::default();
        let found = fit_experts(&folds, &settings, |_| true).expect("a fit").expect("experts");
        assert_eq!(found.len(), folds.members().count());
        let experts = found.last().and_then(|f| f[0].clone()).expect("experts of the session");
        // One rate a label tells nothing here.
        assert!(experts.rates.regime.len() > 2, "{:?}", experts.rates.regime);
        let (counts, regime) = stream(40, 2);
        let ones = [1.0f32; CHANNELS];
        let right = |expert: &mut dyn Expert| {
            let mut posterior = [0.0f32; 2];
            let bins = counts.chunks_exact(CHANNELS).zip(&regime);
            let right = bins.filter(|(counts, truth)| {
                let counts: Vec<f32> = counts.iter().map(|&c| f32::from(c)).collect();
                expert.update(Seen { counts: &counts, weight: &ones, gain: &ones });
                expert.posterior(&mut posterior);
                Some(usize::from(posterior[1] > 0.5)) == **truth
            });
            right.count() as f64 / regime.len() as f64
        };
        let rates = right(&mut RateFilter::new(&experts.rates));
        let averages = right(&mut AveragesFilter::new(&experts.averages));
        let recurrent = right(&mut RecurrentFilter::new(&experts.recurrent));
        assert!(rates > 0.9 && recurrent > 0.8, "rates {rates}, recurrent {recurrent}");
        // Means are the same: no linear decoder does it.
        assert!(averages < 0.65, "averages {averages}");
        let stopped = fit_experts(&folds, &settings, |_| false).expect("no error");
        assert!(stopped.is_none());
    }
}
