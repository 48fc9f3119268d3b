//! The only place where tests sleep: between two looks at a condition, or to keep the pace of a rig
//! or an attacker. No test waits for a time to pass in which the daemon should have done something.

use std::time::{Duration, Instant};

use crate::rig::PATIENCE;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Between two looks at a condition, in a loop that fails after its patience.
pub(crate) async fn look_again() {
    tokio::time::sleep(LOOK_EVERY).await;
}

/// The same outside a runtime.
pub(crate) fn look_again_here() {
    std::thread::sleep(LOOK_EVERY);
}

/// The time that a rig, an attacker or a killer lets pass between two things that it does.
pub(crate) async fn pace(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The same outside a runtime.
pub(crate) fn pace_here(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until a condition holds; `seen` is what is shown where it never does.
pub(crate) fn until(mut holds: impl FnMut() -> bool, seen: impl Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{}", seen());
        look_again_here();
    }
}
