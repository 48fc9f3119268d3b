//! Learning from animals whose regimes are known.

use std::ops::Range;

use ndarray::Array2;

use super::course::{Pace, smoothed};
use super::features::{FEATURES, Seen};
use super::recognition::{Looked, Recogniser, SECOND, company, second_row, side_by_side, starts};
use super::scale::{Chances, REGIMES, STEP, WINDOW};
use crate::learner::{Link, Network, Plan, Scaling};

/// Networks of each stage, and in those that judge others.
const NETWORKS: u64 = 2;
const NETWORKS_OF_JUDGES: u64 = 1;
/// Times that each window is seen.
const EPOCHS: f64 = 8.0;
/// Every so many windows are learned from.
const LEARNED_EVERY: usize = 4;
/// Bins after a change until a regime is to be told.
const SETTLED: usize = 75;
/// What is tried for the pace, and animals that it is tried on.
const EVIDENCE: [f32; 8] = [0.1, 0.15, 0.2, 0.28, 0.36, 0.45, 0.6, 0.8];
const STAY: [f32; 4] = [0.88, 0.92, 0.95, 0.97];
const PACED: usize = 600;

/// One animal, as it looks and as it was.
pub(crate) struct Lesson {
    looked: Looked,
    /// Regime of each bin.
    regimes: Vec<u8>,
}

impl Lesson {
    /// Of counts `[bins, channels]` without a gap.
    pub(crate) fn new(counts: &Array2<f32>, regimes: Vec<u8>) -> Option<Self> {
        let all: Range<usize> = 0..counts.nrows();
        Some(Self { looked: Looked::at(counts, &[all])?, regimes })
    }

    /// Shares of the regimes in some bins.
    fn shares(&self, bins: Range<usize>) -> Chances {
        let mut shares = [0.0; REGIMES];
        let share = 1.0 / bins.len().max(1) as f32;
        self.regimes[bins].iter().for_each(|&r| shares[usize::from(r)] += share);
        shares
    }

    /// Windows that are learned from, with what is in them.
    fn windows(&self) -> impl Iterator<Item = (&Seen, Chances)> {
        let all = self.looked.pieces.iter().zip(&self.looked.windows);
        all.flat_map(|(piece, seen)| starts(piece).zip(seen))
            .step_by(LEARNED_EVERY)
            .map(|(from, seen)| (seen, self.shares(from..from + WINDOW)))
    }

    fn neighbours(&self) -> impl Iterator<Item = (&Seen, Chances)> {
        let bins = self.looked.pieces.iter().flat_map(side_by_side);
        self.looked.neighbours.iter().zip(bins).map(|(seen, bins)| (seen, self.shares(bins)))
    }
}

/// How well an animal's regimes were told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Score {
    /// Most probable regime's probability, and whether it was right, bin by bin.
    pub(crate) bins: Vec<(f32, bool)>,
    /// Whether it was right in bins that lie [`SETTLED`] or more after a change.
    pub(crate) settled: Vec<bool>,
    /// Different regimes that occurred.
    pub(crate) regimes: usize,
}

fn table(values: Vec<f32>, columns: usize) -> Array2<f32> {
    Array2::from_shape_vec((values.len() / columns, columns), values).unwrap_or_default()
}

fn networks(rows: Vec<f32>, targets: Vec<f32>, columns: usize, n: u64) -> Vec<Network> {
    let (rows, targets) = (table(rows, columns), table(targets, REGIMES));
    let plan = |seed| Plan { link: Link::OneOf, epochs: EPOCHS, seed };
    (0..n).map(|seed| Network::fit(&rows, &targets, plan(seed))).collect()
}

fn first_stage(scaling: &Scaling, lessons: &[&Lesson], n: u64) -> Vec<Network> {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (seen, shares) in lessons.iter().flat_map(|l| l.windows().chain(l.neighbours())) {
        rows.extend(scaling.apply(&seen.features));
        targets.extend(shares);
    }
    networks(rows, targets, FEATURES, n)
}

/// Learns both stages: the second from what a first stage says of animals that it did not learn
/// from.
fn learned(lessons: &[&Lesson], n: u64) -> Recogniser {
    let raw: Vec<&[f32]> = lessons
        .iter()
        .flat_map(|l| l.neighbours())
        .map(|(seen, _)| seen.features.as_slice())
        .collect();
    let scaling = Scaling::of(&raw, FEATURES);
    let half = |which: usize| -> Vec<&Lesson> {
        lessons.iter().enumerate().filter(|(i, _)| i % 2 == which).map(|(_, l)| *l).collect()
    };
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for which in [0, 1] {
        let first = first_stage(&scaling, &half(1 - which), NETWORKS_OF_JUDGES);
        for lesson in half(which) {
            let company = company(&scaling, &first, &lesson.looked.neighbours);
            for (seen, shares) in lesson.windows() {
                rows.extend(second_row(&scaling, &first, seen, &company));
                targets.extend(shares);
            }
        }
    }
    let second = networks(rows, targets, SECOND, n);
    let first = first_stage(&scaling, lessons, n);
    Recogniser { scaling, first, second, pace: Pace { evidence: 0.3, stay: 0.92 } }
}

/// Windows' chances of an animal by what others taught.
struct Answer {
    lesson: usize,
    windows: Vec<Vec<Chances>>,
}

fn loss(answers: &[Answer], lessons: &[Lesson], pace: Pace) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for answer in answers.iter().take(PACED) {
        let lesson = &lessons[answer.lesson];
        each_bin(answer, lesson, pace, |chances, bin| {
            let regime = usize::from(lesson.regimes[bin]);
            sum -= f64::from(chances[regime].max(1e-6)).ln();
            n += 1.0;
        });
    }
    sum / f64::max(n, 1.0)
}

/// The middle bin of each step, with what is said of it.
fn each_bin(answer: &Answer, lesson: &Lesson, pace: Pace, mut give: impl FnMut(&Chances, usize)) {
    for (piece, windows) in lesson.looked.pieces.iter().zip(&answer.windows) {
        for (s, chances) in smoothed(windows, piece.len(), pace).iter().enumerate() {
            let bin = piece.start + (s * STEP + STEP / 2).min(piece.len() - 1);
            give(chances, bin);
        }
    }
}

impl Recogniser {
    /// Learns from animals. `parts` are ways to part them, the number of each one's part: of each
    /// way, what the others taught is asked about each part. The pace is that of the first way's
    /// answers. Scores by way and animal; `None` where `each`, told the share that is done, does
    /// not go on.
    pub(crate) fn fit(
        lessons: &[Lesson],
        parts: &[Vec<usize>],
        mut each: impl FnMut(f64) -> bool,
    ) -> Option<(Self, Vec<Vec<Score>>)> {
        let tasks: Vec<Option<(usize, usize)>> = std::iter::once(None)
            .chain(parts.iter().enumerate().flat_map(|(way, of)| {
                (0..of.iter().max().map_or(0, |m| m + 1)).map(move |part| Some((way, part)))
            }))
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut whole = None;
        let mut answers: Vec<Vec<Answer>> = parts.iter().map(|_| Vec::new()).collect();
        for (done, several) in tasks.chunks(threads).enumerate() {
            let found: Vec<_> = std::thread::scope(|scope| {
                let ask = |task: &Option<(usize, usize)>| {
                    let task = *task;
                    scope.spawn(move || (task, ask(lessons, parts, task)))
                };
                let workers: Vec<_> = several.iter().map(ask).collect();
                // A panic there has ended the program already.
                workers.into_iter().filter_map(|w| w.join().ok()).collect()
            });
            for (task, (recogniser, of)) in found {
                match task {
                    None => whole = Some(recogniser),
                    Some((way, _)) => answers[way].extend(of),
                }
            }
            if !each(((done + 1) * threads) as f64 / tasks.len().max(1) as f64) {
                return None;
            }
        }
        let mut recogniser = whole?;
        let paces = EVIDENCE
            .iter()
            .flat_map(|&evidence| STAY.iter().map(move |&stay| Pace { evidence, stay }));
        let of = |pace: &Pace| loss(answers.first().map_or(&[], Vec::as_slice), lessons, *pace);
        recogniser.pace = paces.min_by(|a, b| of(a).total_cmp(&of(b)))?;
        let scores = answers.iter().map(|of| scores(of, lessons, recogniser.pace)).collect();
        Some((recogniser, scores))
    }
}

impl Recogniser {
    /// How well the regimes of animals are told.
    pub(crate) fn examine(&self, lessons: &[Lesson]) -> Vec<Score> {
        let answer = |i: usize| Answer { lesson: i, windows: self.windows(&lessons[i].looked) };
        let answers: Vec<Answer> = (0..lessons.len()).map(answer).collect();
        scores(&answers, lessons, self.pace)
    }
}

fn ask(
    lessons: &[Lesson],
    parts: &[Vec<usize>],
    task: Option<(usize, usize)>,
) -> (Recogniser, Vec<Answer>) {
    let Some((way, part)) = task else {
        return (learned(&lessons.iter().collect::<Vec<_>>(), NETWORKS), Vec::new());
    };
    let (own, others): (Vec<usize>, Vec<usize>) =
        (0..lessons.len()).partition(|&i| parts[way][i] == part);
    let others: Vec<&Lesson> = others.into_iter().map(|i| &lessons[i]).collect();
    let recogniser = learned(&others, NETWORKS_OF_JUDGES);
    let answer = |i: usize| Answer { lesson: i, windows: recogniser.windows(&lessons[i].looked) };
    let answers = own.into_iter().map(answer).collect();
    (recogniser, answers)
}

fn scores(answers: &[Answer], lessons: &[Lesson], pace: Pace) -> Vec<Score> {
    let mut scores = vec![Score::default(); lessons.len()];
    for answer in answers {
        let lesson = &lessons[answer.lesson];
        let score = &mut scores[answer.lesson];
        each_bin(answer, lesson, pace, |chances, bin| {
            let regime = usize::from(lesson.regimes[bin]);
            let best = (0..REGIMES).max_by(|&a, &b| chances[a].total_cmp(&chances[b]));
            let best = best.unwrap_or(0);
            score.bins.push((chances[best], best == regime));
            let before = &lesson.regimes[bin.saturating_sub(SETTLED)..bin];
            if before.iter().all(|r| usize::from(*r) == regime) {
                score.settled.push(best == regime);
            }
        });
        let mut occurred = [false; REGIMES];
        lesson.regimes.iter().for_each(|&r| occurred[usize::from(r)] = true);
        score.regimes = occurred.iter().filter(|o| **o).count();
    }
    scores
}
