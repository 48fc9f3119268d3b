//! Gradient-boosted regression trees (Friedman 2001), small and as flat arrays.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Classes that a feature's values are sorted into while trees grow.
const CLASSES: usize = 64;

/// What is boosted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Squared error: trees add up to the target.
    Squared,
    /// Cross-entropy of targets 0 and 1: trees add up to the log odds.
    Logistic,
}

/// How trees grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    pub(super) trees: usize,
    pub(super) leaves: usize,
    /// Share of each tree that counts.
    pub(super) rate: f64,
    /// Rows of a leaf, at least.
    pub(super) rows_min: usize,
    /// Added to the rows of a leaf.
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

/// A sum of trees.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Trees {
    pub(super) base: f32,
    /// First node of each tree.
    pub(super) roots: Vec<u32>,
    /// Of each node the feature that is compared; [`LEAF`] for a leaf.
    pub(super) feature: Vec<u8>,
    /// What it is compared with, or a leaf's value.
    pub(super) value: Vec<f32>,
    /// From the root of its tree to the node of those below or equal; the one of the others
    /// follows it.
    pub(super) next: Vec<u16>,
}

/// In the place of a leaf's feature.
pub(super) const LEAF: u8 = u8::MAX;

impl Trees {
    /// The sum over trees for a row of features.
    pub(super) fn predict(&self, row: &[f32]) -> f32 {
        let trees = self.roots.iter().map(|&root| self.of_tree(root as usize, row));
        self.base + trees.sum::<f32>()
    }

    fn of_tree(&self, root: usize, row: &[f32]) -> f32 {
        let mut at = root;
        while self.feature[at] != LEAF {
            let below = row[usize::from(self.feature[at])] <= self.value[at];
            at = root + usize::from(self.next[at]) + usize::from(!below);
        }
        self.value[at]
    }

    /// Base, first nodes, and each node's feature, value and next, by name.
    pub(super) fn arrays(&self) -> [(&'static str, Vec<f32>); 3] {
        let of = self.feature.iter().zip(&self.value).zip(&self.next);
        let nodes =
            of.flat_map(|((feature, value), next)| [f32::from(*feature), *value, f32::from(*next)]);
        [
            ("base", vec![self.base]),
            ("roots", self.roots.iter().map(|r| *r as f32).collect()),
            ("nodes", nodes.collect()),
        ]
    }

    /// From what [`Self::arrays`] gives; `None` where a node compares a feature that there is not,
    /// or leads out of its tree or back.
    pub(super) fn from_arrays([base, roots, nodes]: [Vec<f32>; 3], features: usize) -> Option<Self> {
        let of = nodes.as_chunks::<3>().0;
        let trees = Self {
            base: *base.first()?,
            roots: roots.iter().map(|r| *r as u32).collect(),
            feature: of.iter().map(|n| n[0] as u8).collect(),
            value: of.iter().map(|n| n[1]).collect(),
            next: of.iter().map(|n| n[2] as u16).collect(),
        };
        let ends = trees.roots.iter().skip(1).copied().chain([of.len() as u32]);
        let sound = trees.roots.iter().zip(ends).all(|(&root, end)| {
            let (root, end) = (root as usize, end as usize);
            root < end
                && end <= of.len()
                && (root..end).all(|node| {
                    let feature = trees.feature[node];
                    let next = root + usize::from(trees.next[node]);
                    let splits = usize::from(feature) < features && next > node && next + 1 < end;
                    feature == LEAF || splits
                })
        });
        sound.then_some(trees)
    }

    /// Trees for `rows` of features and their targets.
    pub(super) fn fit(rows: &[Vec<f32>], targets: &[f32], loss: Loss, how: Growth) -> Self {
        let Some(first) = rows.first() else { return Self::default() };
        let table = Table::new(rows, first.len());
        let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
        let mean = targets.iter().sum::<f32>() / targets.len() as f32;
        let base = match loss {
            Loss::Squared => mean,
            Loss::Logistic => {
                let p = mean.clamp(0.01, 0.99);
                (p / (1.0 - p)).ln()
            }
        };
        let mut trees = Self { base, ..Self::default() };
        let mut sums = vec![f64::from(base); rows.len()];
        for _ in 0..how.trees {
            let slopes: Vec<[f64; 2]> = sums
                .iter()
                .zip(targets)
                .map(|(sum, target)| match loss {
                    Loss::Squared => [f64::from(*target) - sum, 1.0],
                    Loss::Logistic => {
                        let p = 1.0 / (1.0 + (-sum).exp());
                        [f64::from(*target) - p, (p * (1.0 - p)).max(1e-6)]
                    }
                })
                .collect();
            let drawn = |share: f64, rng: &mut ChaCha8Rng| rng.random_bool(share);
            let chosen: Vec<usize> =
                (0..rows.len()).filter(|_| drawn(how.rows_share, &mut rng)).collect();
            let features: Vec<usize> =
                (0..first.len()).filter(|_| drawn(how.features_share, &mut rng)).collect();
            let tree = grow(&table, &slopes, chosen, &features, how);
            let root = trees.feature.len();
            trees.roots.push(root as u32);
            for node in &tree {
                let (feature, value, next) = match *node {
                    Node::Leaf(value) => (LEAF, value, 0),
                    Node::Split { feature, at, next } => (feature as u8, at, next as u16),
                };
                trees.feature.push(feature);
                trees.value.push(value);
                trees.next.push(next);
            }
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum += f64::from(trees.of_tree(root, row));
            }
        }
        trees
    }
}

#[derive(Debug, Clone, Copy)]
enum Node {
    Leaf(f32),
    Split { feature: usize, at: f32, next: usize },
}

/// Values sorted into classes.
struct Table {
    /// `[features][rows]`.
    class: Vec<Vec<u8>>,
    /// Upper ends of each feature's classes but the last.
    ends: Vec<Vec<f32>>,
}

impl Table {
    fn new(rows: &[Vec<f32>], features: usize) -> Self {
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
            class.push(
                rows.iter().map(|r| own.partition_point(|end| *end < r[f]) as u8).collect(),
            );
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

/// One tree, leaf by leaf, the most gainful first.
fn grow(
    table: &Table,
    slopes: &[[f64; 2]],
    rows: Vec<usize>,
    features: &[usize],
    how: Growth,
) -> Vec<Node> {
    let value = |rows: &[usize]| {
        let [g, h] = total(rows, slopes);
        Node::Leaf((how.rate * g / (h + how.ridge)) as f32)
    };
    let open = |node: usize, rows: Vec<usize>| {
        let split = best_split(table, slopes, &rows, features, how);
        Open { node, rows, split }
    };
    let mut nodes = vec![value(&rows)];
    let mut leaves = vec![open(0, rows)];
    while leaves.len() < how.leaves {
        let gain = |l: &Open| l.split.map_or(0.0, |s| s.gain);
        let best = (0..leaves.len()).max_by(|&a, &b| gain(&leaves[a]).total_cmp(&gain(&leaves[b])));
        let Some(best) = best else { break };
        let Some(Split { feature, class, .. }) = leaves[best].split else { break };
        let Open { node, rows, .. } = leaves.swap_remove(best);
        let (below, above): (Vec<usize>, Vec<usize>) =
            rows.into_iter().partition(|&r| usize::from(table.class[feature][r]) <= class);
        let next = nodes.len();
        nodes[node] = Node::Split { feature, at: table.ends[feature][class], next };
        nodes.push(value(&below));
        nodes.push(value(&above));
        leaves.push(open(next, below));
        leaves.push(open(next + 1, above));
    }
    nodes
}

fn total(rows: &[usize], slopes: &[[f64; 2]]) -> [f64; 2] {
    rows.iter().fold([0.0; 2], |[g, h], &r| [g + slopes[r][0], h + slopes[r][1]])
}

fn best_split(
    table: &Table,
    slopes: &[[f64; 2]],
    rows: &[usize],
    features: &[usize],
    how: Growth,
) -> Option<Split> {
    let all = total(rows, slopes);
    let score = |[g, h]: [f64; 2]| g * g / (h + how.ridge);
    let mut best: Option<Split> = None;
    for &feature in features {
        let mut sums = [[0.0f64; 2]; CLASSES];
        let mut counts = [0usize; CLASSES];
        for &row in rows {
            let class = usize::from(table.class[feature][row]);
            sums[class][0] += slopes[row][0];
            sums[class][1] += slopes[row][1];
            counts[class] += 1;
        }
        let (mut below, mut n) = ([0.0; 2], 0);
        for class in 0..table.ends[feature].len() {
            below = [below[0] + sums[class][0], below[1] + sums[class][1]];
            n += counts[class];
            if n < how.rows_min || rows.len() - n < how.rows_min {
                continue;
            }
            let above = [all[0] - below[0], all[1] - below[1]];
            let gain = score(below) + score(above) - score(all);
            if gain > best.map_or(1e-9, |b| b.gain) {
                best = Some(Split { gain, feature, class });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| (0..6).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
    }

    fn truth(row: &[f32]) -> f32 {
        row[0] * 2.0 + if row[1] > 0.2 { 1.5 } else { 0.0 } + row[2] * row[3]
    }

    #[test]
    fn a_sum_of_trees_learns_steps_slopes_and_products() {
        let (train, test) = (rows(3000, 1), rows(500, 2));
        let targets: Vec<f32> = train.iter().map(|r| truth(r)).collect();
        let how = Growth { features_share: 0.7, ..Growth::default() };
        let trees = Trees::fit(&train, &targets, Loss::Squared, how);
        let squares = |of: &dyn Fn(&[f32]) -> f32| {
            test.iter().map(|r| (truth(r) - of(r)).powi(2)).sum::<f32>() / test.len() as f32
        };
        let (left, all) = (squares(&|r| trees.predict(r)), squares(&|_| 0.75));
        assert!(left < 0.03 * all, "{left} of {all}");
        assert_eq!(trees, Trees::fit(&train, &targets, Loss::Squared, how), "the same each time");
        assert!(trees.roots.len() == 300 && trees.feature.len() <= 300 * 31);
    }

    #[test]
    fn log_odds_are_learned_as_well() {
        let (train, test) = (rows(3000, 3), rows(2000, 4));
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let p = |r: &[f32]| 1.0 / (1.0 + (-3.0 * r[0]).exp());
        let targets: Vec<f32> =
            train.iter().map(|r| f32::from(u8::from(rng.random_bool(f64::from(p(r)))))).collect();
        let how = Growth { trees: 60, leaves: 8, features_share: 0.7, ..Growth::default() };
        let trees = Trees::fit(&train, &targets, Loss::Logistic, how);
        let error: f32 = test
            .iter()
            .map(|r| (1.0 / (1.0 + (-trees.predict(r)).exp()) - p(r)).abs())
            .sum::<f32>()
            / test.len() as f32;
        assert!(error < 0.07, "{error}");
    }

    #[test]
    fn features_that_never_differ_split_nothing() {
        let trees =
            Trees::fit(&vec![vec![1.0, 2.0]; 50], &[3.0; 50], Loss::Squared, Growth::default());
        assert!((trees.predict(&[1.0, 2.0]) - 3.0).abs() < 1e-6);
        assert!(Trees::fit(&[], &[], Loss::Squared, Growth::default()).roots.is_empty());
    }
}
