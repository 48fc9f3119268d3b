//! What a model can and cannot do, in words: at the end of a training, and on its card.

use crate::checkpoint::{Checkpoint, DynamicsScore};
use crate::model::UNKNOWN_RATE;
use crate::regime::DecisionRule;

/// A sentence or two for each of changes, unknown dynamics and the network itself.
pub(super) fn abilities(of: &Checkpoint) -> Vec<String> {
    let mut lines = vec![changes(of), unknown(of)];
    lines.extend(gained(of));
    lines.extend(foretells(of));
    lines
}

fn changes(of: &Checkpoint) -> String {
    let online = &of.model.online;
    let rule = DecisionRule::of(&of.model, None);
    let same = |p: f32| (p - rule.probability_min).abs() < 1e-6;
    let point = online.operating_points.iter().find(|o| same(o.probability_min));
    let mut text = match point.and_then(|p| Some((p, p.median_delay_s?))) {
        Some((point, delay)) => format!(
            "Changes are found after {:.0} ms (median), with {:.1} false ones a minute.",
            1e3 * delay,
            point.false_changes_per_min
        ),
        None => "How soon changes are found is not known: too few were held out.".to_owned(),
    };
    if online.entry_variance > 0.0 {
        text.push_str(
            " No recording shows a change: what follows one was learned, and judged, on trials put \
             together, and live ones may come later.",
        );
    }
    text
}

fn unknown(of: &Checkpoint) -> String {
    match (&of.model.online.known, of.model.online.novelty_limits.innovation_runs < f32::MAX) {
        (Some(_), _) => format!(
            "Dynamics that it does not know are called unknown by their signs, at the price of \
             {:.0} % of the known bins.",
            100.0 * UNKNOWN_RATE
        ),
        (None, true) => {
            "Dynamics that it does not know are called unknown only where they are far from all \
             it knows."
                .to_owned()
        }
        (None, false) => {
            "Dynamics that it does not know are not recognised: too little was held out.".to_owned()
        }
    }
}

/// What the steps gained on held-out data.
fn gained(of: &Checkpoint) -> Option<String> {
    let [start, now] = of.provenance.gained?;
    let pair = |score: fn(&DynamicsScore) -> Option<f64>| Some((score(&start)?, score(&now)?));
    let (from, to) = pair(|s| s.log_likelihood)?;
    let mut text = format!(
        "Training took the dynamics' held-out log-likelihood from {from:.4} to {to:.4} nats per \
         bin and channel"
    );
    if let Some((from, to)) = pair(|s| s.log_loss) {
        text.push_str(&format!(", and their log loss from {from:.3} to {to:.3} nats per bin"));
    }
    text.push('.');
    if to < from {
        text.push_str(" They predict counts no better than where they began.");
    }
    Some(text)
}

fn foretells(of: &Checkpoint) -> Vec<String> {
    let Some(skill) = &of.provenance.skill else { return Vec::new() };
    let mut lines: Vec<String> = skill
        .lines(of.model.bin_width_s)
        .into_iter()
        .map(|line| format!("Forecasts: {line}."))
        .collect();
    lines.push(if skill.foretells() {
        "The network foretells counts better than mean rates and an autoregression do.".to_owned()
    } else {
        "The network foretells nothing that mean rates and an autoregression do not: do not read \
         its spectra and exponents."
            .to_owned()
    });
    lines
}
