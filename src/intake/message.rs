//! The checks of a `Counts` message against its session.

use super::bins::{BinCounts, Bins, PortSettings};
use super::port::Port;
use super::refusal::{Accepted, Refusal};
use crate::clock::Received;
use crate::model::{COUNT_MAX, nearly_equal};
use crate::wire::{Counts, RejectReason};

/// Number of bins that a message claims, unchecked: what its refusal counts.
pub(crate) fn claimed(message: &Counts) -> u64 {
    let values = message.counts.len() + message.float_counts.len();
    (values / (message.n_channels as usize).max(1)).max(1) as u64
}

/// A message that fits its session.
pub(super) struct Checked<'a> {
    message: &'a Counts,
    pub(super) n_bins: usize,
    /// Which of its channels are masked; empty where none is.
    masked: Vec<bool>,
}

impl Checked<'_> {
    /// Its counts, `[n_bins, channels of the message]`.
    pub(super) fn counts(&self) -> BinCounts<'_> {
        let masked = self.masked.as_slice();
        if self.message.counts.is_empty() {
            BinCounts::Smoothed { values: &self.message.float_counts, masked }
        } else {
            BinCounts::Whole { values: &self.message.counts, masked }
        }
    }
}

/// Checks a message and puts its bins into the session's ring.
///
/// # Errors
/// The reason, naming both numbers. The session continues either way.
pub(crate) fn offer(
    port: &Port,
    message: &Counts,
    received: Received,
) -> Result<Accepted, Refusal> {
    port.counted(claimed(message), || {
        let checked = check(port.settings(), message)?;
        let (sequence, rig_time_ns) = (message.sequence, message.rig_time_ns);
        let bins = Bins { sequence, rig_time_ns, counts: checked.counts(), begins: false };
        let accepted = port.enqueue(&bins, received)?;
        let last = port.width_ns().saturating_mul(checked.n_bins as i64 - 1);
        let end = if rig_time_ns == 0 { 0 } else { rig_time_ns.saturating_add(last) };
        port.note_contact(end, received);
        Ok(accepted)
    })
}

/// Checks a message against its session.
pub(super) fn check<'a>(s: &PortSettings, message: &'a Counts) -> Result<Checked<'a>, Refusal> {
    let width = check_channels(s, message)?;
    let n_bins = check_shape(s, message, width)?;
    check_counts(message, width)?;
    Ok(Checked { message, n_bins, masked: masked(s, message, width)? })
}

/// Channels of one bin: all of the session's, or those that the message names.
fn check_channels(s: &PortSettings, message: &Counts) -> Result<usize, Refusal> {
    let (width, named) = (message.n_channels as usize, message.channels.len());
    let expected = if named > 0 { named } else { s.n_channels };
    if width != expected {
        return Err(Refusal::new(
            RejectReason::ChannelCount,
            format!("expected {expected} channels, found {width}"),
        ));
    }
    let mut seen = vec![false; if named > 0 { s.n_channels } else { 0 }];
    for &channel in &message.channels {
        match seen.get_mut(channel as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => {
                let expected = s.n_channels;
                return Err(Refusal::new(
                    RejectReason::UnknownChannel,
                    format!("expected channels below {expected}, each once, found {channel}"),
                ));
            }
        }
    }
    Ok(width)
}

/// Number of bins.
fn check_shape(s: &PortSettings, message: &Counts, width: usize) -> Result<usize, Refusal> {
    if !nearly_equal(message.bin_width_s, s.bin_width_s) {
        return Err(Refusal::new(
            RejectReason::BinWidth,
            format!("expected bins of {} s, found {} s", s.bin_width_s, message.bin_width_s),
        ));
    }
    let (whole, float) = (message.counts.len(), message.float_counts.len());
    if (whole == 0) == (float == 0) {
        return Err(Refusal::new(
            RejectReason::Malformed,
            format!("expected either counts or float_counts, found {whole} and {float} values"),
        ));
    }
    let values = whole + float;
    if !values.is_multiple_of(width) {
        return Err(Refusal::new(
            RejectReason::ChannelCount,
            format!("expected a multiple of {width} values, found {values}"),
        ));
    }
    let n = values / width;
    if n > s.queue_bins {
        return Err(Refusal::new(
            RejectReason::Overload,
            format!("expected at most {} bins in a message, found {n}", s.queue_bins),
        ));
    }
    if message.sequence.checked_add(n as u64).is_none() {
        return Err(Refusal::new(
            RejectReason::Malformed,
            format!(
                "expected a sequence number with room for {n} bins, found {}",
                message.sequence
            ),
        ));
    }
    Ok(n)
}

fn check_counts(message: &Counts, width: usize) -> Result<(), Refusal> {
    let bad = |i: usize, found: String| {
        let (bin, channel) = (i / width, i % width);
        Err(Refusal::new(
            RejectReason::BadCount,
            format!(
                "expected counts from 0 to {COUNT_MAX}, found {found} in bin {bin}, channel \
                 {channel}"
            ),
        ))
    };
    if let Some(i) = message.counts.iter().position(|&count| count > u32::from(COUNT_MAX)) {
        return bad(i, message.counts[i].to_string());
    }
    let fits = |count: f32| count >= 0.0 && count <= f32::from(COUNT_MAX);
    if let Some(i) = message.float_counts.iter().position(|&count| !fits(count)) {
        return bad(i, message.float_counts[i].to_string());
    }
    Ok(())
}

/// Which channels of a message are masked. No more may be named than there are channels, so that
/// the work is one pass over the message; one that is named twice is masked.
fn masked(s: &PortSettings, message: &Counts, width: usize) -> Result<Vec<bool>, Refusal> {
    let named = message.masked_channels.len();
    if named == 0 {
        return Ok(Vec::new());
    }
    if named > width {
        return Err(Refusal::new(
            RejectReason::Malformed,
            format!("expected at most {width} masked channels, found {named}"),
        ));
    }
    // Place in the message of each of the session's channels.
    let mut places = vec![None; s.n_channels];
    if message.channels.is_empty() {
        places.iter_mut().enumerate().for_each(|(channel, place)| *place = Some(channel));
    } else {
        for (place, &channel) in message.channels.iter().enumerate() {
            places[channel as usize] = Some(place);
        }
    }
    let mut masked = vec![false; width];
    for &channel in &message.masked_channels {
        let Some(place) = places.get(channel as usize).copied().flatten() else {
            return Err(Refusal::new(
                RejectReason::Malformed,
                format!("expected masked channels of the message, found {channel}"),
            ));
        };
        masked[place] = true;
    }
    Ok(masked)
}

#[cfg(test)]
mod tests {
    use super::super::bins::MASKED;
    use super::*;
    use proptest::prelude::*;

    fn settings() -> PortSettings {
        PortSettings {
            session: "rig".into(),
            n_channels: 6,
            bin_width_s: 0.01,
            queue_bins: 64,
            gap_bins_max: 5,
        }
    }

    #[test]
    fn a_channel_is_masked_as_often_as_it_takes_and_not_more() {
        let message = Counts {
            n_channels: 6,
            bin_width_s: 0.01,
            counts: vec![1; 12],
            masked_channels: vec![3; 7],
            ..Counts::default()
        };
        let refusal = check(&settings(), &message).err().expect("too many");
        assert!(refusal.detail.contains("at most 6 masked channels, found 7"), "{refusal:?}");
    }

    proptest! {
        /// As the plain way has it: every masked channel by itself.
        #[test]
        fn masked_channels_are_those_named(
            channels in proptest::sample::subsequence((0..6u32).collect::<Vec<_>>(), 0..6),
            masked in proptest::collection::vec(0u32..7, 0..6),
            bins in 1usize..4,
        ) {
            let width = if channels.is_empty() { 6 } else { channels.len() };
            let message = Counts {
                n_channels: width as u32,
                bin_width_s: 0.01,
                counts: vec![1; bins * width],
                channels: channels.clone(),
                masked_channels: masked.clone(),
                ..Counts::default()
            };
            let result = check(&settings(), &message);
            let known = |c: &u32| if channels.is_empty() { *c < 6 } else { channels.contains(c) };
            let good = masked.len() <= width && masked.iter().all(known);
            prop_assert_eq!(result.is_ok(), good);
            if let Ok(checked) = result {
                for i in 0..bins * width {
                    let place = i % width;
                    let count = checked.counts().at(i / width, place, width);
                    let channel = channels.get(place).copied().unwrap_or(place as u32);
                    let expected = if masked.contains(&channel) { MASKED } else { 1 };
                    prop_assert_eq!(count, expected);
                }
            }
        }
    }
}
