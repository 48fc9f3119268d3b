//! Steps that lead astray are undone.
//!
//! A step that raises the loss by orders leaves parameters behind from which gradients point
//! nowhere: a training that goes on from there learns no more, in silence. Such a step is taken
//! back, to the newest parameters that were sound, and the learning rate is halved.

use candle_core::Result;

use super::adam::Parameter;

/// Share of a step's loss in the usual one.
const SMOOTHING: f64 = 0.05;
/// Steps before which no loss is usual.
const STEPS_MIN: u32 = 5;
/// Losses beyond the least usual one by this, nats per bin and channel, and by so many of their own
/// standard deviations are astray: batches of unlike sessions differ for their own reasons.
const ASTRAY: f64 = 1.0;
const ASTRAY_DEVIATIONS: f64 = 10.0;
/// Parameters whose loss is within this share of the way there are sound.
const SOUND_WITHIN: f64 = 0.25;
/// Sound parameters are kept every so many steps.
const KEPT_EVERY: u32 = 10;
/// So many steps undone are too many: the training is given up.
const UNDONE_MAX: u32 = 12;

/// Values and moments of parameters, by name.
pub(super) type Kept = Vec<(&'static str, [Vec<f32>; 3])>;

/// Parameters as they are.
fn keep(parameters: &[Parameter]) -> Result<Kept> {
    let state = |p: &Parameter| Ok((p.name, [p.values()?, p.first.clone(), p.second.clone()]));
    parameters.iter().map(state).collect()
}

/// Parameters as they were.
fn put_back(parameters: &mut [Parameter], kept: &Kept) -> Result<()> {
    for p in parameters {
        let Some((_, [values, first, second])) = kept.iter().find(|k| k.0 == p.name) else {
            continue;
        };
        p.set(values.clone())?;
        p.first.clone_from(first);
        p.second.clone_from(second);
    }
    Ok(())
}

/// Watches a training's losses.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    usual: f64,
    /// Least of the usual losses so far: one that creeps up by small steps is astray as well.
    least: f64,
    /// Variance of the losses about the usual one.
    variance: f64,
    seen: u32,
    undone: u32,
    /// Factor of the learning rate.
    rate: f64,
    sound: Option<Kept>,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            usual: 0.0,
            least: f64::INFINITY,
            variance: 0.0,
            seen: 0,
            undone: 0,
            rate: 1.0,
            sound: None,
        }
    }

    /// Factor of the learning rate.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Steps undone so far.
    pub(super) fn undone(&self) -> u32 {
        self.undone
    }

    /// Whether so many steps were undone that there is no hope.
    pub(super) fn gives_up(&self) -> bool {
        self.undone >= UNDONE_MAX
    }

    /// Takes the loss at the current parameters; where it is astray, they go back to what was
    /// sound, and `true` is returned.
    ///
    /// # Errors
    /// Errors of candle.
    pub(super) fn takes_back(&mut self, loss: f64, parameters: &mut [Parameter]) -> Result<bool> {
        let span = ASTRAY + ASTRAY_DEVIATIONS * self.variance.sqrt();
        let limit = self.least + span;
        if !loss.is_finite() || loss > limit {
            self.undone += 1;
            self.rate *= 0.5;
            self.sound.as_ref().map_or(Ok(()), |kept| put_back(parameters, kept))?;
            return Ok(true);
        }
        let share = SMOOTHING.max(1.0 / f64::from(self.seen + 1));
        let off = loss - self.usual;
        self.usual += share * off;
        self.variance += share * ((1.0 - share) * off * off - self.variance);
        if self.seen >= STEPS_MIN {
            self.least = self.least.min(self.usual);
        }
        let is_sound = !limit.is_finite() || loss <= self.least + SOUND_WITHIN * span;
        if is_sound && (self.sound.is_none() || self.seen.is_multiple_of(KEPT_EVERY)) {
            self.sound = Some(keep(parameters)?);
        }
        self.seen += 1;
        Ok(false)
    }

    /// As a saved state's array.
    pub(super) fn state(&self) -> Vec<f32> {
        let least = self.least as f32;
        let counts = [self.seen as f32, self.undone as f32];
        [self.usual as f32, least, self.variance as f32]
            .into_iter()
            .chain(counts)
            .chain([self.rate as f32])
            .collect()
    }

    /// From such an array; sound parameters are kept anew.
    pub(super) fn restored(state: &[f32]) -> Self {
        let at = |i: usize| state.get(i).copied().unwrap_or(0.0);
        Self {
            usual: f64::from(at(0)),
            least: f64::from(at(1)),
            variance: f64::from(at(2)),
            seen: at(3) as u32,
            undone: at(4) as u32,
            rate: f64::from(at(5)),
            sound: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(value: f32) -> Parameter {
        let values = candle_core::Var::from_vec(vec![value], (1, 1), &candle_core::Device::Cpu);
        Parameter::new("x", values.expect("a variable"))
    }

    #[test]
    fn batches_of_unlike_sessions_are_not_astray_whatever_the_sign_of_their_loss() {
        let mut guard = Guard::new();
        let mut parameters = vec![parameter(0.0)];
        for step in 0..400u32 {
            let loss = if step % 7 < 2 { 2.0 } else { -80.0 };
            let back = guard.takes_back(loss, &mut parameters).expect("no error");
            assert!(!back, "step {step}");
        }
        let mut alike = Guard::new();
        for _ in 0..50 {
            assert!(!alike.takes_back(-80.0, &mut parameters).expect("no error"));
        }
        assert!(alike.takes_back(-70.0, &mut parameters).expect("no error"));
    }

    #[test]
    fn a_loss_beyond_the_usual_goes_back_to_what_was_sound_at_half_the_rate() {
        let mut guard = Guard::new();
        let mut parameters = vec![parameter(0.0)];
        let value = |p: &[Parameter]| p[0].values().expect("values")[0];
        for step in 0..30u8 {
            parameters[0].set(vec![f32::from(step)]).expect("a value");
            assert!(!guard.takes_back(0.4, &mut parameters).expect("no error"));
        }
        assert!(!guard.takes_back(1.3, &mut parameters).expect("no error"), "a bad batch");
        for (undone, loss) in [(1, 9.0), (2, f64::NAN)] {
            parameters[0].set(vec![99.0]).expect("a value");
            assert!(guard.takes_back(loss, &mut parameters).expect("no error"));
            assert_eq!((value(&parameters), guard.undone()), (20.0, undone));
        }
        assert!((guard.rate() - 0.25).abs() < 1e-9);
        // What creeps up is found as well.
        let crept = (0..400).map(|i| 0.4 + 0.01 * f64::from(i));
        let found = crept
            .into_iter()
            .position(|loss| guard.takes_back(loss, &mut parameters).expect("no error"));
        assert!(found.is_some_and(|i| (100..350).contains(&i)), "{found:?}");
        let again = Guard::restored(&guard.state());
        assert!(again.undone() == 3 && (again.rate() - 0.125).abs() < 1e-9);
        assert!(!guard.gives_up());
        for _ in 0..UNDONE_MAX {
            guard.takes_back(f64::INFINITY, &mut parameters).expect("no error");
        }
        assert!(guard.gives_up());
    }
}
