//! Gradient-boosted trees (Friedman 2001) for the log odds of several things at once, small and as
//! flat arrays.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Classes that a feature's values are sorted into while trees grow.
const CLASSES: usize = 64;

/// How trees grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    pub(super) trees: usize,
    pub(super) leaves: usize,
    /// Share of each tree that counts.
    pub(super) rate: f64,
    /// Rows of a leaf, at least.
    pub(super) rows_min: usize,
    /// Added to a leaf's curvature.
    pub(super) ridge: f64,
    /// Shares of rows and features that each tree sees.
    pub(super) rows_share: f64,
    pub(super) features_share: f64,
    pub(super) seed: u64,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            trees: 300,
            leaves: 16,
            rate: 0.06,
            rows_min: 8,
            ridge: 1.0,
            rows_share: 0.7,
            features_share: 0.3,
            seed: 0,
        }
    }
}

/// A sum of trees, `N` values to a leaf.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trees<const N: usize> {
    pub(super) base: [f32; N],
    /// First node of each tree.
    pub(super) roots: Vec<u32>,
    pub(super) nodes: Vec<TreeNode>,
    pub(super) leaves: Vec<[f32; N]>,
}

/// Rows at or below `at` in a feature go to `next`, the others to the node behind it; a node
/// without a feature is the leaf `next`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TreeNode {
    pub(super) feature: Option<u8>,
    pub(super) at: f32,
    pub(super) next: u32,
}

impl<const N: usize> Trees<N> {
    /// The sum over trees for a row of features.
    pub(super) fn predict(&self, row: &[f32]) -> [f32; N] {
        let mut sums = self.base;
        for &root in &self.roots {
            let leaf = self.leaf(root as usize, row);
            sums.iter_mut().zip(leaf).for_each(|(s, v)| *s += v);
        }
        sums
    }

    fn leaf(&self, root: usize, row: &[f32]) -> &[f32; N] {
        let mut at = root;
        loop {
            let TreeNode { feature, at: end, next } = self.nodes[at];
            let Some(feature) = feature else { return &self.leaves[next as usize] };
            at = next as usize + usize::from(row[usize::from(feature)] > end);
        }
    }

    /// Base, first nodes, nodes and leaves, by name.
    pub(super) fn arrays(&self) -> [(&'static str, Vec<f32>); 4] {
        let of = |n: &TreeNode| [n.feature.map_or(-1.0, f32::from), n.at, n.next as f32];
        [
            ("base", self.base.to_vec()),
            ("roots", self.roots.iter().map(|r| *r as f32).collect()),
            ("nodes", self.nodes.iter().flat_map(of).collect()),
            ("leaves", self.leaves.as_flattened().to_vec()),
        ]
    }

    /// From what [`Self::arrays`] gives; `None` where a node compares a feature that there is not,
    /// or leads out of the trees or back.
    pub(super) fn from_arrays(
        [base, roots, nodes, leaves]: [Vec<f32>; 4],
        features: usize,
    ) -> Option<Self> {
        let (leaves, rest) = leaves.as_chunks::<N>();
        let trees = Self {
            base: base.try_into().ok()?,
            roots: roots.iter().map(|r| *r as u32).collect(),
            nodes: nodes
                .as_chunks::<3>()
                .0
                .iter()
                .map(|n| TreeNode {
                    feature: (n[0] >= 0.0).then_some(n[0] as u8),
                    at: n[1],
                    next: n[2] as u32,
                })
                .collect(),
            leaves: leaves.to_vec(),
        };
        let all = trees.nodes.len();
        let sound = |(at, node): (usize, &TreeNode)| {
            let next = node.next as usize;
            match node.feature {
                None => next < leaves.len(),
                Some(feature) => usize::from(feature) < features && next > at && next + 1 < all,
            }
        };
        let rooted = trees.roots.iter().all(|r| (*r as usize) < all);
        (rest.is_empty() && rooted && trees.nodes.iter().enumerate().all(sound)).then_some(trees)
    }

    /// Trees for `rows` of features, and which of `N` things are true of each.
    pub(super) fn fit(rows: &[&[f32]], targets: &[[bool; N]], how: Growth) -> Self {
        let share = |k: usize| {
            let p = targets.iter().filter(|t| t[k]).count() as f64 / targets.len().max(1) as f64;
            let p = p.clamp(0.01, 0.99);
            (p / (1.0 - p)).ln() as f32
        };
        let base = std::array::from_fn(share);
        let mut trees = Self { base, roots: Vec::new(), nodes: Vec::new(), leaves: Vec::new() };
        let Some(first) = rows.first() else { return trees };
        let table = Table::new(rows, first.len());
        let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
        let mut sums = vec![base; rows.len()];
        for _ in 0..how.trees {
            let slopes: Vec<Slopes<N>> =
                sums.iter().zip(targets).map(|(sum, target)| Slopes::of(sum, target)).collect();
            let mut drawn = |n: usize, share: f64| -> Vec<usize> {
                (0..n).filter(|_| rng.random_bool(share)).collect()
            };
            let chosen = drawn(rows.len(), how.rows_share);
            let features = drawn(first.len(), how.features_share);
            let root =
                trees.grow(&Growing { table: &table, slopes: &slopes, how }, chosen, &features);
            for (sum, row) in sums.iter_mut().zip(rows) {
                let leaf = trees.leaf(root, row);
                sum.iter_mut().zip(leaf).for_each(|(s, v)| *s += v);
            }
        }
        trees
    }

    /// One more tree, leaf by leaf, the most gainful first; its first node.
    fn grow(&mut self, of: &Growing<'_, N>, rows: Vec<usize>, features: &[usize]) -> usize {
        let open = |node: usize, rows: Vec<usize>| {
            let split = of.best_split(&rows, features);
            Open { node, rows, split }
        };
        let blank = TreeNode { feature: None, at: 0.0, next: 0 };
        let root = self.nodes.len();
        self.roots.push(root as u32);
        self.nodes.push(blank);
        let mut leaves = vec![open(root, rows)];
        while leaves.len() < of.how.leaves {
            let gain = |l: &Open| l.split.map_or(0.0, |s| s.gain);
            let best =
                (0..leaves.len()).max_by(|&a, &b| gain(&leaves[a]).total_cmp(&gain(&leaves[b])));
            let Some(best) = best else { break };
            let Some(Split { feature, class, .. }) = leaves[best].split else { break };
            let Open { node, rows, .. } = leaves.swap_remove(best);
            let (below, above): (Vec<usize>, Vec<usize>) =
                rows.into_iter().partition(|&r| usize::from(of.table.class[feature][r]) <= class);
            let next = self.nodes.len();
            self.nodes[node] = TreeNode {
                feature: Some(feature as u8),
                at: of.table.ends[feature][class],
                next: next as u32,
            };
            self.nodes.extend([blank; 2]);
            leaves.push(open(next, below));
            leaves.push(open(next + 1, above));
        }
        for leaf in leaves {
            self.nodes[leaf.node].next = self.leaves.len() as u32;
            self.leaves.push(of.total(&leaf.rows).step(of.how));
        }
        root
    }
}

/// Slopes and curvatures of the cross-entropy in the log odds.
#[derive(Debug, Clone, Copy)]
struct Slopes<const N: usize> {
    slope: [f32; N],
    curvature: [f32; N],
}

impl<const N: usize> Slopes<N> {
    const NONE: Self = Self { slope: [0.0; N], curvature: [0.0; N] };

    fn of(log_odds: &[f32; N], target: &[bool; N]) -> Self {
        let p = log_odds.map(|o| 1.0 / (1.0 + (-o).exp()));
        Self {
            slope: std::array::from_fn(|k| f32::from(u8::from(target[k])) - p[k]),
            curvature: p.map(|p| (p * (1.0 - p)).max(1e-6)),
        }
    }

    fn add(&mut self, other: &Self) {
        for k in 0..N {
            self.slope[k] += other.slope[k];
            self.curvature[k] += other.curvature[k];
        }
    }

    fn less(&self, other: &Self) -> Self {
        Self {
            slope: std::array::from_fn(|k| self.slope[k] - other.slope[k]),
            curvature: std::array::from_fn(|k| self.curvature[k] - other.curvature[k]),
        }
    }

    /// What a Newton step gains, twice.
    fn gain(&self, how: Growth) -> f64 {
        let of = self.slope.iter().zip(&self.curvature);
        f64::from(of.map(|(g, h)| g * g / (h + how.ridge as f32)).sum::<f32>())
    }

    fn step(&self, how: Growth) -> [f32; N] {
        let (rate, ridge) = (how.rate as f32, how.ridge as f32);
        std::array::from_fn(|k| rate * self.slope[k] / (self.curvature[k] + ridge))
    }
}

/// Values sorted into classes.
struct Table {
    /// `[features][rows]`.
    class: Vec<Vec<u8>>,
    /// Upper ends of each feature's classes but the last.
    ends: Vec<Vec<f32>>,
}

impl Table {
    fn new(rows: &[&[f32]], features: usize) -> Self {
        let mut ends = Vec::with_capacity(features);
        let mut class = Vec::with_capacity(features);
        for f in 0..features {
            let mut sorted: Vec<f32> = rows.iter().map(|r| r[f]).collect();
            sorted.sort_by(f32::total_cmp);
            let mut own: Vec<f32> = (1..CLASSES)
                .map(|c| {
                    let at = c * sorted.len() / CLASSES;
                    let (a, b) = (sorted[at.saturating_sub(1)], sorted[at]);
                    a + 0.5 * (b - a)
                })
                .collect();
            own.dedup();
            class.push(rows.iter().map(|r| own.partition_point(|end| *end < r[f]) as u8).collect());
            ends.push(own);
        }
        Self { class, ends }
    }
}

/// A leaf that may be split.
struct Open {
    node: usize,
    rows: Vec<usize>,
    split: Option<Split>,
}

#[derive(Clone, Copy)]
struct Split {
    gain: f64,
    feature: usize,
    class: usize,
}

/// What a tree grows from.
struct Growing<'a, const N: usize> {
    table: &'a Table,
    slopes: &'a [Slopes<N>],
    how: Growth,
}

impl<const N: usize> Growing<'_, N> {
    fn total(&self, rows: &[usize]) -> Slopes<N> {
        let mut all = Slopes::NONE;
        rows.iter().for_each(|&r| all.add(&self.slopes[r]));
        all
    }

    fn best_split(&self, rows: &[usize], features: &[usize]) -> Option<Split> {
        let all = self.total(rows);
        let mut best: Option<Split> = None;
        for &feature in features {
            let mut sums = [Slopes::NONE; CLASSES];
            let mut counts = [0usize; CLASSES];
            for &row in rows {
                let class = usize::from(self.table.class[feature][row]);
                sums[class].add(&self.slopes[row]);
                counts[class] += 1;
            }
            let (mut below, mut n) = (Slopes::NONE, 0);
            for class in 0..self.table.ends[feature].len() {
                below.add(&sums[class]);
                n += counts[class];
                if n < self.how.rows_min || rows.len() - n < self.how.rows_min {
                    continue;
                }
                let above = all.less(&below);
                let gain = below.gain(self.how) + above.gain(self.how) - all.gain(self.how);
                if gain > best.map_or(1e-6, |b| b.gain) {
                    best = Some(Split { gain, feature, class });
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
    }

    fn refs(rows: &[Vec<f32>]) -> Vec<&[f32]> {
        rows.iter().map(Vec::as_slice).collect()
    }

    /// A step, a slope and a product, in log odds.
    fn log_odds(row: &[f32]) -> [f32; 2] {
        [3.0 * row[0], row[2] * row[3] * 6.0 + if row[1] > 0.2 { 2.0 } else { -1.0 }]
    }

    #[test]
    fn log_odds_of_several_things_are_learned_at_once() {
        let (train, test) = (rows(6000, 3), rows(2000, 4));
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let p = |r: &[f32]| log_odds(r).map(|o| 1.0 / (1.0 + (-o).exp()));
        let targets: Vec<[bool; 2]> =
            train.iter().map(|r| p(r).map(|p| rng.random_bool(f64::from(p)))).collect();
        let how = Growth { features_share: 0.7, ..Growth::default() };
        let trees = Trees::fit(&refs(&train), &targets, how);
        let flat = trees.base.map(|o| 1.0 / (1.0 + (-o).exp()));
        let (mut errors, mut errors_flat) = ([0.0f32; 2], [0.0f32; 2]);
        for row in &test {
            let found = trees.predict(row).map(|o| 1.0 / (1.0 + (-o).exp()));
            for (k, truth) in p(row).into_iter().enumerate() {
                errors[k] += (found[k] - truth).abs();
                errors_flat[k] += (flat[k] - truth).abs();
            }
        }
        assert!(errors[0] < 0.25 * errors_flat[0], "{errors:?} {errors_flat:?}");
        assert!(errors[1] < 0.5 * errors_flat[1], "{errors:?} {errors_flat:?}");
        assert_eq!(trees, Trees::fit(&refs(&train), &targets, how), "the same each time");
        assert_eq!(Trees::from_arrays(trees.arrays().map(|(_, v)| v), 6), Some(trees.clone()));
        let narrow = Trees::<2>::from_arrays(trees.arrays().map(|(_, v)| v), 3);
        assert_eq!(narrow, None, "a feature that there is not");
    }

    #[test]
    fn features_that_never_differ_split_nothing() {
        let row: &[f32] = &[1.0, 2.0];
        let trees = Trees::fit(&[row; 50], &[[true]; 50], Growth::default());
        assert!(trees.predict(row)[0] > 4.0);
        assert!(Trees::<1>::fit(&[], &[], Growth::default()).roots.is_empty());
    }
}
