//! Lyapunov exponents of any discrete-time system by repeated orthonormalisation of tangent vectors
//! (Benettin, Galgani, Giorgilli & Strelcyn 1980; for networks Engelken, Wolf & Abbott 2023).

/// Tangent vectors carried along a trajectory, and how they have grown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LyapunovSum {
    dimension: usize,
    /// Tangent vectors, one after another, `[exponents, dimension]`.
    tangents: Vec<f64>,
    /// `sum log |R_ii|`.
    grown: Vec<f64>,
    time_s: f64,
}

impl LyapunovSum {
    /// For the `exponents` largest exponents of a system of `dimension` variables.
    #[must_use]
    pub(super) fn new(dimension: usize, exponents: usize) -> Self {
        let exponents = exponents.min(dimension);
        // Independent, and along no axis: no system is special to them.
        let tangents = (0..exponents * dimension)
            .map(|i| {
                let (k, j) = (i / dimension, i % dimension);
                f64::from(u8::from(k == j)) + 0.3 * (1.7 * i as f64 + 0.3).sin()
            })
            .collect();
        let mut sum = Self { dimension, tangents, grown: vec![0.0; exponents], time_s: 0.0 };
        sum.renormalise();
        sum.forget(0.0);
        sum
    }

    /// The tangent vectors, `[exponents, dimension]`: multiply each by the map's Jacobian.
    pub(super) fn tangents(&mut self) -> &mut [f64] {
        &mut self.tangents
    }

    /// Takes up what the tangent vectors have grown by in `elapsed_s` seconds.
    pub(super) fn take(&mut self, elapsed_s: f64) {
        self.renormalise();
        self.time_s += elapsed_s;
    }

    /// Makes the tangent vectors orthonormal (modified Gram-Schmidt, the QR decomposition's
    /// `R_ii`).
    fn renormalise(&mut self) {
        let n = self.dimension;
        for k in 0..self.grown.len() {
            let (before, rest) = self.tangents.split_at_mut(k * n);
            let own = &mut rest[..n];
            for other in before.chunks_exact(n) {
                let along: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
            let norm = own.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            own.iter_mut().for_each(|x| *x /= norm);
            self.grown[k] += norm.ln();
        }
    }

    /// Keeps only this share of the sums: 0 after a transient, less than 1 to follow a system that
    /// changes.
    pub(super) fn forget(&mut self, keep: f64) {
        self.grown.iter_mut().for_each(|g| *g *= keep);
        self.time_s *= keep;
    }

    /// Time summed over, seconds.
    #[must_use]
    pub(super) fn time_s(&self) -> f64 {
        self.time_s
    }

    /// `lambda_i = sum log |R_ii| / time`, 1/s, largest first; `None` before any time was summed.
    #[must_use]
    pub(super) fn exponents_per_s(&self) -> Option<Vec<f64>> {
        if self.time_s <= 0.0 {
            return None;
        }
        let mut found: Vec<f64> = self.grown.iter().map(|g| g / self.time_s).collect();
        found.sort_by(|a, b| b.total_cmp(a));
        found.iter().all(|x| x.is_finite()).then_some(found)
    }
}

/// Kaplan-Yorke dimension `k + sum_{i<=k} lambda_i / |lambda_{k+1}|` of exponents, largest first,
/// `k` the most whose sum is not negative (Kaplan & Yorke 1979). Their number where no sum is
/// negative.
#[must_use]
pub(super) fn kaplan_yorke_dimension(exponents: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (k, lambda) in exponents.iter().enumerate() {
        if sum + lambda < 0.0 {
            return k as f64 + sum / lambda.abs();
        }
        sum += lambda;
    }
    exponents.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    /// A step of Runge and Kutta for a flow and its tangents; `rate(x, v, out)`: the flow at `x`
    /// with `v` empty, its Jacobian at `x` times `v` otherwise.
    fn runge_kutta(
        rate: impl Fn(&[f64], &[f64], &mut [f64]),
        x: &mut [f64],
        tangents: &mut [f64],
        dt: f64,
    ) {
        let n = x.len();
        let vectors = 1 + tangents.len() / n;
        let all: Vec<f64> = x.iter().chain(tangents.iter()).copied().collect();
        let slope = |z: &[f64]| {
            let mut out = vec![0.0; z.len()];
            rate(&z[..n], &[], &mut out[..n]);
            for k in 1..vectors {
                let at = k * n..(k + 1) * n;
                rate(&z[..n], &z[at.clone()], &mut out[at]);
            }
            out
        };
        let moved =
            |k: &[f64], h: f64| -> Vec<f64> { all.iter().zip(k).map(|(z, k)| z + h * k).collect() };
        let k1 = slope(&all);
        let k2 = slope(&moved(&k1, dt / 2.0));
        let k3 = slope(&moved(&k2, dt / 2.0));
        let k4 = slope(&moved(&k3, dt));
        for (i, z) in x.iter_mut().chain(tangents.iter_mut()).enumerate() {
            *z += dt / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
        }
    }

    fn of_flow(
        rate: impl Fn(&[f64], &[f64], &mut [f64]) + Copy,
        mut x: Vec<f64>,
        dt: f64,
        [transient, measured]: [usize; 2],
        every: usize,
    ) -> Vec<f64> {
        let mut sum = LyapunovSum::new(x.len(), x.len());
        for step in 1..=transient + measured {
            runge_kutta(rate, &mut x, sum.tangents(), dt);
            if step % every == 0 {
                sum.take(dt * every as f64);
            }
            if step == transient {
                sum.forget(0.0);
            }
        }
        sum.exponents_per_s().expect("time was summed")
    }

    fn close(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() < within, "{found} for {expected}");
    }

    #[test]
    fn lorenz_has_its_spectrum_and_dimension() {
        let lorenz = |x: &[f64], v: &[f64], out: &mut [f64]| {
            let (s, r, b) = (10.0, 28.0, 8.0 / 3.0);
            if v.is_empty() {
                out[0] = s * (x[1] - x[0]);
                out[1] = x[0] * (r - x[2]) - x[1];
                out[2] = x[0] * x[1] - b * x[2];
            } else {
                out[0] = s * (v[1] - v[0]);
                out[1] = v[0] * (r - x[2]) - x[0] * v[2] - v[1];
                out[2] = v[0] * x[1] + x[0] * v[1] - b * v[2];
            }
        };
        let found = of_flow(lorenz, vec![1.0, 1.0, 20.0], 0.01, [2_000, 60_000], 10);
        // Sprott 2003: 0.9056, 0, -14.5723, dimension 2.0621.
        close(found[0], 0.9056, 0.02);
        close(found[1], 0.0, 0.01);
        close(found[2], -14.5723, 0.03);
        close(kaplan_yorke_dimension(&found), 2.062, 0.003);
    }

    #[test]
    fn henon_has_its_exponents() {
        let (mut x, mut y) = (0.1f64, 0.1f64);
        let mut sum = LyapunovSum::new(2, 2);
        for step in 0..200_000 {
            for v in sum.tangents().chunks_exact_mut(2) {
                (v[0], v[1]) = (-2.8 * x * v[0] + v[1], 0.3 * v[0]);
            }
            (x, y) = (1.0 - 1.4 * x * x + y, 0.3 * x);
            sum.take(1.0);
            if step == 100 {
                sum.forget(0.0);
            }
        }
        let found = sum.exponents_per_s().expect("time was summed");
        // Sprott 2003: 0.41922; the sum is log 0.3 exactly.
        close(found[0], 0.4192, 0.003);
        close(found[0] + found[1], 0.3f64.ln(), 1e-9);
        close(kaplan_yorke_dimension(&found), 1.2583, 0.003);
    }

    #[test]
    fn lorenz_96_of_64_sites_has_its_exponent_and_dimension() {
        let lorenz_96 = |x: &[f64], v: &[f64], out: &mut [f64]| {
            let n = x.len();
            for i in 0..n {
                let (up, down, two) = ((i + 1) % n, (i + n - 1) % n, (i + n - 2) % n);
                out[i] = if v.is_empty() {
                    (x[up] - x[two]) * x[down] - x[i] + 8.0
                } else {
                    (v[up] - v[two]) * x[down] + (x[up] - x[two]) * v[down] - v[i]
                };
            }
        };
        let start = (0..64).map(|i| 8.0 + 0.01 * f64::from(i).sin()).collect();
        let found = of_flow(lorenz_96, start, 0.02, [1_000, 10_000], 5);
        close(found[0], 1.74, 0.06);
        close(kaplan_yorke_dimension(&found), 43.3, 0.4);
    }

    /// `x <- (1-a) x + a g chi tanh(x) / sqrt(N)`, exponents per tau.
    fn random_network(n: usize, g: f64, a: f64, bins: usize, seed: u64) -> (f64, f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
        let j: Vec<f64> = (0..n * n).map(|_| g * normal() / (n as f64).sqrt()).collect();
        let mut x: Vec<f64> = (0..n).map(|_| normal()).collect();
        let mut sum = LyapunovSum::new(n, 1);
        let times = |v: &[f64]| -> Vec<f64> {
            j.chunks_exact(n).map(|row| row.iter().zip(v).map(|(j, v)| j * v).sum()).collect()
        };
        let (mut slope_square, mut counted) = (0.0, 0);
        for bin in 0..bins {
            let phi: Vec<f64> = x.iter().map(|x| x.tanh()).collect();
            let pushed = {
                let v = sum.tangents();
                let weighted: Vec<f64> =
                    v.iter().zip(&phi).map(|(v, p)| v * (1.0 - p * p)).collect();
                times(&weighted)
            };
            sum.tangents().iter_mut().zip(pushed).for_each(|(v, p)| *v = (1.0 - a) * *v + a * p);
            if bin >= bins / 4 {
                slope_square += phi.iter().map(|p| (1.0 - p * p).powi(2)).sum::<f64>() / n as f64;
                counted += 1;
            }
            let drive = times(&phi);
            x.iter_mut().zip(drive).for_each(|(x, d)| *x = (1.0 - a) * *x + a * d);
            sum.take(a);
            if bin + 1 == bins / 4 {
                sum.forget(0.0);
            }
        }
        let lambda = sum.exponents_per_s().expect("time was summed")[0];
        (lambda, (g * (slope_square / f64::from(counted)).sqrt()).ln())
    }

    #[test]
    fn random_networks_have_their_exponents() {
        for (g, expected, within) in [(0.5, -0.52, 0.04), (3.0, 0.21, 0.05), (5.0, 0.36, 0.06)] {
            let found = random_network(400, g, 0.25, 1_200, 3).0;
            close(found, expected, within);
        }
    }

    #[test]
    fn without_leak_the_exponent_has_a_closed_form() {
        // For x <- J tanh(x) mean-field theory gives log(g sqrt(<phi'^2>)) per step.
        for g in [2.0, 4.0] {
            let (found, closed) = random_network(400, g, 1.0, 1_200, 5);
            close(found, closed, 0.04);
        }
    }

    #[test]
    fn linear_systems_have_the_logs_of_their_eigenvalues() {
        // Rotation by 0.4 shrunk by 0.97, and a decay by 0.5.
        let (c, s) = (0.97 * 0.4f64.cos(), 0.97 * 0.4f64.sin());
        let mut sum = LyapunovSum::new(3, 3);
        for step in 0..4_000 {
            for v in sum.tangents().chunks_exact_mut(3) {
                (v[0], v[1], v[2]) = (c * v[0] - s * v[1], s * v[0] + c * v[1], 0.5 * v[2]);
            }
            sum.take(0.01);
            if step == 200 {
                sum.forget(0.0);
            }
        }
        let found = sum.exponents_per_s().expect("time was summed");
        close(found[0], 0.97f64.ln() / 0.01, 1e-6);
        close(found[1], 0.97f64.ln() / 0.01, 1e-6);
        close(found[2], 0.5f64.ln() / 0.01, 1e-6);
        assert_eq!(kaplan_yorke_dimension(&found), 0.0);
        assert_eq!(kaplan_yorke_dimension(&[0.3, 0.0]), 2.0);
    }
}
