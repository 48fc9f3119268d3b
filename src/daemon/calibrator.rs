//! Self-calibration of a session: gathers its first counts, fits its readout on a thread of its
//! own, and offers the engine that uses it. The session's thread takes it over between two bins;
//! until then the label is `unknown`. Where its regimes were recognised, the thread goes on to ask
//! of each minute whether they still are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::resume;
use crate::bus::{CalibrationState, Plan, SelfCalibration, SessionHandle};
use crate::intake::MASKED;
use crate::journal::Journal;
use crate::model::{COUNT_MAX, Model, Readout};
use crate::platform;
use crate::recogniser::Recogniser;
use crate::recording::{Recording, Trial, in_bins};
use crate::training::{
    AGREEMENT_MIN, Dataset, Regimes, TrainingSettings, Unrecognised, calibrate_animal, recalibrate,
    recognise, still_agrees,
};

/// Interval of checks for new counts.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time of which it is asked, again and again, whether what is recognised in it is what the session
/// says, seconds, and counts of that at most.
const ASKED_S: f64 = 60.0;
const ASKED_COUNTS_MAX: f64 = 1e8;
/// Labels are no longer trusted where less than this share of the bins agrees so often in a row.
/// What they must agree in to be trusted again is more, as in a calibration.
const DOUBTED_BELOW: f64 = 0.5;
const DOUBTS: usize = 2;
/// Shorter pieces between two gaps are left out, seconds.
const PIECE_MIN_S: f64 = 1.0;

/// The self-calibration of one session.
pub(super) struct Calibrator {
    pub(super) plan: Arc<Plan>,
    pub(super) how: SelfCalibration,
    pub(super) session: Arc<SessionHandle>,
    pub(super) journal: Option<Arc<Journal>>,
    /// Folder in which the readout is kept for the next start.
    pub(super) keep: Option<PathBuf>,
}

/// Counts gathered in bins of the model it is fitted to.
struct Gathered {
    channels: usize,
    /// Bins of the rig in one of these.
    factor: usize,
    /// Rig's bins so far in the bin that is filled, and their sums.
    filled: usize,
    sum: Vec<u16>,
    /// Pieces between gaps, `[bins, channels]` each.
    pieces: Vec<Vec<u16>>,
    bins: usize,
}

impl Gathered {
    fn new(channels: usize, factor: usize) -> Self {
        Self { channels, factor, filled: 0, sum: vec![0; channels], pieces: Vec::new(), bins: 0 }
    }

    fn push(&mut self, gap: bool, counts: &[u16]) {
        if gap || self.pieces.is_empty() {
            // One in which nothing came to a whole bin is none.
            if self.pieces.last().is_none_or(|last| !last.is_empty()) {
                self.pieces.push(Vec::new());
            }
            self.sum.fill(0);
            self.filled = 0;
        }
        for (sum, &count) in self.sum.iter_mut().zip(counts) {
            // A masked channel contributes nothing.
            let count = if count == MASKED { 0 } else { count };
            *sum = sum.saturating_add(count).min(COUNT_MAX);
        }
        self.filled += 1;
        if self.filled == self.factor {
            if let Some(piece) = self.pieces.last_mut() {
                piece.extend_from_slice(&self.sum);
            }
            self.bins += 1;
            self.sum.fill(0);
            self.filled = 0;
        }
    }

    fn recording(self, session: &str, bin_width_s: f64) -> Recording {
        let least = (PIECE_MIN_S / bin_width_s) as usize * self.channels;
        let trial = |counts| Trial::unlabelled(session, in_bins(counts, self.channels));
        Recording {
            path: session.into(),
            n_channels: self.channels,
            channels: None,
            bin_width_s,
            regime_names: Vec::new(),
            trials: self.pieces.into_iter().filter(|p| p.len() > least).map(trial).collect(),
            continuous: false,
        }
    }
}

impl Calibrator {
    /// Starts the calibration on its own thread.
    pub(super) fn start(self) -> Result<()> {
        std::thread::Builder::new()
            .name(format!("calibrate-{}", self.plan.session))
            .spawn(move || {
                platform::give_way();
                self.run();
            })
            .context("cannot start a calibration's thread")?;
        Ok(())
    }

    fn run(self) {
        match self.work() {
            Ok(Some(Done { untrusted, asks })) => {
                self.show(CalibrationState::of_result(untrusted.is_none()), untrusted);
                if let Some(asks) = asks
                    && let Err(e) = self.keep_asking(asks)
                {
                    let session = &self.plan.session;
                    tracing::warn!(session, "its regimes are no longer checked: {e:#}");
                }
            }
            // The session ended before.
            Ok(None) => {}
            Err(e) => {
                tracing::error!(
                    session = self.plan.session,
                    "calibration failed, its label stays 'unknown': {e:#}"
                );
                self.show(CalibrationState::Failed, Some(format!("{e:#}")));
            }
        }
    }

    fn show(&self, state: CalibrationState, problem: Option<String>) {
        self.session.set_calibration(|c| {
            c.state = state;
            c.problem = problem;
        });
    }

    /// What came of it; `None` where the session ended before.
    fn work(&self) -> Result<Option<Done>> {
        let (model, factor) = self.plan.calibration_model();
        let model = model.clone();
        let seen = |seen: f64| {
            self.session.set_calibration(|c| c.seconds_seen = seen.min(c.seconds_needed));
        };
        let Some(gathered) = self.gather(self.how.seconds, &model, factor, seen) else {
            return Ok(None);
        };
        self.show(CalibrationState::Fitting, None);
        tracing::info!(session = self.plan.session, seconds = self.how.seconds, "calibrating");
        let recording = gathered.recording(&self.plan.session, model.bin_width_s);
        let Some(Fitted { readout, untrusted, recogniser }) = self.fit(&model, &recording)? else {
            return Ok(None);
        };
        if let Some(folder) = &self.keep
            && let Err(e) =
                resume::save_calibrated(folder, &self.plan.session, &model, readout.clone())
        {
            let session = &self.plan.session;
            tracing::warn!(session, "its calibration cannot be kept for a restart: {e:#}");
        }
        self.read_by(&model, &readout)?;
        match &untrusted {
            None => tracing::info!(session = self.plan.session, "calibrated"),
            Some(why) => tracing::warn!(
                session = self.plan.session,
                "calibrated, but its label stays 'unknown': {why}"
            ),
        }
        let asks = recogniser.filter(|_| untrusted.is_none());
        let asks = asks.map(|recogniser| Asks { model, factor, readout, recogniser });
        Ok(Some(Done { untrusted, asks }))
    }

    /// Counts of so long; `None` where the session ended before.
    fn gather(
        &self,
        seconds: f64,
        model: &Model,
        factor: usize,
        mut seen: impl FnMut(f64),
    ) -> Option<Gathered> {
        let width = model.bin_width_s;
        let needed = (seconds / width).round() as usize;
        let mut gathered = Gathered::new(self.plan.readout.n_channels(), factor);
        while gathered.bins < needed {
            if self.is_over() {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
            self.session.fit_counts().each(|gap, counts| gathered.push(gap, counts));
            seen(gathered.bins as f64 * width);
        }
        Some(gathered)
    }

    /// Lets the session read by a readout.
    fn read_by(&self, model: &Model, readout: &Readout) -> Result<()> {
        let (engine, fingerprint) = self.plan.engine(model, readout.clone())?;
        self.session.replace_engine(engine, fingerprint);
        if let Some(journal) = &self.journal {
            journal.add(&self.plan.session, self.plan.changed(true));
        }
        Ok(())
    }

    /// Asks of each minute what is recognised in it. Where that is not what the session says, time
    /// and again, its labels are not trusted until it is once more. Nothing of it is kept for a
    /// restart: there the session calibrates itself anew, where it ended without trust.
    fn keep_asking(&self, asks: Asks) -> Result<()> {
        let Asks { model, factor, mut readout, recogniser } = asks;
        let of_bins = readout.n_channels() as f64 / model.bin_width_s;
        let seconds = ASKED_S.min(ASKED_COUNTS_MAX / of_bins);
        let mut doubts = 0;
        while let Some(gathered) = self.gather(seconds, &model, factor, |_| {}) {
            let recording = gathered.recording(&self.plan.session, model.bin_width_s);
            // Not every minute shows enough to say anything.
            let Ok(recognition) = recognise(&recogniser, &model, &recording) else { continue };
            let agreement = still_agrees(&model, &readout, &recognition.recording)?;
            doubts = if agreement < DOUBTED_BELOW { doubts + 1 } else { 0 };
            let trusted = match readout.trusted {
                true => doubts < DOUBTS,
                false => agreement >= AGREEMENT_MIN,
            };
            if trusted == readout.trusted {
                continue;
            }
            // Nobody gives the session another model meanwhile; who does has the last word.
            let Some(alone) = self.session.begin_swap() else { continue };
            if self.is_over() {
                return Ok(());
            }
            readout.trusted = trusted;
            self.read_by(&model, &readout)?;
            drop(alone);
            let session = &self.plan.session;
            let problem = (!trusted).then_some(Unrecognised::Disagreed { found: agreement });
            let problem = problem.map(|why| why.to_string());
            match &problem {
                Some(why) => tracing::warn!(session, "its label is 'unknown' from now on: {why}"),
                None => tracing::info!(session, "its regimes are what is recognised again"),
            }
            self.show(CalibrationState::of_result(trusted), problem);
        }
        Ok(())
    }

    /// Whether the session has ended, or has another model.
    fn is_over(&self) -> bool {
        self.session.port.is_closed() || !Arc::ptr_eq(&self.session.plan(), &self.plan)
    }

    /// `None` where the session ended before.
    fn fit(&self, model: &Model, recording: &Recording) -> Result<Option<Fitted>> {
        if recording.trials.is_empty() {
            bail!("expected at least {PIECE_MIN_S} s of counts without a gap, found none");
        }
        let going = || !self.session.port.is_closed();
        let before = self.how.from.as_ref().and_then(|name| model.readout(name));
        let fitted = if let Some(before) = before {
            let data = Dataset::for_calibration(recording)?;
            let found = recalibrate(model, before, &data, &self.plan.session, |_, _| going())?;
            Fitted { readout: found.readout, untrusted: None, recogniser: None }
        } else {
            let settings = TrainingSettings {
                log_rate_bounds: model.online.log_rate_bounds,
                // The sessions need the other cores.
                threads: 1,
                ..TrainingSettings::for_calibration()
            };
            let recogniser = self.plan.checkpoint.recogniser()?;
            let (found, regimes) =
                calibrate_animal(model, recording, &recogniser, settings, |_, _| going())?;
            let untrusted = match regimes {
                Regimes::Unknown(why) => Some(why.to_string()),
                Regimes::Given | Regimes::Recognised { .. } => None,
            };
            Fitted { readout: found.readout, untrusted, recogniser: Some(recogniser) }
        };
        Ok(going().then_some(fitted))
    }
}

/// What a fit gave.
struct Fitted {
    readout: Readout,
    /// Why it is not to be trusted, if it is not.
    untrusted: Option<String>,
    /// What its regimes were recognised with.
    recogniser: Option<Arc<Recogniser>>,
}

/// A session that reads by its own readout.
struct Done {
    /// Why its labels are not to be trusted, if they are not.
    untrusted: Option<String>,
    asks: Option<Asks>,
}

/// What each minute's regimes are recognised and checked with.
struct Asks {
    model: Model,
    factor: usize,
    readout: Readout,
    recogniser: Arc<Recogniser>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_summed_between_gaps_and_short_pieces_left_out() {
        let mut gathered = Gathered::new(2, 2);
        // 400 bins of the rig, then a gap in the middle of a wider bin, then three that make one.
        for i in 0..401 {
            gathered.push(false, &[1, if i % 2 == 0 { MASKED } else { 3 }]);
        }
        for _ in 0..3 {
            gathered.push(true, &[5, 5]);
            gathered.push(false, &[5, 5]);
        }
        assert_eq!(gathered.bins, 203);
        let recording = gathered.recording("s", 0.01);
        assert_eq!(recording.trials.len(), 1);
        assert_eq!(recording.trials[0].n_bins(), 200);
        assert!(recording.trials[0].counts.rows().into_iter().all(|c| c.to_vec() == [2, 3]));
    }

    #[test]
    fn a_sum_is_at_most_what_a_bin_may_hold() {
        let mut gathered = Gathered::new(1, 20);
        (0..20).for_each(|_| gathered.push(false, &[COUNT_MAX]));
        assert_eq!(gathered.pieces, [[COUNT_MAX]]);
    }
}
