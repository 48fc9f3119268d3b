//! A recogniser of a lab's own regimes, learned across its sessions.

use std::ops::Range;

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::wide::{together, wide};
use crate::recogniser::{
    BIN_S, Judged, Lesson, Part, Recogniser, School, Score, Use, calibration_error, parts,
    share_right,
};
use crate::recording::Recording;

/// Fewer sessions do not show what differs from one to the next.
pub(crate) const SESSIONS_MIN: usize = 4;
/// Sessions that must show a regime.
const SHOWN_BY_MIN: usize = 2;
/// Parts of the sessions that are left out in turn, at most.
const FOLDS_MAX: usize = 6;
/// Minutes of a session that are learned from at most, evenly chosen.
const MINUTES_MAX: usize = 20;
/// Times that each minute is learned from with other channels and fewer spikes.
const VARIED: usize = 3;
/// Share of the channels and of the spikes that are kept then.
const CHANNELS_KEPT: Range<f64> = 0.5..1.0;
const SPIKES_KEPT: Range<f64> = 0.3..1.0;
/// On sessions left out it must be right in this share of the labelled time; in this share of what
/// naming the most frequent regime always gets wrong; and its probabilities off by less than that.
const RIGHT_MIN: f64 = 0.7;
const GAINED_MIN: f64 = 0.4;
const OFF_MAX: f64 = 0.1;

/// Why new animals' regimes cannot be recognised.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotLearned {
    /// Too few sessions.
    #[error("expected {SESSIONS_MIN} sessions or more with minutes of labels, found {found}")]
    Sessions {
        /// Sessions with usable minutes.
        found: usize,
    },
    /// Bins too wide to see how activity moves.
    #[error(
        "expected bins that make {:.0} ms together, or a quarter less or more, found {found_ms} ms",
        1e3 * BIN_S
    )]
    Bins {
        /// Width of the bins, milliseconds.
        found_ms: f64,
    },
    /// A regime that hardly any session shows.
    #[error("expected {SHOWN_BY_MIN} sessions or more that show '{regime}', found {found}")]
    Shown {
        /// The regime.
        regime: String,
        /// Sessions that show it.
        found: usize,
    },
    /// One regime, or none.
    #[error("expected two regimes or more, found {0}")]
    Regimes(usize),
    /// It was stopped.
    #[error("stopped before it was learned")]
    Stopped,
    /// What was learned from some sessions does not hold in others.
    #[error(
        "on sessions that were left out it was right in {:.0} % of the time, where the most \
         frequent regime alone is in {:.0} %, with probabilities that were off by {off:.2}",
        100.0 * right,
        100.0 * guessed
    )]
    Unsure {
        /// Share of the labelled time in which it was right, mean over sessions.
        right: f64,
        /// The same of the most frequent regime.
        guessed: f64,
        /// Calibration error.
        off: f64,
    },
}

/// One minute of one session.
struct Minute {
    session: usize,
    lesson: Lesson,
}

/// What there is to learn from.
#[derive(Default)]
pub struct OwnLessons {
    names: Vec<String>,
    sessions: Vec<String>,
    minutes: Vec<Minute>,
    /// Bins of each regime, by session.
    shown: Vec<Vec<usize>>,
    too_wide_ms: Option<f64>,
}

impl OwnLessons {
    /// Takes up a recording.
    pub fn add(&mut self, recording: &Recording) {
        let width = recording.bin_width_s;
        let Some(together) = together(width) else {
            self.too_wide_ms = Some(1e3 * width);
            return;
        };
        let mut sessions: Vec<&String> = recording.trials.iter().map(|t| &t.session).collect();
        sessions.dedup();
        sessions.sort_unstable();
        sessions.dedup();
        for session in sessions {
            let trials = recording.trials.iter().filter(|t| t.session == *session).cloned();
            let own = Recording {
                trials: trials.collect(),
                continuous: recording.continuous,
                n_channels: recording.n_channels,
                bin_width_s: width,
                ..Recording::default()
            };
            let number = place(&mut self.sessions, session);
            self.add_session(&own, number, &recording.regime_names, together);
        }
    }

    fn add_session(&mut self, own: &Recording, session: usize, names: &[String], together: usize) {
        let wide = wide(own, together);
        let label = |of: &Option<usize>| of.map(|r| place(&mut self.names, &names[r]) as u8);
        let labels: Vec<Option<u8>> = wide.labels.iter().map(label).collect();
        self.shown.resize(self.shown.len().max(session + 1), Vec::new());
        let shown = &mut self.shown[session];
        shown.resize(shown.len().max(self.names.len()), 0);
        let every = parts(&wide.counts, &wide.pieces).len().div_ceil(MINUTES_MAX).max(1);
        for part in parts(&wide.counts, &wide.pieces).step_by(every) {
            let labels: Vec<Option<u8>> =
                part.whole.iter().flat_map(|p| labels[p.clone()].iter().copied()).collect();
            // Minutes without labels teach nothing, and none can be asked about them.
            if labels.iter().flatten().next().is_none() {
                continue;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(self.minutes.len() as u64);
            let lesson =
                |counts: &Array2<f32>, what| Lesson::new(counts, &part.inside, &labels, what);
            let Some(asked) = lesson(&part.counts, Use::Asked) else { continue };
            labels.iter().flatten().for_each(|r| shown[usize::from(*r)] += 1);
            let varied = (0..VARIED).map(|_| lesson(&varied(&part, &mut rng), Use::Learned));
            let lessons = std::iter::once(asked).chain(varied.flatten());
            self.minutes.extend(lessons.map(|lesson| Minute { session, lesson }));
        }
    }

    /// Learns from all; `each` is told the share that is done, and whether to go on.
    ///
    /// # Errors
    /// Why what there is does not suffice.
    pub fn learn(self, each: impl FnMut(f64) -> bool) -> Result<Recogniser, NotLearned> {
        let found = self.check()?;
        let Self { names, minutes, .. } = self;
        let mut used: Vec<usize> = minutes.iter().map(|m| m.session).collect();
        used.dedup();
        used.sort_unstable();
        used.dedup();
        let folds = used.len().min(FOLDS_MAX);
        let fold = |session: usize| used.binary_search(&session).unwrap_or(0) % folds;
        let by_session = minutes.iter().map(|m| fold(m.session)).collect();
        let sessions: Vec<usize> = minutes.iter().map(|m| m.session).collect();
        let lessons: Vec<Lesson> = minutes.into_iter().map(|m| m.lesson).collect();
        let parts = [by_session];
        let school = School { lessons: &lessons, animals: &sessions, names: &names, parts: &parts };
        let (recogniser, scores) = Recogniser::fit(school, each).ok_or(NotLearned::Stopped)?;
        let scores = scores.into_iter().next().unwrap_or_default();
        let by_session: Vec<(usize, Score)> = sessions.into_iter().zip(scores).collect();
        judge(&by_session, &self.shown, found).map(|judged| recogniser.judged_as(judged))
    }

    /// Sessions with usable minutes.
    fn check(&self) -> Result<usize, NotLearned> {
        if let Some(found_ms) = self.too_wide_ms {
            return Err(NotLearned::Bins { found_ms });
        }
        let mut used: Vec<usize> = self.minutes.iter().map(|m| m.session).collect();
        used.sort_unstable();
        used.dedup();
        if used.len() < SESSIONS_MIN {
            return Err(NotLearned::Sessions { found: used.len() });
        }
        if self.names.len() < 2 {
            return Err(NotLearned::Regimes(self.names.len()));
        }
        for (r, regime) in self.names.iter().enumerate() {
            let shows = |session: &&usize| self.shown[**session].get(r).is_some_and(|n| *n > 0);
            let found = used.iter().filter(shows).count();
            if found < SHOWN_BY_MIN {
                return Err(NotLearned::Shown { regime: regime.clone(), found });
            }
        }
        Ok(used.len())
    }
}

/// A name's place in a list, at its end where it is new.
fn place(names: &mut Vec<String>, name: &String) -> usize {
    names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    })
}

/// Some of the channels, and of the spikes.
fn varied(part: &Part, rng: &mut ChaCha8Rng) -> Array2<f32> {
    let share = rng.random_range(CHANNELS_KEPT);
    let channels: Vec<usize> =
        (0..part.counts.ncols()).filter(|_| rng.random_bool(share)).collect();
    let kept = rng.random_range(SPIKES_KEPT);
    let mut counts = part.counts.select(ndarray::Axis(1), &channels);
    counts.mapv_inplace(|n| (0..n as usize).filter(|_| rng.random_bool(kept)).count() as f32);
    counts
}

/// Whether what was learned from some sessions holds in others.
fn judge(
    scores: &[(usize, Score)],
    shown: &[Vec<usize>],
    sessions: usize,
) -> Result<Judged, NotLearned> {
    let (mut right, mut guessed, mut all, mut counted) = (0.0, 0.0, Vec::new(), 0);
    for (session, shown) in shown.iter().enumerate() {
        let own = scores.iter().filter(|(s, _)| *s == session);
        let bins: Vec<(f32, bool)> = own.flat_map(|(_, s)| s.bins.iter().copied()).collect();
        if bins.is_empty() {
            continue;
        }
        counted += 1;
        right += share_right(&bins);
        let most = shown.iter().copied().max().unwrap_or(0) as f64;
        guessed += most / shown.iter().sum::<usize>().max(1) as f64;
        all.extend(bins);
    }
    let [right, guessed] = [right, guessed].map(|sum| sum / f64::from(counted.max(1)));
    let off = calibration_error(&all);
    let gained = (right - guessed) / (1.0 - guessed).max(1e-6);
    if right < RIGHT_MIN || gained < GAINED_MIN || off > OFF_MAX {
        return Err(NotLearned::Unsure { right, guessed, off });
    }
    Ok(Judged { sessions, right, off })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Trial, in_bins};

    /// Ninety seconds of a session: at rest channels fire at random, in a reach those of one of
    /// two groups in turn, three times a second.
    fn session(number: u64, labelled: bool) -> Recording {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let channels = 20 + number as usize;
        let own: Vec<bool> = (0..channels).map(|_| rng.random_bool(0.5)).collect();
        let (mut counts, mut regime) = (Vec::new(), Vec::new());
        for t in 0..4500 {
            let reach = t / 150 % 2 == 1;
            let up = (f64::from(t) * BIN_S * 3.0).fract() < 0.5;
            for own in &own {
                let p = if !reach {
                    0.25
                } else if *own == up {
                    0.6
                } else {
                    0.05
                };
                counts.push(u16::from(rng.random_bool(p)));
            }
            regime.push(labelled.then_some(usize::from(reach)));
        }
        let mut trial = Trial::unlabelled(&format!("s{number}"), in_bins(counts, channels));
        trial.regime = regime;
        Recording {
            n_channels: channels,
            bin_width_s: BIN_S,
            regime_names: vec!["rest".into(), "reach".into()],
            trials: vec![trial],
            continuous: true,
            ..Recording::default()
        }
    }

    fn learned(sessions: &[Recording]) -> Result<Recogniser, NotLearned> {
        let mut lessons = OwnLessons::default();
        sessions.iter().for_each(|s| lessons.add(s));
        lessons.learn(|_| true)
    }

    #[test]
    fn regimes_of_four_sessions_are_recognised_in_a_fifth() {
        let sessions: Vec<Recording> = (0..4).map(|n| session(n, true)).collect();
        let recogniser = learned(&sessions).expect("learned");
        assert_eq!(recogniser.names(), ["rest", "reach"]);
        let judged = recogniser.judged().expect("judged");
        assert!(judged.sessions == 4 && judged.right > 0.8, "{judged:?}");
        let new = session(9, true);
        let wide = wide(&new, 1);
        let found = recogniser.recognise(&wide.counts, &wide.pieces);
        let right = found.iter().flat_map(|f| f.bins.clone().map(move |bin| (f, bin))).filter(
            |(f, bin)| {
                let reach = f.at(*bin)[1] > 0.5;
                wide.labels[*bin] == Some(usize::from(reach))
            },
        );
        let share = right.count() as f64 / new.n_bins() as f64;
        assert!(share > 0.8, "{share}");
    }

    #[test]
    fn sessions_of_one_recording_are_several_and_short_pieces_show_nothing() {
        let mut all = session(0, true);
        for number in 1..4 {
            let mut other = session(number, true).trials.remove(0);
            other.counts = other.counts.select(ndarray::Axis(1), &(0..20).collect::<Vec<_>>());
            all.trials.push(other);
        }
        let mut lessons = OwnLessons::default();
        lessons.add(&all);
        assert_eq!(lessons.sessions, ["s0", "s1", "s2", "s3"]);
        assert_eq!(lessons.check(), Ok(4));
        // A reach that is a trial of its own, shorter than a window.
        let short = |n: usize| {
            let mut of = session(n as u64, true);
            of.continuous = false;
            let trial = of.trials.remove(0);
            let mut from = 0;
            while from < trial.n_bins() {
                let reach = trial.regime[from] == Some(1);
                let bins = from..from + if reach { 30 } else { 150 };
                let rows: Vec<usize> = bins.clone().collect();
                let mut piece =
                    Trial::unlabelled(&trial.session, trial.counts.select(ndarray::Axis(0), &rows));
                piece.regime = trial.regime[bins].to_vec();
                of.trials.push(piece);
                from += 150;
            }
            of
        };
        let mut lessons = OwnLessons::default();
        (0..4).for_each(|n| lessons.add(&short(n)));
        let nobody = NotLearned::Shown { regime: "reach".into(), found: 0 };
        assert_eq!(lessons.check(), Err(nobody));
    }

    #[test]
    fn what_does_not_suffice_says_what_is_missing() {
        let all: Vec<Recording> = (0..4).map(|n| session(n, true)).collect();
        let why = |sessions: &[Recording]| learned(sessions).expect_err("not learned").to_string();
        assert!(why(&all[..3]).contains("expected 4 sessions or more"), "{}", why(&all[..3]));
        let mut some = all.clone();
        some[3] = session(3, false);
        assert!(why(&some).ends_with("found 3"), "{}", why(&some));
        let mut rare = all.clone();
        for r in &mut rare[1..] {
            r.trials[0].regime.iter_mut().for_each(|r| *r = Some(0));
        }
        assert!(
            why(&rare).contains("sessions or more that show 'reach', found 1"),
            "{}",
            why(&rare)
        );
        let mut wide = all.clone();
        wide.iter_mut().for_each(|r| r.bin_width_s = 0.05);
        assert!(why(&wide).contains("make 20 ms together"), "{}", why(&wide));
        // Labels that have nothing to do with the counts.
        let mut senseless = all;
        for r in &mut senseless {
            r.trials[0].regime.iter_mut().enumerate().for_each(|(t, r)| *r = Some(t / 370 % 2));
        }
        assert!(why(&senseless).contains("on sessions that were left out"), "{}", why(&senseless));
        assert_eq!(
            OwnLessons::default().learn(|_| true).expect_err("none"),
            NotLearned::Sessions { found: 0 }
        );
    }
}
