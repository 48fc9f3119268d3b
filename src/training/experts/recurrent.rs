//! A small recurrent network from root counts to labels, trained on windows; for how long, the
//! held-out parts of all members decide together.

use std::ops::Range;

use candle_core::{D, Device, Result, Tensor, Var};
use ndarray::{Array1, Array2};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::gated::GatedUnit;
use super::labelled::{Member, Session, root_moments};
use crate::experts::RecurrentFilter;
use crate::model::RecurrentHead;
use crate::training::adam::{self, Parameter};
use crate::training::error::FinishError;
use crate::training::splice::{draw_fade, overlap};
use crate::training::threads::on_each;
use crate::training::windows::drawn_by_share;

/// Hidden units.
const HIDDEN: usize = 32;
/// Windows of a step, and their bins.
const BATCH: usize = 16;
const WINDOW_BINS: usize = 100;
/// Bins of a window that is pieced together, and of a piece at least.
const SPLICED_BINS: usize = 200;
const PIECE_BINS_MIN: usize = 20;
/// First bins of a window that are not scored: the state is not known there.
const UNSCORED_BINS: usize = 10;
const LEARNING_RATE: f64 = 3e-3;
const CLIP_NORM: f64 = 5.0;
/// A channel is left out of a window with this probability.
const DROPPED: f64 = 0.5;
/// Weight of the squared weights.
const DECAY: f64 = 5e-4;
/// Share of a step in the averaged parameters (Polyak & Juditsky 1992): the head that is judged and
/// served.
const AVERAGE: f32 = 0.05;
/// Steps after which the heads are judged.
const JUDGED_AFTER: [usize; 12] = [25, 50, 75, 100, 150, 200, 300, 400, 500, 600, 800, 1000];
/// Training ends when as many judgements in a row were no better.
const PATIENCE: usize = 3;
/// Added to the standard deviation of a channel's root counts.
const SCALE_FLOOR: f32 = 0.1;

/// Heads for every member; `None` where `going` stops the work, which it does with `false`. It is
/// told the share that is done.
pub(super) fn fit(
    session: &Session,
    seed: u64,
    threads: usize,
    mut going: impl FnMut(f64) -> bool,
) -> std::result::Result<Option<Vec<RecurrentHead>>, FinishError> {
    let mut learners = session
        .members
        .iter()
        .map(|m| Learner::new(m, session, seed))
        .collect::<Result<Vec<_>>>()?;
    let mut best: Option<(f64, usize, Vec<RecurrentHead>)> = None;
    let mut done = 0;
    for (i, &until) in JUDGED_AFTER.iter().enumerate() {
        let judged = advance(&mut learners, session, done..until, threads)?;
        done = until;
        let loss: f64 = judged.iter().map(|j| j.1).sum();
        if best.as_ref().is_none_or(|b| loss < b.0) {
            best = Some((loss, i, judged.into_iter().map(|j| j.0).collect()));
        }
        if best.as_ref().is_some_and(|b| i - b.1 >= PATIENCE) {
            break;
        }
        let last = JUDGED_AFTER[JUDGED_AFTER.len() - 1];
        if !going(until as f64 / last as f64) {
            return Ok(None);
        }
    }
    Ok(best.map(|b| b.2))
}

/// Steps of all learners, several threads; returns each one's head and held-out loss.
fn advance(
    learners: &mut [Learner<'_>],
    session: &Session,
    steps: Range<usize>,
    threads: usize,
) -> Result<Vec<(RecurrentHead, f64)>> {
    on_each(learners, threads, |learner| {
        for step in steps.clone() {
            learner.step(step)?;
        }
        let head = learner.head()?;
        let loss = session.log_loss(&mut RecurrentFilter::new(&head), learner.member);
        Ok((head, loss))
    })
}

/// One head in training.
struct Learner<'a> {
    member: &'a Member,
    regimes: usize,
    bin_width_s: f64,
    /// Whether the regime changes within some stream.
    changes: bool,
    /// Mean of each channel's root counts, and one over its scale.
    mean: Vec<f32>,
    inverse_scale: Vec<f32>,
    /// Input, bias, recurrent, output, output bias.
    parameters: Vec<Parameter>,
    averages: Vec<Vec<f32>>,
    seed: u64,
}

/// Bins of a stream, or of several put together.
#[derive(Default)]
struct Window {
    /// `[bins, channels]`.
    counts: Vec<f32>,
    regime: Vec<usize>,
}

/// A batch of windows of one length.
struct Batch {
    bins: usize,
    /// `[BATCH, bins, channels]`, standardised.
    roots: Vec<f32>,
    /// Weight of each bin's label, `[BATCH, bins, regimes]`, summing to 1.
    target: Vec<f32>,
}

impl<'a> Learner<'a> {
    fn new(member: &'a Member, session: &Session, seed: u64) -> Result<Self> {
        let Session { regimes, bin_width_s, .. } = *session;
        let (mean, deviation) = root_moments(&member.train);
        let channels = mean.len();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |rows: usize, columns: usize, scale: f32| -> Vec<f32> {
            let over = scale / (rows as f32).sqrt();
            (0..rows * columns).map(|_| over * rng.sample::<f32, _>(StandardNormal)).collect()
        };
        let start = [
            ("input", draw(channels, 3 * HIDDEN, 1.0), (channels, 3 * HIDDEN)),
            ("bias", vec![0.0; 3 * HIDDEN], (1, 3 * HIDDEN)),
            ("recurrent", draw(HIDDEN, 3 * HIDDEN, 1.0), (HIDDEN, 3 * HIDDEN)),
            ("output", draw(HIDDEN, regimes, 0.1), (HIDDEN, regimes)),
            ("output_bias", vec![0.0; regimes], (1, regimes)),
        ];
        let averages = start.iter().map(|s| s.1.clone()).collect();
        let parameters = start
            .into_iter()
            .map(|(name, values, shape)| {
                Ok(Parameter::new(name, Var::from_vec(values, shape, &Device::Cpu)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let inverse_scale = deviation.iter().map(|d| 1.0 / (d + SCALE_FLOOR)).collect();
        let is_change = |w: &[usize]| w[0] != w[1] && w[0] < regimes && w[1] < regimes;
        let changes = member.train.iter().any(|l| l.regime.windows(2).any(is_change));
        Ok(Self {
            member,
            regimes,
            bin_width_s,
            changes,
            mean,
            inverse_scale,
            parameters,
            averages,
            seed,
        })
    }

    /// Windows of streams drawn in proportion to their bins; those that are shorter than the
    /// longest end in bins that are not scored. Where no stream shows a change, a window is pieced
    /// together of several, or changes would never be learned.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Batch {
        let channels = self.mean.len();
        let lengths: Vec<usize> = self.member.train.iter().map(|l| l.regime.len()).collect();
        let windows: Vec<Window> = (0..BATCH).map(|_| self.draw_window(&lengths, rng)).collect();
        let bins = windows.iter().map(|w| w.regime.len()).max().unwrap_or(1);
        let mut roots = vec![0.0f32; BATCH * bins * channels];
        let mut target = vec![0.0f32; BATCH * bins * self.regimes];
        let mut scored = 0.0f32;
        for (w, window) in windows.iter().enumerate() {
            let unscored = UNSCORED_BINS.min(window.regime.len() / 10);
            let kept = (1.0 - DROPPED) as f32;
            let weight: Vec<f32> = self
                .inverse_scale
                .iter()
                .map(|s| if rng.random_bool(DROPPED) { 0.0 } else { s / kept })
                .collect();
            let all = window.counts.chunks_exact(channels).zip(&window.regime);
            for (at, (counts, &regime)) in all.enumerate() {
                let row = (w * bins + at) * channels;
                for (i, &c) in counts.iter().enumerate() {
                    roots[row + i] = (c.sqrt() - self.mean[i]) * weight[i];
                }
                if at >= unscored && regime < self.regimes {
                    target[(w * bins + at) * self.regimes + regime] = 1.0;
                    scored += 1.0;
                }
            }
        }
        target.iter_mut().for_each(|t| *t /= scored.max(1.0));
        Batch { bins, roots, target }
    }

    fn draw_window(&self, lengths: &[usize], rng: &mut ChaCha8Rng) -> Window {
        let channels = self.mean.len();
        let mut window = Window::default();
        let longest = if self.changes { WINDOW_BINS } else { SPLICED_BINS };
        while window.regime.len() < longest {
            let stream = &self.member.train[drawn_by_share(lengths, rng)];
            let bins = stream.regime.len();
            let (begun, most) = (window.regime.len(), longest.min(bins));
            let len = match self.changes {
                true => most,
                false => rng.random_range(most.min(PIECE_BINS_MIN)..=most),
            };
            let from = rng.random_range(0..=bins - len);
            let fade = match begun {
                0 => 0,
                _ => draw_fade(self.bin_width_s, begun.min(len) / 2, rng),
            };
            let second = window.counts.len();
            for row in stream.counts.rows().into_iter().skip(from).take(len) {
                window.counts.extend(row);
            }
            overlap(&mut window.counts, second, (fade, channels), rng);
            window.regime.truncate(begun - fade);
            window.regime.extend(&stream.regime[from..from + len]);
            if self.changes {
                break;
            }
        }
        window.regime.truncate(longest);
        window.counts.truncate(longest * channels);
        window
    }

    fn step(&mut self, step: usize) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64 + 1);
        let Batch { bins, roots, target } = self.draw(&mut rng);
        let (channels, device) = (self.mean.len(), &Device::Cpu);
        let [input, bias, recurrent, output, output_bias] =
            [0, 1, 2, 3, 4].map(|p| self.parameters[p].var.as_tensor());
        let roots = Tensor::from_vec(roots, (BATCH * bins, channels), device)?;
        let drive = roots.matmul(input)?.broadcast_add(bias)?;
        let unit = GatedUnit { batch: BATCH, bins, hidden: HIDDEN };
        let states = drive.reshape((BATCH, bins, 3 * HIDDEN))?.apply_op2(recurrent, unit)?;
        let states = states.reshape((BATCH * bins, HIDDEN))?;
        let logits = states.matmul(output)?.broadcast_add(output_bias)?;
        let log_total = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let target = Tensor::from_vec(target, (BATCH * bins, self.regimes), device)?;
        let loss = (logits.broadcast_sub(&log_total)? * target)?.sum_all()?.neg()?;
        let squares =
            (input.sqr()?.sum_all()? + recurrent.sqr()?.sum_all()? + output.sqr()?.sum_all()?)?;
        let gradients = (loss + (squares * DECAY)?)?.backward()?;
        adam::update(&mut self.parameters, &gradients, LEARNING_RATE, CLIP_NORM, step)?;
        // The first steps replace the random start.
        let share = AVERAGE.max(1.0 / (step as f32 + 1.0));
        for (average, parameter) in self.averages.iter_mut().zip(&self.parameters) {
            let now = parameter.values()?;
            average.iter_mut().zip(now).for_each(|(a, n)| *a += share * (n - *a));
        }
        Ok(())
    }

    /// The averaged head on root counts as they are.
    fn head(&self) -> Result<RecurrentHead> {
        let channels = self.mean.len();
        let shaped = |p: usize, rows: usize, columns: usize| -> Result<Array2<f32>> {
            let values = self.averages[p].clone();
            Array2::from_shape_vec((rows, columns), values).map_err(candle_core::Error::wrap)
        };
        let mut input = shaped(0, channels, 3 * HIDDEN)?;
        let mut bias = Array1::from(self.averages[1].clone());
        for (i, mut row) in input.rows_mut().into_iter().enumerate() {
            row.mapv_inplace(|w| w * self.inverse_scale[i]);
            bias.scaled_add(-self.mean[i], &row);
        }
        Ok(RecurrentHead {
            mean: Array1::from(self.mean.clone()),
            input,
            bias,
            recurrent: shaped(2, HIDDEN, 3 * HIDDEN)?,
            output: shaped(3, HIDDEN, self.regimes)?,
            output_bias: Array1::from(self.averages[4].clone()),
        })
    }
}
