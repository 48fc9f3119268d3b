//! Features on one scale.

/// Quantiles of each feature beyond which its values are moved in.
const RANGE: [f64; 2] = [0.002, 0.998];
/// Features count no further from their mean, standard deviations.
const FAR: f32 = 4.0;

/// Of each feature, the ends of its range, its mean and its standard deviation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scaling(Vec<[f32; 4]>);

impl Scaling {
    /// As rows of `n` features have it.
    pub(crate) fn of(rows: &[&[f32]], n: usize) -> Self {
        Self((0..n).map(|f| one(rows, f)).collect())
    }

    /// A row, each feature within its range, less its mean, over its standard deviation.
    pub(crate) fn apply<'a>(&'a self, row: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        row.iter()
            .zip(&self.0)
            .map(|(x, [low, high, mean, sd])| ((x.clamp(*low, *high) - mean) / sd).clamp(-FAR, FAR))
    }

    /// How many of a row's features are beyond their range.
    pub(crate) fn beyond(&self, row: &[f32]) -> usize {
        let beyond = |(x, [low, high, ..]): &(&f32, &[f32; 4])| *x < low || *x > high;
        row.iter().zip(&self.0).filter(beyond).count()
    }

    /// `[features][low, high, mean, sd]`, one after the other.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.0.as_flattened().to_vec()
    }

    /// From the same, made sound where it is not.
    pub(crate) fn from_values(values: &[f32]) -> Self {
        let sound =
            |[low, high, mean, sd]: [f32; 4]| [low.min(high), low.max(high), mean, sd.max(1e-6)];
        Self(values.as_chunks::<4>().0.iter().map(|i| sound(*i)).collect())
    }
}

fn one(rows: &[&[f32]], f: usize) -> [f32; 4] {
    let mut sorted: Vec<f32> = rows.iter().map(|row| row[f]).collect();
    sorted.sort_by(f32::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let [low, high] =
        RANGE.map(|q| sorted.get((q * last as f64).round() as usize).copied().unwrap_or(0.0));
    let n = sorted.len().max(1) as f32;
    let mean = sorted.iter().map(|x| x.clamp(low, high)).sum::<f32>() / n;
    let square = sorted.iter().map(|x| (x.clamp(low, high) - mean).powi(2)).sum::<f32>() / n;
    [low, high, mean, square.sqrt().max(1e-6)]
}
