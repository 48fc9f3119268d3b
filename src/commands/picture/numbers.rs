//! A session's numbers, the same as on the live page and with the same digits, as items that are
//! never cut: a line holds as many as fit whole.

use super::Seen;
use crate::wire::{Decision, Estimate, Session};

/// Between two items of a line.
const GAP: &str = "   ";

fn between(e: Option<Estimate>, unit: &str) -> String {
    e.map_or("-".into(), |e| format!("{:.1} ({:.1} to {:.1}){unit}", e.mean, e.low, e.high))
}

/// Numbers of the newest decision, then what became of the bins.
pub(super) fn items(seen: &Seen, d: &Decision, lost: u64) -> Vec<String> {
    let mut items = vec![format!("bin {}", d.bin), format!("novelty {:.2}", d.novelty)];
    if let Some(m) = &d.metrics {
        let signature = m.signature().as_str_name().trim_start_matches("SIGNATURE_").to_lowercase();
        let edge = m.edge.map_or("from 20 s on".into(), |e| match e.exponent_driven_per_s {
            None => "not resolved".into(),
            exponent => between(exponent, " /s"),
        });
        let chaos = m.edge.filter(|e| e.exponent_driven_per_s.is_some());
        items.extend([
            format!("spectral radius {:.4}", m.spectral_radius),
            format!("spectral abscissa {:.2} /s", m.spectral_abscissa_per_s),
            format!("leading frequency {:.2} Hz", m.leading_frequency_hz),
            format!("exponent of the fit {}", between(m.lyapunov_max_driven_per_s, " /s")),
            format!("exponent by counts {edge}"),
            format!(
                "P(chaos) by counts {}",
                chaos.map_or("-".into(), |e| format!("{:.2}", e.p_chaos))
            ),
            format!("signature {}", signature.replace('_', "-")),
            format!(
                "stable points {}",
                m.fixed_points.map_or("-".into(), |p| p.stable.to_string())
            ),
        ]);
    }
    for expert in &d.experts {
        let best = (0..expert.posterior.len())
            .max_by(|&a, &b| expert.posterior[a].total_cmp(&expert.posterior[b]));
        if let Some(best) = best
            && let Some(name) = d.regime_names.get(best)
        {
            items.push(format!("by {} {name} {:.2}", expert.name, expert.posterior[best]));
        }
    }
    items.push(format!("log-likelihood {:.3} nats", d.log_likelihood));
    if d.silent_channels > 0 {
        items.push(format!("silent channels {}", d.silent_channels));
    }
    let (rate, p50, p99) = seen.pace();
    items.push(format!("{rate:.1} bins a second"));
    items.push(format!("latency p50 {p50} us"));
    items.push(format!("latency p99 {p99} us"));
    if let Some(session) = &seen.described {
        items.extend(accounts(session));
    }
    items.push(format!("lost here {lost}"));
    items
}

fn accounts(session: &Session) -> Vec<String> {
    let mut items = Vec::new();
    if let Some(a) = session.accounts {
        items.extend([
            format!("received {}", a.bins_received),
            format!("processed {}", session.bins.saturating_sub(session.bins_missing)),
            format!("waiting {}", a.bins_waiting),
            format!("missing {}", session.bins_missing),
            format!("late {}", a.bins_late),
            format!("rejected {}", a.bins_rejected),
        ]);
    }
    if let Some(clock) = session.clock {
        items.push(format!("clock offset {:.2} ms", clock.offset_s * 1e3));
    }
    if let Some(source) = &session.source {
        let state = if source.connected { "" } else { " (not connected)" };
        items.push(format!("rig {}{state}", source.description));
    }
    items
}

/// Everything, in lines of at most `width` characters: what is wrong comes last.
pub(super) fn lines(seen: &Seen, d: &Decision, lost: u64, width: usize) -> Vec<String> {
    let mut lines = flowed(&items(seen, d, lost), width);
    lines.extend(wrong(seen).iter().flat_map(|c| flowed(std::slice::from_ref(c), width)));
    lines
}

/// What is wrong with a session, each with its cure.
pub(super) fn wrong(seen: &Seen) -> Vec<String> {
    let conditions = seen.described.iter().flat_map(|s| &s.conditions);
    let said =
        conditions.map(|c| format!("{}: {} -> {}", c.name.replace('_', " "), c.detail, c.cure));
    said.collect()
}

/// Lines of at most `width` characters, with whole items; one that is longer is broken at its
/// spaces.
pub(super) fn flowed(items: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let length = |text: &str| text.chars().count();
    let mut add = |text: &str, gap: &str| match lines.last_mut() {
        Some(line) if length(line) + length(gap) + length(text) <= width => {
            line.push_str(gap);
            line.push_str(text);
        }
        _ => lines.push(text.to_owned()),
    };
    for item in items {
        if length(item) <= width {
            add(item, GAP);
            continue;
        }
        for (i, word) in item.split(' ').enumerate() {
            add(word, if i == 0 { GAP } else { " " });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_never_cut() {
        let items: Vec<String> =
            ["bin 12", "spectral radius 0.9812", "exponent -0.4 (-1.0 to 0.2) /s", "late 0"]
                .map(str::to_owned)
                .to_vec();
        for width in [30, 40, 80, 200] {
            let lines = flowed(&items, width);
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{lines:?}");
            for item in &items {
                assert!(lines.iter().any(|l| l.contains(item.as_str())), "{item}: {lines:?}");
            }
        }
        // Only where there is no room for a whole one is it broken, between words.
        assert_eq!(flowed(&items[1..2], 10), ["spectral", "radius", "0.9812"]);
    }
}
