//! A tap on a session's counts: a bounded ring that never makes the session's thread wait.

use ringbuf::HeapRb;
use ringbuf::traits::{Consumer, Observer, Producer, Split};

/// Bins of counts that wait at most, and values of them.
const WAITING_BINS: usize = 512;
const WAITING: usize = 1 << 20;

/// The thread's end of a tap. When the reader is behind, bins are left out, and the next one is
/// marked as following a gap.
pub struct CountsTap {
    sending: <HeapRb<u16> as Split>::Prod,
    gap: bool,
}

/// The reading end of a session's counts.
pub struct CountsReader {
    fetching: <HeapRb<u16> as Split>::Cons,
    bin: Vec<u16>,
    gap: bool,
}

/// Both ends for a session of `channels` channels.
#[must_use]
pub fn tap(channels: usize) -> (CountsTap, CountsReader) {
    let bins = (WAITING / (channels + 1)).clamp(16, WAITING_BINS);
    let (sending, fetching) = HeapRb::new(bins * (channels + 1)).split();
    (
        CountsTap { sending, gap: false },
        CountsReader { fetching, bin: vec![0; channels + 1], gap: false },
    )
}

impl CountsTap {
    /// A bin's counts, as they came.
    pub fn push(&mut self, counts: &[u16]) {
        if self.sending.vacant_len() <= counts.len() {
            self.gap = true;
            return;
        }
        let flag = u16::from(std::mem::take(&mut self.gap));
        let _ = self.sending.try_push(flag);
        self.sending.push_slice(counts);
    }

    /// A bin that is missing.
    pub fn skip(&mut self) {
        self.gap = true;
    }
}

impl CountsReader {
    /// Takes what has come since the last call: whether there is a gap before a bin, and its
    /// counts.
    pub fn each(&mut self, mut take: impl FnMut(bool, &[u16])) {
        while self.fetching.occupied_len() >= self.bin.len() {
            self.fetching.pop_slice(&mut self.bin);
            let gap = std::mem::take(&mut self.gap) || self.bin[0] != 0;
            take(gap, &self.bin[1..]);
        }
    }

    /// Of several who read in turn, the next one has not seen what this one took: its first bin
    /// follows a gap.
    pub fn pass_on(&mut self) {
        self.gap = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_behind_is_told_of_the_gap() {
        let (mut tap, mut reader) = tap(2);
        let mut seen = Vec::new();
        tap.push(&[1, 2]);
        tap.skip();
        tap.push(&[3, 4]);
        reader.each(|gap, counts| seen.push((gap, counts.to_vec())));
        assert_eq!(seen, [(false, vec![1, 2]), (true, vec![3, 4])]);
        // More than the ring holds: the first of them wait, the last one comes behind a gap.
        for i in 0..600 {
            tap.push(&[i, 0]);
        }
        let mut seen = Vec::new();
        reader.each(|gap, counts| seen.push((gap, counts[0])));
        assert_eq!(seen.len(), WAITING_BINS);
        assert!(seen.iter().zip(0..).all(|(s, i)| *s == (false, i)), "{:?}", &seen[..3]);
        tap.push(&[7, 0]);
        seen.clear();
        reader.each(|gap, counts| seen.push((gap, counts[0])));
        assert_eq!(seen, [(true, 7)]);
        // What another one took is missing to the next.
        reader.pass_on();
        (8..10).for_each(|i| tap.push(&[i, 0]));
        seen.clear();
        reader.each(|gap, counts| seen.push((gap, counts[0])));
        assert_eq!(seen, [(true, 8), (false, 9)]);
    }
}
