//! The ring between a session's entrance and its thread.
//!
//! Two rings in step: headers, and the counts of those headers that are bins. Counts are pushed
//! before their header, so that a header that was popped finds them. Neither end waits for the
//! other: a full ring is the port's to refuse, an empty one makes the thread sleep ([`Doorbell`]).

use std::sync::Arc;

use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};

use super::bins::{BinCounts, PortSettings};
use super::doorbell::{Answer, Doorbell};
use crate::clock::Received;

/// What waits for a session thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bin, whose counts are next in the ring of counts.
    Bin,
    /// A number of bins that never came.
    Missing(u32),
    /// The session's first bin is next: the port knows of none before it. A state that was restored
    /// may be of the bins before.
    First,
    /// Another recording begins with the next bin.
    Start,
}

/// A bin's header.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// What it heads.
    pub kind: Kind,
    /// The rig's number of the (first) bin.
    pub sequence: u64,
    /// The rig's clock, ns.
    pub rig_time_ns: i64,
    /// When the message came in.
    pub received: Received,
}

type Producing<T> = <HeapRb<T> as Split>::Prod;
type Consuming<T> = <HeapRb<T> as Split>::Cons;

/// The end of the ring at which bins go in.
pub(super) struct Inlet {
    headers: Producing<Header>,
    counts: Producing<u16>,
    n_channels: usize,
}

/// The end of the ring that a session's thread holds.
pub struct Outlet {
    headers: Consuming<Header>,
    counts: Consuming<u16>,
    n_channels: usize,
    doorbell: Arc<Doorbell>,
}

/// A ring of `settings.queue_bins` bins; `doorbell` wakes the thread at its outlet.
pub(super) fn ring(settings: &PortSettings, doorbell: Arc<Doorbell>) -> (Inlet, Outlet) {
    // Each bin may have a gap or a start before it: the counts alone decide what fits.
    let (headers, headers_out) = HeapRb::new(2 * settings.queue_bins).split();
    let (counts, counts_out) = HeapRb::new(settings.queue_bins * settings.n_channels).split();
    let inlet = Inlet { headers, counts, n_channels: settings.n_channels };
    let n_channels = settings.n_channels;
    (inlet, Outlet { headers: headers_out, counts: counts_out, n_channels, doorbell })
}

impl Inlet {
    /// Whether `bins` bins fit, and one more header where `header_before` is set.
    pub(super) fn has_room(&self, bins: usize, header_before: bool) -> bool {
        self.headers.vacant_len() >= bins + usize::from(header_before)
            && self.counts.vacant_len() >= bins * self.n_channels
    }

    /// Bins that fit whatever comes before them.
    pub(super) fn room(&self) -> usize {
        self.counts.vacant_len() / self.n_channels
    }

    /// Bins that wait.
    pub(super) fn waiting(&self) -> usize {
        self.counts.occupied_len() / self.n_channels
    }

    /// A header without counts, for which there is room.
    pub(super) fn push(&mut self, header: Header) {
        let _ = self.headers.try_push(header);
    }

    /// Bin `i` of `counts`, for which there is room.
    pub(super) fn push_bin(&mut self, header: Header, counts: &BinCounts<'_>, i: usize) {
        let width = self.n_channels;
        if let BinCounts::Narrow(values) = counts {
            self.counts.push_slice(&values[i * width..(i + 1) * width]);
        } else {
            self.counts.push_iter((0..width).map(|channel| counts.at(i, channel, width)));
        }
        let _ = self.headers.try_push(header);
    }
}

impl Outlet {
    /// The next header; for `Kind::Bin` fills `counts [n_channels]`. Never blocks or allocates.
    pub fn pop(&mut self, counts: &mut [u16]) -> Option<Header> {
        let header = self.headers.try_pop()?;
        if header.kind == Kind::Bin {
            let n = self.counts.pop_slice(counts);
            debug_assert_eq!(n, counts.len(), "counts are pushed before their header");
        }
        Some(header)
    }

    /// The next header, or that none waits, or none will come any more.
    pub fn next(&mut self, counts: &mut [u16]) -> Answer<Header> {
        let doorbell = self.doorbell.clone();
        doorbell.answer(|| self.pop(counts))
    }

    /// Whether a header waits.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Sleeps until something waits.
    pub fn sleep(&self) {
        self.doorbell.sleep();
    }

    /// Bins that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.counts.occupied_len() / self.n_channels
    }
}
