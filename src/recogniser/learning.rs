//! Learning from animals whose regimes are known.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use ndarray::Array2;

use super::course::Pace;
use super::features::FEATURES;
use super::lesson::{Lesson, middles};
use super::recognition::{Recogniser, STAGES, Said, inputs};
use super::scale::Chances;
use super::score::{SETTLED, Score, share_right};
use super::trust::{Asked, Shown, Trust, asked};
use crate::learner::{Link, Network, Plan, Scaling};

/// Networks of each stage, and in those that judge others.
const NETWORKS: u64 = 2;
const NETWORKS_OF_JUDGES: u64 = 1;
/// Times that each window is seen.
const EPOCHS: f64 = 6.0;
/// What is tried for the pace, and animals that it is tried on.
const EVIDENCE: [f32; 8] = [0.1, 0.15, 0.2, 0.28, 0.36, 0.45, 0.6, 0.8];
const STAY: [f32; 6] = [0.88, 0.92, 0.95, 0.97, 0.985, 0.993];
const PACED: usize = 600;

/// Rows of windows, what is in each, and the lesson that each is of.
#[derive(Default)]
struct Table {
    rows: Array2<f32>,
    targets: Array2<f32>,
    lessons: Vec<usize>,
}

impl Table {
    /// For a stage, given what the one before said.
    fn of(
        lessons: &[&Lesson],
        regimes: usize,
        scaling: &Scaling,
        (stage, said): (usize, &[Said]),
    ) -> Self {
        let (mut rows, mut targets, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (i, lesson) in lessons.iter().enumerate() {
            let (windows, neighbours) =
                lesson.looked.rows(scaling, regimes, lesson.stride(), said.get(i));
            let (in_windows, in_neighbours) = lesson.shares(regimes);
            let windows = windows.into_iter().flatten().zip(in_windows);
            for (row, shares) in windows.chain(neighbours.into_iter().zip(in_neighbours)) {
                if let Some(shares) = shares {
                    rows.extend(row);
                    targets.extend(shares);
                    of.push(i);
                }
            }
        }
        let table = |values: Vec<f32>, columns| {
            Array2::from_shape_vec((of.len(), columns), values).unwrap_or_default()
        };
        Self {
            rows: table(rows, inputs(stage, regimes)),
            targets: table(targets, regimes),
            lessons: of,
        }
    }

    /// Networks that learn from some of the lessons.
    fn taught(&self, n: u64, is: impl Fn(usize) -> bool) -> Vec<Network> {
        let chosen: Vec<usize> = (0..self.lessons.len()).filter(|&r| is(self.lessons[r])).collect();
        let plan = |seed| Plan { link: Link::OneOf, epochs: EPOCHS, seed };
        let fit = |seed| Network::fit_some(&self.rows, &self.targets, &chosen, plan(seed));
        (0..n).map(fit).collect()
    }
}

/// Learns all stages: each from what the one before says of animals that it did not learn from.
fn learned(lessons: &[(usize, &Lesson)], names: &[String], n: u64) -> Recogniser {
    // Lessons of one group are all in one half.
    let mut groups: Vec<usize> = lessons.iter().map(|(group, _)| *group).collect();
    groups.dedup();
    groups.sort_unstable();
    groups.dedup();
    let half = |(group, _): &(usize, &Lesson)| groups.binary_search(group).unwrap_or(0) % 2;
    let halves: Vec<usize> = lessons.iter().map(half).collect();
    let lessons: Vec<&Lesson> = lessons.iter().map(|(_, lesson)| *lesson).collect();
    let regimes = names.len();
    let raw: Vec<&[f32]> = lessons
        .iter()
        .flat_map(|l| &l.looked.neighbours)
        .map(|seen| seen.features.as_slice())
        .collect();
    let scaling = Scaling::of(&raw, FEATURES);
    let mut stages = Vec::new();
    let mut said: Vec<Said> = Vec::new();
    for stage in 0..STAGES {
        let table = Table::of(&lessons, regimes, &scaling, (stage, &said));
        stages.push(table.taught(n, |_| true));
        if stage + 1 < STAGES {
            let others =
                [0, 1].map(|which| table.taught(NETWORKS_OF_JUDGES, |i| halves[i] != which));
            let of = |(i, lesson): (usize, &&Lesson)| {
                let networks = &others[halves[i]];
                let stride = lesson.stride();
                lesson.looked.said(&scaling, regimes, networks, stride, said.get(i))
            };
            said = lessons.iter().enumerate().map(of).collect();
        }
    }
    let pace = Pace { evidence: 0.3, stay: 0.92 };
    let trust = Trust::of(std::iter::empty());
    Recogniser { names: names.to_vec(), judged: None, scaling, stages, pace, trust }
}

/// Windows' chances of an animal by what others taught.
struct Answer {
    lesson: usize,
    shown: Shown,
    windows: Vec<Vec<Chances>>,
}

impl Answer {
    fn of(recogniser: &Recogniser, lessons: &[Lesson], lesson: usize) -> Self {
        let (shown, windows) = recogniser.windows(&lessons[lesson].looked);
        Self { lesson, shown, windows }
    }
}

fn loss(answers: &[Answer], lessons: &[Lesson], regimes: usize, pace: Pace) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for answer in answers.iter().take(PACED) {
        let lesson = &lessons[answer.lesson];
        let course = lesson.looked.course(&answer.windows, regimes, pace);
        each_bin(&course, lesson, |chances, bin| {
            if let Some(p) = chances.get(usize::from(lesson.labels[bin])) {
                sum -= f64::from(p.max(1e-6)).ln();
                n += 1.0;
            }
        });
    }
    sum / f64::max(n, 1.0)
}

/// The middle bin of each step, with what is said of it.
fn each_bin(course: &[Vec<Chances>], lesson: &Lesson, mut give: impl FnMut(&Chances, usize)) {
    for (piece, steps) in lesson.looked.pieces.iter().zip(course) {
        middles(piece).zip(steps).for_each(|(bin, chances)| give(chances, bin));
    }
}

/// What is learned from.
#[derive(Clone, Copy)]
pub(crate) struct School<'a> {
    pub(crate) lessons: &'a [Lesson],
    /// Number of each lesson's animal: what one says is never learned from another of the same.
    pub(crate) animals: &'a [usize],
    /// Names of the regimes.
    pub(crate) names: &'a [String],
    /// Ways to part the lessons: of each way, each one's part.
    pub(crate) parts: &'a [Vec<usize>],
}

/// A way and a part of it that is left out; none where all is learned from.
type Task = Option<(usize, usize)>;

impl School<'_> {
    fn tasks(&self) -> Vec<Task> {
        let of = |(way, parts): (usize, &Vec<usize>)| {
            (0..parts.iter().max().map_or(0, |m| m + 1)).map(move |part| Some((way, part)))
        };
        std::iter::once(None).chain(self.parts.iter().enumerate().flat_map(of)).collect()
    }

    /// What all teach, and of each way what is said of each part by those that the others taught.
    fn answers(&self, mut each: impl FnMut(f64) -> bool) -> Option<(Recogniser, Vec<Vec<Answer>>)> {
        let tasks = self.tasks();
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (tell, told) = mpsc::channel();
        let mut whole = None;
        let mut answers: Vec<Vec<Answer>> = self.parts.iter().map(|_| Vec::new()).collect();
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                let tell = tell.clone();
                let (tasks, next, stopped) = (&tasks, &next, &stopped);
                scope.spawn(move || {
                    while let Some(&task) = tasks.get(next.fetch_add(1, Ordering::Relaxed))
                        && !stopped.load(Ordering::Relaxed)
                    {
                        // Nobody hears it any more where it was stopped.
                        let _ = tell.send((task, self.ask(task)));
                    }
                });
            }
            drop(tell);
            for (done, (task, (recogniser, of))) in told.into_iter().enumerate() {
                match task {
                    None => whole = Some(recogniser),
                    Some((way, _)) => answers[way].extend(of),
                }
                if !each((done + 1) as f64 / tasks.len() as f64) {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        });
        // The same whatever ended first; where nothing asked about has a label, nothing is known.
        for of in &mut answers {
            of.retain(|answer| self.lessons[answer.lesson].is_labelled());
            of.sort_by_key(|answer| answer.lesson);
        }
        let whole = whole.filter(|_| !stopped.load(Ordering::Relaxed))?;
        Some((whole, answers))
    }

    fn ask(&self, task: Task) -> (Recogniser, Vec<Answer>) {
        let left_out = |i: &usize| task.is_some_and(|(way, part)| self.parts[way][*i] == part);
        let (own, others): (Vec<usize>, Vec<usize>) = (0..self.lessons.len()).partition(left_out);
        let others: Vec<(usize, &Lesson)> =
            others.into_iter().map(|i| (self.animals[i], &self.lessons[i])).collect();
        let networks = if task.is_some() { NETWORKS_OF_JUDGES } else { NETWORKS };
        let recogniser = learned(&others, self.names, networks);
        let own = own.into_iter().filter(|i| self.lessons[*i].asked());
        let answers = own.map(|i| Answer::of(&recogniser, self.lessons, i)).collect();
        (recogniser, answers)
    }
}

impl Recogniser {
    /// Learns from animals. Of each way to part them, what the others taught is asked about each
    /// part: the pace is that of the first way's answers, the trust of all. Scores by way and
    /// lesson, empty where it was not asked about; `None` where `each`, told the share that is
    /// done, does not go on.
    pub(crate) fn fit(
        school: School<'_>,
        each: impl FnMut(f64) -> bool,
    ) -> Option<(Self, Vec<Vec<Score>>)> {
        let (mut recogniser, answers) = school.answers(each)?;
        let School { lessons, names, parts, .. } = school;
        let regimes = names.len();
        let paces = EVIDENCE
            .iter()
            .flat_map(|&evidence| STAY.iter().map(move |&stay| Pace { evidence, stay }));
        let asked = answers.first().map_or(&[][..], Vec::as_slice);
        let losses = paces.map(|pace| (loss(asked, lessons, regimes, pace), pace));
        (_, recogniser.pace) = losses.min_by(|a, b| a.0.total_cmp(&b.0))?;
        let judged: Vec<Vec<Asked>> = answers
            .iter()
            .map(|of| of.iter().map(|a| judged(a, lessons, regimes, recogniser.pace)).collect())
            .collect();
        recogniser.trust = Trust::of(judged.iter().flatten());
        let scores = |(way, parts): (usize, &Vec<usize>)| {
            let mut all = vec![Score::default(); lessons.len()];
            let trusts = trusts(&answers, &judged, parts);
            for answer in &answers[way] {
                let by = (recogniser.pace, &trusts[parts[answer.lesson]]);
                all[answer.lesson] = score(answer, lessons, regimes, by);
            }
            all
        };
        let scores = parts.iter().enumerate().map(scores).collect();
        Some((recogniser, scores))
    }

    /// How well the regimes of animals are told.
    pub(crate) fn examine(&self, lessons: &[Lesson]) -> Vec<Score> {
        let by = (self.pace, &self.trust);
        let one = |i| score(&Answer::of(self, lessons, i), lessons, self.names.len(), by);
        (0..lessons.len()).map(one).collect()
    }
}

/// An answer's terms, with the share that is right.
fn judged(answer: &Answer, lessons: &[Lesson], regimes: usize, pace: Pace) -> Asked {
    let course = lessons[answer.lesson].looked.course(&answer.windows, regimes, pace);
    let plain = Trust::of(std::iter::empty());
    let right = share_right(&score(answer, lessons, regimes, (pace, &plain)).bins);
    asked(answer.shown, &answer.windows, &course, right)
}

/// For each part of a way, what all answers but those of its lessons teach of their trust.
fn trusts(answers: &[Vec<Answer>], judged: &[Vec<Asked>], parts: &[usize]) -> Vec<Trust> {
    let of = |part: usize| {
        let all = answers.iter().flatten().zip(judged.iter().flatten());
        Trust::of(all.filter(|(answer, _)| parts[answer.lesson] != part).map(|(_, asked)| asked))
    };
    (0..parts.iter().max().map_or(0, |m| m + 1)).map(of).collect()
}

fn score(
    answer: &Answer,
    lessons: &[Lesson],
    regimes: usize,
    (pace, trust): (Pace, &Trust),
) -> Score {
    let lesson = &lessons[answer.lesson];
    let mut course = lesson.looked.course(&answer.windows, regimes, pace);
    trust.apply(answer.shown, &answer.windows, &mut course);
    let mut score = Score::default();
    each_bin(&course, lesson, |chances, bin| {
        let regime = usize::from(lesson.labels[bin]);
        if regime >= regimes {
            return;
        }
        let best = (0..regimes).max_by(|&a, &b| chances[a].total_cmp(&chances[b]));
        let best = best.unwrap_or(0);
        score.bins.push((chances[best], best == regime));
        let before = &lesson.labels[bin.saturating_sub(SETTLED)..bin];
        if before.iter().all(|r| usize::from(*r) == regime) {
            score.settled.push(best == regime);
        }
    });
    let mut occurred = vec![false; regimes];
    for &label in &lesson.labels {
        if let Some(occurred) = occurred.get_mut(usize::from(label)) {
            *occurred = true;
        }
    }
    score.regimes = occurred.iter().filter(|o| **o).count();
    score
}
