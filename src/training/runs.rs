//! Labels of a stream as runs of the same.

/// Index of each bin's label, as runs of the same: a bin costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<(usize, usize)>);

impl Runs {
    /// The runs of equal labels among labels in order.
    pub(crate) fn of(labels: impl Iterator<Item = usize>) -> Self {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (bin, label) in labels.enumerate() {
            match runs.last_mut() {
                Some(run) if run.1 == label => run.0 = bin + 1,
                _ => runs.push((bin + 1, label)),
            }
        }
        Self(runs)
    }

    /// The runs in order: first bin, the bin after the last, and what they are of.
    pub(crate) fn each(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let mut from = 0;
        self.0.iter().map(move |&(end, of)| (std::mem::replace(&mut from, end), end, of))
    }

    /// Number of bins.
    pub(crate) fn len(&self) -> usize {
        self.0.last().map_or(0, |run| run.0)
    }

    /// The label of all bins, where they have one in common.
    pub(crate) fn only(&self) -> Option<usize> {
        if let [(_, label)] = self.0[..] { Some(label) } else { None }
    }

    /// The first bin's label.
    pub(crate) fn first(&self) -> Option<usize> {
        self.0.first().map(|run| run.1)
    }

    /// Labels of `bins` bins from bin `from` on.
    pub(crate) fn read(&self, from: usize, bins: usize) -> Vec<usize> {
        let mut labels = Vec::with_capacity(bins);
        let at = self.0.partition_point(|run| run.0 <= from);
        for &(end, label) in &self.0[at..] {
            let to = end.min(from + bins);
            labels.resize(to - from, label);
            if to == from + bins {
                break;
            }
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_give_back_every_stretch_of_the_labels() {
        let labels: Vec<usize> =
            [(3, 4), (0, 1), (3, 7), (5, 2)].iter().flat_map(|&(l, n)| vec![l; n]).collect();
        let runs = Runs::of(labels.iter().copied());
        assert_eq!((runs.len(), runs.first(), runs.only()), (14, Some(3), None));
        for from in 0..labels.len() {
            for to in from..=labels.len() {
                assert_eq!(runs.read(from, to - from), labels[from..to], "{from} to {to}");
            }
        }
        let each: Vec<(usize, usize, usize)> = runs.each().collect();
        assert_eq!(each, [(0, 4, 3), (4, 5, 0), (5, 12, 3), (12, 14, 5)]);
        assert_eq!(Runs::of([4, 4, 4].into_iter()).only(), Some(4));
    }
}
