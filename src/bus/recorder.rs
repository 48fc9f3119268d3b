//! Records decisions in a log next to the journal, for later analysis; `regimed export` converts it
//! to arrays.

use std::sync::Arc;

use super::handle::SessionHandle;
use crate::journal::Journal;
use crate::wire::journal_record::What;

/// Records every `every`-th decision until the session ends. What the log does not take, it counts.
pub(crate) async fn run(session: Arc<SessionHandle>, log: Arc<Journal>, every: u64) {
    let mut subscription = session.subscribe(every);
    let mut names: Vec<String> = Vec::new();
    let mut metrics_of = None;
    while let Some(update) = subscription.next().await {
        let Some(decision) = update.decision() else { continue };
        let mut decision = decision.clone();
        // The names are recorded once, and again when they change.
        if decision.regime_names == names {
            decision.regime_names.clear();
        } else {
            names.clone_from(&decision.regime_names);
        }
        let newest = decision.metrics.as_ref().map(|m| m.bin);
        if newest == metrics_of {
            decision.metrics = None;
        }
        metrics_of = newest;
        let _ = log.add(session.name(), What::Decision(decision));
    }
}
