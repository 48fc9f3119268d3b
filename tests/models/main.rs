//! Every order of events (or those with few preemptions, where there are too many) of what threads
//! hand to each other without waiting, found by loom. The very files of the program are compiled
//! here, with loom's primitives in place of the system's, and small stand-ins for the numbers that
//! are handed over.

#![allow(dead_code, missing_docs, unreachable_pub)]

mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use loom::thread::{Thread, park};
}

mod inference {
    /// Words, as the program's tape has them.
    #[derive(Default)]
    pub(crate) struct Tape(pub(crate) Vec<u32>);

    impl Tape {
        pub(crate) fn begin(&mut self) {
            self.0.clear();
        }

        pub(crate) fn words(&self) -> &[u32] {
            &self.0
        }
    }
}

mod regime {
    use crate::inference::Tape;

    /// Which engine it is, the label in force, and how many bins were seen.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Engine {
        pub(crate) number: u32,
        pub(crate) label: u32,
        pub(crate) bins: u32,
    }

    impl Engine {
        pub(crate) fn succeed(&mut self, before: &Self, _regimes: Option<&[Option<usize>]>) {
            self.label = before.label;
        }

        /// Two words that belong together.
        pub(crate) fn state(&mut self, tape: &mut Tape) {
            tape.0.push(self.bins);
            tape.0.push(self.bins + 100);
        }
    }
}

#[path = "../../src/intake/doorbell.rs"]
mod doorbell;
#[path = "../../src/bus/handoff.rs"]
mod handoff;
#[path = "../../src/daemon/snapshot_slot.rs"]
mod snapshot_slot;

use std::collections::VecDeque;
use std::sync::Arc;

use doorbell::{Answer, Doorbell};
use handoff::{Handoff, Successor};
use regime::Engine;
use snapshot_slot::SnapshotSlot;

fn engine(number: u32) -> Engine {
    Engine { number, label: number, bins: 0 }
}

#[test]
fn an_engine_is_handed_over_once_and_between_two_bins() {
    loom::model(|| {
        let handoff = Arc::new(Handoff::default());
        let offering = handoff.clone();
        let offered = loom::thread::spawn(move || {
            for number in [2, 3] {
                let fingerprint = number.to_string();
                let swap = Some((number, Vec::new()));
                offering.offer(Successor { engine: engine(number), fingerprint, swap });
            }
        });
        let (mut current, mut swaps, mut fingerprint) = (engine(1), 1, "1".to_owned());
        let mut taken = Vec::new();
        for _ in 0..3 {
            if handoff.take(&mut current, &mut swaps, &mut fingerprint) {
                taken.push(current.number);
            }
            // What belongs together has come together, and the label stays in force.
            assert_eq!((current.number, current.label), (swaps, 1));
            assert_eq!(fingerprint, current.number.to_string());
        }
        offered.join().expect("no panic");
        // Nothing offered is lost for good.
        if handoff.is_waiting() {
            assert!(handoff.take(&mut current, &mut swaps, &mut fingerprint));
            taken.push(current.number);
        }
        assert!(!handoff.is_waiting());
        assert_eq!(current.number, 3, "the newest is in place");
        assert!(matches!(taken[..], [3] | [2, 3]), "each once and in order: {taken:?}");
        assert!(!handoff.take(&mut current, &mut swaps, &mut fingerprint), "none twice");
    });
}

#[test]
fn a_thread_finds_all_that_was_put_before_closing_and_then_ends() {
    loom::model(|| {
        let bell = Arc::new(Doorbell::default());
        let queue = Arc::new(loom::sync::Mutex::new(VecDeque::new()));
        let (answering, looked) = (bell.clone(), queue.clone());
        let thread = loom::thread::spawn(move || {
            let mut found = Vec::new();
            loop {
                match answering.answer(|| looked.lock().expect("no panic").pop_front()) {
                    Answer::Found(item) => found.push(item),
                    Answer::Ended => return found,
                    Answer::Nothing => answering.sleep(),
                }
            }
        });
        bell.set_thread(thread.thread().clone());
        for item in 1..=2 {
            queue.lock().expect("no panic").push_back(item);
            bell.ring();
        }
        bell.close();
        assert_eq!(thread.join().expect("no panic"), [1, 2]);
    });
}

#[test]
fn a_state_is_whole_and_the_last_one_left_is_found() {
    loom::model(|| {
        let mut running = engine(1);
        let place = Arc::new(SnapshotSlot::new(&mut running, 1));
        let leaving = place.clone();
        let thread = loom::thread::spawn(move || {
            let mut since = 0;
            for bin in 1..=2u64 {
                running.bins = bin as u32;
                leaving.store(&mut running, bin, &mut since, true, "f");
            }
            // Where the place was being read, the next bin does it.
            since
        });
        let mut found = Vec::new();
        found.extend(place.take());
        let since = thread.join().expect("no panic");
        found.extend(place.take());
        for state in &found {
            let bins = state.sequence as u32;
            assert_eq!(state.words, [bins, bins + 100], "a state is of one bin");
        }
        assert!(found.windows(2).all(|w| w[0].sequence <= w[1].sequence), "{found:?}");
        let last = found.last().unwrap_or_else(|| panic!("none was left, {since}")).sequence;
        assert!(last == 2 || since > 0, "the last is found, or still to be left: {found:?}");
    });
}
