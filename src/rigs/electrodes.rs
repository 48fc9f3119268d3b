//! Which channel an electrode's (or a sorted unit's) spikes are.

use std::collections::HashMap;
use std::sync::Arc;

use crate::intake::Status;

/// Longer names are of no electrode.
const NAME_BYTES_MAX: usize = 256;

/// Electrodes and sorted ids to channels: by a list, or in order of their first spikes.
pub(crate) struct Electrodes {
    /// By electrode: sorted id (`None`: any) and channel.
    known: HashMap<String, Vec<(Option<i64>, usize)>>,
    learns: bool,
    split_sorted: bool,
    used: usize,
    n_channels: usize,
    /// Is shown what was learned.
    status: Arc<Status>,
}

impl Electrodes {
    /// `list` holds `NAME` or `NAME:SORTED_ID` in the order of channels; where it is empty they are
    /// learned.
    pub(crate) fn new(
        list: &[String],
        split_sorted: bool,
        n_channels: usize,
        status: Arc<Status>,
    ) -> Self {
        let mut known: HashMap<String, Vec<(Option<i64>, usize)>> = HashMap::new();
        for (channel, entry) in list.iter().take(n_channels).enumerate() {
            let (name, id) = match entry.rsplit_once(':').map(|(n, id)| (n, id.parse().ok())) {
                Some((name, Some(id))) => (name, Some(id)),
                _ => (entry.as_str(), None),
            };
            known.entry(name.to_owned()).or_default().push((id, channel));
        }
        Self {
            known,
            learns: list.is_empty(),
            split_sorted,
            used: list.len().min(n_channels),
            n_channels,
            status,
        }
    }

    /// The channel; `None` where there is none for it.
    pub(crate) fn channel(&mut self, electrode: &str, sorted_id: i64) -> Option<usize> {
        if let Some(units) = self.known.get(electrode) {
            let found = units.iter().find(|(id, _)| id.is_none_or(|id| id == sorted_id));
            if let Some((_, channel)) = found {
                return Some(*channel);
            }
        }
        if !self.learns || self.used == self.n_channels || electrode.len() > NAME_BYTES_MAX {
            return None;
        }
        let channel = self.used;
        self.used += 1;
        let id = self.split_sorted.then_some(sorted_id);
        self.known.entry(electrode.to_owned()).or_default().push((id, channel));
        self.status.see(|seen| {
            seen.names.push(id.map_or_else(|| electrode.into(), |id| format!("{electrode}:{id}")));
            seen.channels = seen.names.len();
        });
        // To be copied into the configuration: another day's order may differ.
        tracing::info!(channel, electrode, sorted_id = id, "a channel was learned");
        Some(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::LossAccounting;

    #[test]
    fn listed_and_learned_electrodes_have_their_channels() {
        let list = ["Electrode 2", "Electrode 1:1", "Electrode 1:2", "a:b"].map(String::from);
        let status = || Arc::new(Status::new("rig", "rig", LossAccounting::None));
        let mut listed = Electrodes::new(&list, false, 4, status());
        let at = |e: &mut Electrodes, name: &str, id| e.channel(name, id);
        assert_eq!(at(&mut listed, "Electrode 2", 7), Some(0));
        assert_eq!(at(&mut listed, "Electrode 1", 2), Some(2));
        assert_eq!(at(&mut listed, "Electrode 1", 0), None);
        assert_eq!(at(&mut listed, "a:b", 0), Some(3));
        assert_eq!(at(&mut listed, "Electrode 9", 0), None);
        let shown = status();
        let mut learned = Electrodes::new(&[], true, 3, shown.clone());
        let spikes = [("b", 0), ("a", 0), ("b", 1), ("b", 0), ("c", 0)];
        let channels = spikes.map(|(name, id)| learned.channel(name, id));
        assert_eq!(channels, [Some(0), Some(1), Some(2), Some(0), None]);
        assert_eq!(shown.seen().names, ["b:0", "a:0", "b:1"]);
    }
}
