//! How an offer of bins ends: taken, or refused for a reason.

use crate::wire::RejectReason;

/// A message that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Bins taken.
    pub bins: u64,
    /// Bins found missing before them.
    pub missing: u64,
    /// Sequence number of the last bin taken.
    pub last_sequence: u64,
}

/// A message that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason, as on the wire.
    pub reason: RejectReason,
    /// Expected and found.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its detail.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Name of a reason as metrics carry it.
pub(crate) fn reason_name(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::Unspecified => "unspecified",
        RejectReason::UnknownSession => "unknown_session",
        RejectReason::ChannelCount => "channel_count",
        RejectReason::BinWidth => "bin_width",
        RejectReason::BadCount => "bad_count",
        RejectReason::Malformed => "malformed",
        RejectReason::DuplicateOrLate => "duplicate_or_late",
        RejectReason::Overload => "overload",
        RejectReason::Paused => "paused",
        RejectReason::UnknownChannel => "unknown_channel",
        RejectReason::TooFarAhead => "too_far_ahead",
    }
}
