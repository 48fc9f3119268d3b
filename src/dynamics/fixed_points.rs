//! Fixed points of the fitted network: minima of its speed (Sussillo & Barak 2013).

use nalgebra::{Complex, DMatrix, DVector};

use super::eigenvalues::eigenvalues;
use crate::model::{Factors, Model};

/// A point is fixed where `q = |F(kappa) - kappa|^2 / 2` is below this.
const FIXED_BELOW: f64 = 1e-12;
/// Points closer than this are one.
const MERGED_WITHIN: f64 = 1e-3;
/// Steps of the minimisation at most.
const STEPS_MAX: usize = 30;
/// Minima that are not fixed but as slow as this are slow points: `q` below.
const SLOW_BELOW: f64 = 1e-6;

/// A minimum of the speed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FixedPoint {
    /// Where, `[rank]`.
    pub kappa: Vec<f64>,
    /// `q = |F(kappa) - kappa|^2 / 2` there, per bin squared.
    pub speed: f64,
    /// `ln |z| / bin` of the leading eigenvalue `z` of the bin-to-bin map there, 1/s: below 0 is
    /// stable. It is the map that was fitted: its continuous reading `(z - 1) / bin` would be short
    /// of the truth by `(2 pi f)^2 bin / 2`, and call a slowly growing focus stable.
    pub growth_per_s: f64,
    /// `|arg z| / (2 pi bin)`, Hz.
    pub frequency_hz: f64,
}

impl FixedPoint {
    /// Fixed to within rounding, rather than only slow.
    #[must_use]
    pub(crate) fn is_fixed(&self) -> bool {
        self.speed < FIXED_BELOW
    }

    /// Fixed, and attracting.
    #[must_use]
    pub(crate) fn is_stable(&self) -> bool {
        self.is_fixed() && self.growth_per_s < 0.0
    }
}

/// The map's drift `g(kappa) = -kappa + N^T tanh(M kappa + b) + c` in double precision:
/// `F(kappa) - kappa = a g(kappa)`.
struct Drift<'a> {
    model: &'a Model,
    /// `N(e)` and `M` transposed, `[rank, units]`.
    n: Vec<f64>,
    m: Vec<f64>,
    c: Vec<f64>,
}

/// `sum_i a_i b_i` in eight running sums.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ca.zip(cb) {
        for l in 0..8 {
            lanes[l] += x[l] * y[l];
        }
    }
    tail + lanes.iter().sum::<f64>()
}

impl<'a> Drift<'a> {
    fn new(model: &'a Model, factors: &Factors) -> Self {
        Self {
            model,
            n: factors.n.iter().map(|&x| f64::from(x)).collect(),
            m: model.network.m.t().iter().map(|&x| f64::from(x)).collect(),
            c: factors.c.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// `g` and its Jacobian `-I + N^T D M`.
    fn at(&self, kappa: &DVector<f64>) -> (DVector<f64>, DMatrix<f64>) {
        let (rank, units) = (kappa.len(), self.model.dims.units);
        let mut phi: Vec<f64> = self.model.network.offset.iter().map(|&b| f64::from(b)).collect();
        for (k, m) in kappa.iter().zip(self.m.chunks_exact(units)) {
            phi.iter_mut().zip(m).for_each(|(x, m)| *x += k * m);
        }
        phi.iter_mut().for_each(|x| *x = x.tanh());
        let mut g = DVector::from_fn(rank, |r, _| self.c[r] - kappa[r]);
        let mut jacobian = DMatrix::from_diagonal_element(rank, rank, -1.0);
        let mut weighted = vec![0.0; units];
        for (r, n) in self.n.chunks_exact(units).enumerate() {
            g[r] += dot(n, &phi);
            for ((w, n), p) in weighted.iter_mut().zip(n).zip(&phi) {
                *w = n * (1.0 - p * p);
            }
            for (j, m) in self.m.chunks_exact(units).enumerate() {
                jacobian[(r, j)] += dot(&weighted, m);
            }
        }
        (g, jacobian)
    }

    /// Levenberg and Marquardt's minimisation of `|g|^2`.
    fn minimise(&self, start: &[f32]) -> Option<(DVector<f64>, f64)> {
        let rank = self.c.len();
        let mut kappa = DVector::from_iterator(rank, start.iter().map(|&x| f64::from(x)));
        let (mut g, mut jacobian) = self.at(&kappa);
        let mut square = g.norm_squared();
        let mut damping = 1e-3;
        let a = f64::from(self.model.network.leak);
        for _ in 0..STEPS_MAX {
            if 0.5 * a * a * square < 1e-4 * FIXED_BELOW {
                break;
            }
            let slope = jacobian.tr_mul(&g);
            if slope.norm() < 1e-10 {
                break;
            }
            let mut normal = jacobian.tr_mul(&jacobian);
            for i in 0..rank {
                normal[(i, i)] += damping * (1.0 + normal[(i, i)]);
            }
            let step = normal.cholesky()?.solve(&slope);
            let next = &kappa - &step;
            let (next_g, next_jacobian) = self.at(&next);
            let next_square = next_g.norm_squared();
            if next_square < square {
                let gained = square - next_square;
                (kappa, g, jacobian) = (next, next_g, next_jacobian);
                damping = (damping * 0.2).max(1e-14);
                if gained < 1e-9 * square && damping < 1e-6 {
                    square = next_square;
                    break;
                }
                square = next_square;
            } else {
                damping *= 5.0;
                if damping > 1e8 {
                    break;
                }
            }
        }
        let speed = 0.5 * a * a * square;
        (kappa.iter().all(|x| x.is_finite()) && speed.is_finite()).then_some((kappa, speed))
    }
}

/// Fixed and slow points under embedding `e`, found from `starts` (`[rank]` each), from the origin,
/// opposite the points found and halfway between them; slowest first.
#[must_use]
pub(crate) fn fixed_points(model: &Model, e: &[f32], starts: &[Vec<f32>]) -> Vec<FixedPoint> {
    let factors = model.hypernetwork.factors(e);
    let drift = Drift::new(model, &factors);
    let rank = model.dims.rank;
    let mut found: Vec<(DVector<f64>, f64)> = Vec::new();
    let mut take = |start: &[f32]| {
        std::thread::yield_now();
        let Some((kappa, speed)) = drift.minimise(start) else { return };
        if speed >= SLOW_BELOW {
            return;
        }
        let near = |other: &&mut (DVector<f64>, f64)| (&other.0 - &kappa).norm() < MERGED_WITHIN;
        match found.iter_mut().find(near) {
            Some(same) if speed < same.1 => *same = (kappa, speed),
            Some(_) => {}
            None => found.push((kappa, speed)),
        }
    };
    for start in starts {
        take(start);
    }
    take(&vec![0.0; rank]);
    let first: Vec<DVector<f64>> = found.iter().map(|f| f.0.clone()).collect();
    let mut take = |kappa: DVector<f64>| {
        std::thread::yield_now();
        let start: Vec<f32> = kappa.iter().map(|&x| x as f32).collect();
        let Some((kappa, speed)) = drift.minimise(&start) else { return };
        if speed < FIXED_BELOW && found.iter().all(|f| (&f.0 - &kappa).norm() >= MERGED_WITHIN) {
            found.push((kappa, speed));
        }
    };
    for point in first.iter().take(4) {
        take(-point);
    }
    for i in 0..first.len().min(4) {
        for j in 0..i {
            take((&first[i] + &first[j]) / 2.0);
        }
    }
    let mut points: Vec<FixedPoint> = found
        .into_iter()
        .filter_map(|(kappa, speed)| linearised(model, &drift, &kappa, speed))
        .collect();
    points.sort_by(|x, y| x.speed.total_cmp(&y.speed));
    points
}

/// The leading eigenvalue of the bin-to-bin map at a point; `None` where the iteration for it
/// fails.
fn linearised(
    model: &Model,
    drift: &Drift<'_>,
    kappa: &DVector<f64>,
    speed: f64,
) -> Option<FixedPoint> {
    let (a, width) = (f64::from(model.network.leak), model.bin_width_s);
    let (_, jacobian) = drift.at(kappa);
    // The directions outside the latents decay with tau: their eigenvalue of the map is 1 - a.
    let mut leading = Complex::new(1.0 - a, 0.0);
    for value in eigenvalues(&jacobian)? {
        let z = value * a + 1.0;
        if z.norm() > leading.norm() {
            leading = z;
        }
    }
    Some(FixedPoint {
        kappa: kappa.iter().copied().collect(),
        speed,
        growth_per_s: leading.norm().ln() / width,
        frequency_hz: leading.arg().abs() / (std::f64::consts::TAU * width),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamics::planar;

    fn starts() -> Vec<Vec<f32>> {
        (0..12).map(|i| vec![(1.7 * i as f32).sin(), (2.3 * i as f32).cos()]).collect()
    }

    #[test]
    fn one_direction_above_threshold_has_two_stable_points_and_a_saddle() {
        // kappa_0 = 2 tanh(kappa_0) has the solutions 0 and +-1.9150; kappa_1 only 0.
        let points = fixed_points(&planar([2.0, 0.0, 0.0, 0.5]), &[0.0], &starts());
        let stable: Vec<&FixedPoint> = points.iter().filter(|p| p.is_stable()).collect();
        assert_eq!((points.len(), stable.len()), (3, 2), "{points:?}");
        for p in &stable {
            assert!((p.kappa[0].abs() - 1.915_008).abs() < 1e-5, "{p:?}");
            assert!(p.kappa[1].abs() < 1e-5);
        }
        let saddle = points.iter().find(|p| !p.is_stable()).expect("a saddle");
        assert!(saddle.kappa.iter().all(|k| k.abs() < 1e-5));
        // z = 1 + a (2 - 1), a = 0.1, in bins of 10 ms.
        assert!((saddle.growth_per_s - 100.0 * 1.1f64.ln()).abs() < 1e-3, "{saddle:?}");
    }

    #[test]
    fn a_weak_network_has_one_stable_point_and_a_cycle_an_unstable_focus() {
        let points = fixed_points(&planar([0.5, -0.8, 0.8, 0.5]), &[0.0], &starts());
        assert_eq!(points.len(), 1);
        assert!(points[0].is_stable());
        // z = 1 + a (0.5 - 1 + 0.8 i).
        let growth = 100.0 * 0.95f64.hypot(0.08).ln();
        assert!((points[0].growth_per_s - growth).abs() < 1e-3, "{points:?}");
        let points = fixed_points(&planar([1.5, -0.8, 0.8, 1.5]), &[0.0], &starts());
        assert_eq!(points.len(), 1);
        assert!(points[0].is_fixed() && !points[0].is_stable());
        let expected = 0.08f64.atan2(1.05) * 100.0 / std::f64::consts::TAU;
        assert!((points[0].frequency_hz - expected).abs() < 1e-3, "{points:?}");
    }

    #[test]
    fn a_focus_that_grows_from_bin_to_bin_is_not_stable() {
        // z = 0.995 + 0.15 i: the continuous reading has real part -0.5 /s, the map grows by 0.6 %
        // a bin.
        let points = fixed_points(&planar([0.95, -1.5, 1.5, 0.95]), &[0.0], &starts());
        assert!(points[0].is_fixed() && !points[0].is_stable(), "{points:?}");
        let growth = 100.0 * 0.995f64.hypot(0.15).ln();
        assert!((points[0].growth_per_s - growth).abs() < 1e-3, "{points:?}");
    }
}
