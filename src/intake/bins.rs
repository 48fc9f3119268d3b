//! What a source offers to a session: consecutive bins, and the shape that they must have.

/// In the ring of counts: a channel that carries no information in this bin.
pub(crate) const MASKED: u16 = u16::MAX;

/// A session's shape and limits.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSettings {
    /// The session's name.
    pub session: String,
    /// Channels per bin.
    pub n_channels: usize,
    /// Bin width, seconds.
    pub bin_width_s: f64,
    /// Bins that wait at most.
    pub queue_bins: usize,
    /// Longest gap predicted through.
    pub gap_bins_max: usize,
}

impl PortSettings {
    /// Width of a bin, ns.
    #[must_use]
    pub(crate) fn width_ns(&self) -> i64 {
        (self.bin_width_s * 1e9).round().max(1.0) as i64
    }
}

/// Consecutive bins that were checked.
#[derive(Debug, Clone, Copy)]
pub struct Bins<'a> {
    /// Number of the first.
    pub sequence: u64,
    /// The rig's clock at the end of the first, ns; 0: unknown.
    pub rig_time_ns: i64,
    pub counts: BinCounts<'a>,
    /// Another recording begins with them, whatever their number.
    pub begins: bool,
}

/// Counts `[n_bins, n_channels]` as their source has them. They are narrowed and masked on their
/// way into the session's ring: a message's counts are copied once, not twice.
#[derive(Debug, Clone, Copy)]
pub enum BinCounts<'a> {
    /// [`MASKED`], or at most [`crate::model::COUNT_MAX`].
    Narrow(&'a [u16]),
    /// A message's whole counts, each at most [`crate::model::COUNT_MAX`].
    Whole {
        /// The counts.
        values: &'a [u32],
        /// Which channels are masked; empty where none is.
        masked: &'a [bool],
    },
    /// A message's smoothed counts, which are rounded.
    Smoothed {
        /// The counts.
        values: &'a [f32],
        /// Which channels are masked; empty where none is.
        masked: &'a [bool],
    },
}

impl BinCounts<'_> {
    /// Number of values.
    #[must_use]
    pub(crate) fn n_values(&self) -> usize {
        match self {
            Self::Narrow(values) => values.len(),
            Self::Whole { values, .. } => values.len(),
            Self::Smoothed { values, .. } => values.len(),
        }
    }

    /// The count of a channel in a bin of `width` channels.
    #[must_use]
    pub fn at(&self, bin: usize, channel: usize, width: usize) -> u16 {
        let i = bin * width + channel;
        let unless = |masked: &[bool], count: u16| {
            if masked.get(channel).copied().unwrap_or(false) { MASKED } else { count }
        };
        match self {
            Self::Narrow(values) => values[i],
            Self::Whole { values, masked } => unless(masked, values[i] as u16),
            Self::Smoothed { values, masked } => unless(masked, values[i].round() as u16),
        }
    }
}
