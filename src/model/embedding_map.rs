//! Where the regimes lie in the space of the task embedding, drawn in two dimensions.

use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2};
use serde::Serialize;

use super::{RegimePrior, values};

/// The plane in which the regimes' Gaussians differ most, and the Gaussians projected onto it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct EmbeddingMap {
    /// The regimes' Gaussians.
    pub clusters: Vec<Cluster>,
    /// Its origin, `[embedding]`.
    #[serde(skip)]
    centre: Vec<f64>,
    /// Two orthonormal directions, `[embedding]` each.
    #[serde(skip)]
    axes: [Vec<f64>; 2],
}

/// One Gaussian of the regimes' prior in the plane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cluster {
    /// Index into the regime names; `None` is what training saw without a label.
    pub regime: Option<usize>,
    /// Prior weight.
    pub weight: f32,
    /// Mean of the regime's components, projected.
    pub at: [f32; 2],
    /// Covariance `xx`, `xy`, `yy`.
    pub covariance: [f32; 3],
}

impl EmbeddingMap {
    /// By the principal components of the prior's mixture.
    #[must_use]
    pub(crate) fn of(prior: &RegimePrior) -> Self {
        let Some(first) = prior.components.first() else { return Self::default() };
        let d = first.mean.len();
        let vector = |of: &Array1<f32>| DVector::from_iterator(d, of.iter().map(|&x| f64::from(x)));
        let total: f64 = prior.components.iter().map(|c| f64::from(c.weight)).sum();
        let weight = |w: f32| f64::from(w) / total.max(f64::MIN_POSITIVE);
        let means: Vec<_> = prior.components.iter().map(|c| vector(&c.mean)).collect();
        let centre = prior
            .components
            .iter()
            .zip(&means)
            .fold(DVector::zeros(d), |sum, (c, mean)| sum + mean * weight(c.weight));
        let mut scatter = DMatrix::zeros(d, d);
        for (component, mean) in prior.components.iter().zip(&means) {
            let from_centre = mean - &centre;
            let within = DMatrix::from_row_iterator(
                d,
                d,
                component.covariance.iter().map(|&x| f64::from(x)),
            );
            scatter += (&from_centre * from_centre.transpose() + within) * weight(component.weight);
        }
        let eigen = scatter.symmetric_eigen();
        let mut order: Vec<usize> = (0..d).collect();
        order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
        let axis = |k: usize| -> Vec<f64> {
            let Some(&at) = order.get(k) else { return vec![0.0; d] };
            let column: Vec<f64> = eigen.eigenvectors.column(at).iter().copied().collect();
            // Either sign is right: the same one every time.
            let largest = column.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            let sign = largest.map_or(1.0, f64::signum);
            column.into_iter().map(|x| x * sign).collect()
        };
        let mut map = Self {
            clusters: Vec::new(),
            centre: centre.iter().copied().collect(),
            axes: [axis(0), axis(1)],
        };
        let triangle = |full: &Array2<f32>| -> Vec<f32> {
            (0..d).flat_map(|i| (0..=i).map(move |j| full[[i, j]])).collect()
        };
        map.clusters = prior
            .components
            .iter()
            .map(|c| Cluster {
                regime: c.regime,
                weight: c.weight,
                at: map.place(values(&c.mean)),
                covariance: map.spread(&triangle(&c.covariance)),
            })
            .collect();
        map
    }

    /// Where an embedding `[embedding]` lies.
    #[must_use]
    pub(crate) fn place(&self, embedding: &[f32]) -> [f32; 2] {
        let along = |axis: &Vec<f64>| {
            let parts = axis.iter().zip(embedding).zip(&self.centre);
            parts.map(|((a, &e), c)| a * (f64::from(e) - c)).sum::<f64>() as f32
        };
        [along(&self.axes[0]), along(&self.axes[1])]
    }

    /// What a covariance, its lower triangle row by row, is in the plane: `xx`, `xy`, `yy`.
    #[must_use]
    pub(crate) fn spread(&self, triangle: &[f32]) -> [f32; 3] {
        let between = |u: &[f64], v: &[f64]| {
            let mut sum = 0.0;
            let mut entries = triangle.iter();
            for i in 0..u.len() {
                for j in 0..=i {
                    let entry = entries.next().copied().map_or(0.0, f64::from);
                    sum += entry * if i == j { u[i] * v[i] } else { u[i] * v[j] + u[j] * v[i] };
                }
            }
            sum as f32
        };
        let [x, y] = &self.axes;
        [between(x, x), between(x, y), between(y, y)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Component;
    use ndarray::arr1;

    #[test]
    fn the_plane_is_that_in_which_the_regimes_differ() {
        // Means differ along the second and, less, the first of three dimensions.
        let component = |regime, mean: [f32; 3]| Component {
            regime: Some(regime),
            weight: 0.25,
            mean: arr1(&mean),
            covariance: Array2::from_diag(&arr1(&[0.04, 0.01, 0.02])),
        };
        let prior = RegimePrior {
            components: vec![
                component(0, [1.0, 5.0, 7.0]),
                component(1, [1.0, -5.0, 7.0]),
                component(2, [3.0, 0.0, 7.0]),
                component(3, [-1.0, 0.0, 7.0]),
            ],
        };
        let map = EmbeddingMap::of(&prior);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&map.place(&[1.0, 5.0, 9.0]), &[5.0, 0.0]), "{map:?}");
        assert!(close(&map.place(&[3.0, 0.0, 7.0]), &[0.0, 2.0]));
        assert!(close(&map.clusters[0].at, &[5.0, 0.0]));
        assert!(close(&map.clusters[0].covariance, &[0.01, 0.0, 0.04]), "{map:?}");
        // xy of a covariance whose first two dimensions go together.
        assert!(close(&map.spread(&[1.0, 0.5, 1.0, 0.0, 0.0, 1.0]), &[1.0, 0.5, 1.0]));
        assert_eq!(EmbeddingMap::of(&RegimePrior::default()), EmbeddingMap::default());
    }
}
