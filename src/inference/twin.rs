//! The slow, obvious twin of the filter bank: dense `f64` matrices, a transition Jacobian by finite
//! differences, the update through explicit inverses. Only for checks.

use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, Axis, arr1, arr2};

use super::measurement::{HALVINGS, STEP_LOSS_MAX};
use super::{Adaptation, FilterBank};
use crate::model::{
    Component, Dimensions, Hypernetwork, Model, Network, OnlineSettings, Readout, RegimePrior,
    values,
};

struct Twin<'a> {
    model: &'a Model,
    readout: &'a Readout,
    mean: Vec<DVector<f64>>,
    cov: Vec<DMatrix<f64>>,
    log_weight: Vec<f64>,
    /// Share of each weight that entered with the newest bin.
    entered: Vec<f64>,
    /// Steps that were halved so far.
    halved: usize,
}

fn column(x: &[f32]) -> DVector<f64> {
    DVector::from_iterator(x.len(), x.iter().map(|&v| f64::from(v)))
}

impl<'a> Twin<'a> {
    fn new(model: &'a Model, readout: &'a Readout) -> Self {
        let (rank, d) = (model.dims.rank, model.dims.embedding);
        let mut twin = Self {
            model,
            readout,
            mean: vec![],
            cov: vec![],
            log_weight: vec![],
            entered: vec![0.0; readout.prior.components.len()],
            halved: 0,
        };
        for c in &readout.prior.components {
            let mut mean = DVector::zeros(rank + d);
            mean.rows_mut(rank, d).copy_from(&column(values(&c.mean)));
            let mut cov = DMatrix::zeros(rank + d, rank + d);
            for r in 0..rank {
                cov[(r, r)] = f64::from(model.network.initial_variance[r]);
            }
            let prior =
                DMatrix::from_row_iterator(d, d, c.covariance.iter().map(|&v| f64::from(v)));
            cov.view_mut((rank, rank), (d, d)).copy_from(&prior);
            twin.mean.push(mean);
            twin.cov.push(cov);
            twin.log_weight.push(f64::from(c.weight).ln());
        }
        twin
    }

    fn advance(&self, z: &DVector<f64>) -> DVector<f64> {
        let (dims, h) = (&self.model.dims, &self.model.hypernetwork);
        let net = &self.model.network;
        let mut e: Vec<f64> = z.iter().skip(dims.rank).copied().collect();
        for (w, b) in [(&h.w1, &h.b1), (&h.w2, &h.b2)] {
            e = (0..b.len())
                .map(|j| {
                    (0..e.len()).map(|i| e[i] * f64::from(w[[i, j]])).sum::<f64>() + f64::from(b[j])
                })
                .map(f64::tanh)
                .collect();
        }
        let a = f64::from(net.leak);
        let mut out = z.clone();
        for r in 0..dims.rank {
            let mut drive: f64 = (0..e.len()).map(|b| e[b] * f64::from(h.wc[[b, r]])).sum();
            for n in 0..dims.units {
                let x: f64 = (0..dims.rank).map(|j| f64::from(net.m[[n, j]]) * z[j]).sum::<f64>()
                    + f64::from(net.offset[n]);
                let weight = f64::from(h.n0[[r, n]])
                    + (0..e.len()).map(|b| e[b] * f64::from(h.wn[[b, r, n]])).sum::<f64>();
                drive += weight * x.tanh();
            }
            out[r] = (1.0 - a) * z[r] + a * drive;
        }
        out
    }

    fn jacobian(&self, z: &DVector<f64>) -> DMatrix<f64> {
        let n = z.len();
        let mut out = DMatrix::zeros(n, n);
        for j in 0..n {
            let (mut up, mut down) = (z.clone(), z.clone());
            up[j] += 1e-5;
            down[j] -= 1e-5;
            out.set_column(j, &((self.advance(&up) - self.advance(&down)) / 2e-5));
        }
        out
    }

    fn log_rates(&self, z: &DVector<f64>) -> Vec<f64> {
        let rank = self.model.dims.rank;
        let [low, high] = self.model.online.log_rate_bounds.map(f64::from);
        (0..self.readout.n_channels())
            .map(|i| {
                let eta =
                    (0..rank).map(|r| f64::from(self.readout.loading[[i, r]]) * z[r]).sum::<f64>()
                        + f64::from(self.readout.baseline[i]);
                eta.clamp(low, high)
            })
            .collect()
    }

    fn dispersion(&self, channel: usize) -> f64 {
        self.readout.dispersion.as_ref().map_or(0.0, |alpha| f64::from(alpha[channel]))
    }

    /// `log p(y)` of a Poisson or negative binomial count, factor by factor of its recursion
    /// `p(y) = p(y - 1) (1/alpha + y - 1) / y * alpha rate / (1 + alpha rate)`.
    fn log_probability(&self, channel: usize, count: f64, rate: f64) -> f64 {
        let alpha = self.dispersion(channel);
        let mut log_p = if alpha > 0.0 { -(1.0 + alpha * rate).ln() / alpha } else { -rate };
        for y in 1..=count as usize {
            log_p +=
                ((1.0 + alpha * (y as f64 - 1.0)) / y as f64 * rate / (1.0 + alpha * rate)).ln();
        }
        log_p
    }

    fn weights(&self) -> Vec<f64> {
        let top = self.log_weight.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.log_weight.iter().map(|l| (l - top).exp()).sum();
        self.log_weight.iter().map(|l| (l - top).exp() / sum).collect()
    }

    fn mix(&mut self) {
        let (rank, d) = (self.model.dims.rank, self.model.dims.embedding);
        let w = self.weights();
        let components = &self.readout.prior.components;
        let states = self.model.regime_names.len() + 1;
        let state = |k: usize| components[k].regime.unwrap_or(states - 1);
        // Probability that out of component j, component k is entered.
        let enters = |j: usize, k: usize| {
            let alike = (0..w.len()).filter(|&i| state(i) == state(k));
            let total: f64 = alike.map(|i| f64::from(components[i].weight)).sum();
            let hazard = self.model.online.hazard_per_bin[[state(j), state(k)]];
            f64::from(hazard) * f64::from(components[k].weight) / total
        };
        let latent = |m: &DVector<f64>| m.rows(0, rank).into_owned();
        let pooled =
            (0..w.len()).fold(DVector::zeros(rank), |s, k| s + latent(&self.mean[k]) * w[k]);
        let pooled_cov = (0..w.len()).fold(DMatrix::zeros(rank, rank), |s, k| {
            let delta = latent(&self.mean[k]) - &pooled;
            s + (self.cov[k].view((0, 0), (rank, rank)) + &delta * delta.transpose()) * w[k]
        });
        for (k, component) in components.iter().enumerate() {
            let born: f64 = (0..w.len()).map(|j| w[j] * enters(j, k)).sum();
            let left: f64 = (0..w.len()).map(|j| enters(k, j)).sum();
            let weight = (1.0 - left) * w[k] + born;
            let (stay, fresh) = (1.0 - born / weight, born / weight);
            self.log_weight[k] = weight.ln();
            self.entered[k] = 0.0;
            if fresh < f64::from(self.model.online.fresh_share_min) {
                continue;
            }
            self.entered[k] = fresh;
            let mut m0 = DVector::zeros(rank + d);
            m0.rows_mut(0, rank).copy_from(&pooled);
            m0.rows_mut(rank, d).copy_from(&column(values(&component.mean)));
            let mut c0 = DMatrix::zeros(rank + d, rank + d);
            c0.view_mut((0, 0), (rank, rank)).copy_from(&pooled_cov);
            let prior = DMatrix::from_row_iterator(
                d,
                d,
                component.covariance.iter().map(|&v| f64::from(v)),
            );
            c0.view_mut((rank, rank), (d, d)).copy_from(&prior);
            let mean = &self.mean[k] * stay + &m0 * fresh;
            let (d1, d2) = (&self.mean[k] - &mean, &m0 - &mean);
            self.cov[k] =
                (&self.cov[k] + &d1 * d1.transpose()) * stay + (c0 + &d2 * d2.transpose()) * fresh;
            self.mean[k] = mean;
        }
    }

    /// One bin; `None` is missing. Returns the predictive log-likelihood.
    fn step(&mut self, counts: Option<&[f32]>, active: &[bool]) -> f64 {
        let (rank, dims) = (self.model.dims.rank, self.model.dims);
        self.mix();
        for k in 0..self.mean.len() {
            let f = self.jacobian(&self.mean[k]);
            self.mean[k] = self.advance(&self.mean[k]);
            self.cov[k] = &f * &self.cov[k] * f.transpose();
            for i in 0..rank + dims.embedding {
                self.cov[k][(i, i)] += if i < rank {
                    f64::from(self.model.network.process_variance[i])
                        * f64::from(self.model.online.process_noise)
                        + self.entered[k]
                            * f64::from(self.model.online.entry_variance)
                            * f64::from(self.model.network.initial_variance[i])
                } else {
                    f64::from(self.model.online.embedding_drift)
                };
            }
            if let Some(counts) = counts {
                self.correct(k, counts, active);
            }
        }
        let top = self.log_weight.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = top + self.log_weight.iter().map(|l| (l - top).exp()).sum::<f64>().ln();
        self.log_weight.iter_mut().for_each(|l| *l -= total);
        total
    }

    /// Fisher information and score of the counts at the predicted state.
    fn information(
        &self,
        k: usize,
        counts: &[f32],
        active: &[bool],
    ) -> (DMatrix<f64>, DVector<f64>) {
        let rank = self.model.dims.rank;
        let n = rank + self.model.dims.embedding;
        let (mut info, mut score) = (DMatrix::zeros(n, n), DVector::zeros(n));
        for (i, eta) in self.log_rates(&self.mean[k]).iter().enumerate() {
            let loading =
                |r: usize| if r < rank { f64::from(self.readout.loading[[i, r]]) } else { 0.0 };
            let row = DVector::from_iterator(n, (0..n).map(loading));
            if active[i] {
                let shrink = 1.0 / (1.0 + self.dispersion(i) * eta.exp());
                info += &row * row.transpose() * eta.exp() * shrink;
                score += &row * (f64::from(counts[i]) - eta.exp()) * shrink;
            }
        }
        (info, score)
    }

    /// One halved Newton step, and the Laplace evidence.
    fn correct(&mut self, k: usize, counts: &[f32], active: &[bool]) {
        let rank = self.model.dims.rank;
        let (info, score) = self.information(k, counts, active);
        let before = self.mean[k].clone();
        let prior_inverse = self.cov[k].clone().try_inverse().expect("invertible");
        let cov = (prior_inverse + &info).try_inverse().expect("invertible");
        let pk = self.cov[k].view((0, 0), (rank, rank)).into_owned();
        let precision = pk.clone().try_inverse().expect("invertible");
        let ik = info.view((0, 0), (rank, rank)).into_owned();
        let density = |mean: &DVector<f64>| -> f64 {
            let delta = (mean - &before).rows(0, rank).into_owned();
            let likelihood: f64 = self
                .log_rates(mean)
                .iter()
                .enumerate()
                .filter(|(i, _)| active[*i])
                .map(|(i, eta)| self.log_probability(i, counts[i].into(), eta.exp()))
                .sum();
            likelihood - 0.5 * delta.dot(&(&precision * &delta))
        };
        let (mut step, mut halved) = (&cov * score, 0);
        for _ in 0..HALVINGS {
            if density(&(&before + &step)) >= density(&before) - f64::from(STEP_LOSS_MAX) {
                break;
            }
            step *= 0.5;
            halved += 1;
        }
        let after = &before + &step;
        let density = density(&after);
        self.mean[k] = after;
        self.halved += halved;
        self.log_weight[k] +=
            density - 0.5 * (DMatrix::identity(rank, rank) + pk * ik).determinant().ln();
        self.cov[k] = cov;
    }

    fn posterior(&self) -> Vec<f64> {
        let n = self.model.regime_names.len();
        let mut out = vec![0.0; n + 1];
        for (w, c) in self.weights().iter().zip(&self.readout.prior.components) {
            out[c.regime.unwrap_or(n)] += w;
        }
        let labelled = 1.0 - out[n];
        out[..n].iter_mut().for_each(|p| *p /= labelled);
        out
    }

    fn embedding(&self) -> DVector<f64> {
        let (rank, d) = (self.model.dims.rank, self.model.dims.embedding);
        let w = self.weights();
        (0..w.len()).fold(DVector::zeros(d), |s, k| s + self.mean[k].rows(rank, d) * w[k])
    }
}

/// A small model with arbitrary but fixed numbers.
pub(crate) fn example() -> Model {
    let dims = Dimensions { embedding: 3, rank: 2, units: 10, hidden: [6, 5] };
    let wave = |n: usize, scale: f32, phase: f32| -> Array1<f32> {
        (0..n).map(|i| scale * (1.3 * i as f32 + phase).sin()).collect()
    };
    let matrix = |rows: usize, columns: usize, scale: f32, phase: f32| -> Array2<f32> {
        let values = wave(rows * columns, scale, phase);
        values.into_shape_with_order((rows, columns)).expect("as many values")
    };
    let covariance = |s: f32| arr2(&[[s, 0.1 * s, 0.0], [0.1 * s, s, 0.0], [0.0, 0.0, 0.5 * s]]);
    // Two regimes of two components and one of bins without a label.
    let components = (0..5)
        .map(|k| Component {
            regime: Some(k / 2).filter(|r| *r < 2),
            weight: [0.25, 0.25, 0.125, 0.125, 0.25][k],
            mean: wave(3, 0.8, k as f32),
            covariance: covariance(0.05 + 0.01 * k as f32),
        })
        .collect();
    let channels = 21;
    let prior = RegimePrior { components };
    Model {
        dims,
        bin_width_s: 0.01,
        regime_names: vec!["a".into(), "b".into()],
        hypernetwork: Hypernetwork {
            w1: matrix(3, 6, 0.9, 0.1),
            b1: wave(6, 0.2, 0.2),
            w2: matrix(6, 5, 0.7, 0.3),
            b2: wave(5, 0.2, 0.4),
            wn: wave(5 * 20, 0.4, 0.5).into_shape_with_order((5, 2, 10)).expect("as many values"),
            n0: matrix(2, 10, 0.3, 0.6),
            wc: matrix(5, 2, 0.3, 0.7),
        },
        network: Network {
            m: matrix(10, 2, 0.8, 0.8),
            offset: wave(10, 0.3, 0.9),
            leak: 0.2,
            process_variance: arr1(&[0.03, 0.02]),
            initial_variance: arr1(&[1.0, 0.8]),
        },
        readouts: vec![Readout {
            session: "s".into(),
            loading: matrix(channels, 2, 0.8, 1.0),
            baseline: wave(channels, 0.5, 1.1) - 1.0,
            channels: None,
            dispersion: None,
            trusted: true,
            experts: None,
            prior: prior.clone(),
        }],
        prior,
        online: OnlineSettings {
            hazard_per_bin: arr2(&[[0.001, 0.02, 0.0], [0.005, 0.0, 0.03], [0.02, 0.01, 0.002]]),
            ..OnlineSettings::new(2)
        },
    }
}

#[test]
fn bank_agrees_with_the_dense_twin_through_gaps_and_masks() {
    agrees_with_the_twin(&example());
}

#[test]
fn bank_agrees_with_the_dense_twin_on_negative_binomial_counts() {
    let mut model = example();
    let readout = &mut model.readouts[0];
    readout.dispersion = Some((0..readout.n_channels()).map(|i| 0.05 + 0.02 * i as f32).collect());
    model.online.process_noise = 2.0;
    model.online.entry_variance = 0.3;
    agrees_with_the_twin(&model);
}

#[test]
fn bank_agrees_with_the_dense_twin_over_several_blocks_and_chunks() {
    let mut model = example();
    let readout = &mut model.readouts[0];
    let channels: Vec<usize> = (0..75).map(|i| i % readout.n_channels()).collect();
    readout.loading = readout.loading.select(Axis(0), &channels) * 0.5;
    readout.baseline = readout.baseline.select(Axis(0), &channels);
    let components = readout.prior.components.clone();
    let weight = components.len() as f32 / 20.0;
    readout.prior.components = (0..20)
        .map(|k| {
            let mut component = components[k % components.len()].clone();
            component.weight *= weight;
            component.mean *= 1.0 + 0.02 * k as f32;
            component
        })
        .collect();
    agrees_with_the_twin(&model);
}

fn agrees_with_the_twin(model: &Model) {
    let readout = &model.readouts[0];
    let mut twin = Twin::new(model, readout);
    let mut bank = FilterBank::new(model, readout, Adaptation::NONE).expect("bank");
    let mut active = vec![true; readout.n_channels()];
    let mut moved = 0.0f64;
    for t in 0..200usize {
        if t == 60 {
            active[3] = false;
            active[11] = false;
            bank.set_active(active.iter().copied());
        }
        let counts: Vec<f32> = (0..readout.n_channels())
            .map(|i| ((t * 7 + i * 13 + (t * i) % 11) % 5 / 2) as f32)
            .collect();
        // Bursts, far from the expected counts.
        let burst = if matches!(t, 0 | 110) { 60.0 } else { 1.0 };
        let counts: Vec<f32> = counts.iter().map(|c| c * burst).collect();
        let missing = (100..110).contains(&t);
        let total = twin.step((!missing).then_some(&counts), &active);
        if missing {
            bank.predict()
        } else {
            bank.update(&counts)
        };
        let estimate = bank.estimate();
        for (p, q) in estimate.posterior.iter().chain([&estimate.unlabelled]).zip(twin.posterior())
        {
            assert!((f64::from(*p) - q).abs() < 2e-3, "bin {t}: posterior {p} twin {q}");
            moved = moved.max((q - 0.25).abs());
        }
        for (p, q) in estimate.embedding_mean.iter().zip(twin.embedding().iter()) {
            assert!((f64::from(*p) - q).abs() < 2e-3, "bin {t}: embedding {p} twin {q}");
        }
        if !missing {
            let n = active.iter().filter(|a| **a).count() as f64;
            let found = f64::from(estimate.log_likelihood) * n;
            assert!((found - total).abs() < 2e-3 * total.abs(), "bin {t}: {found} twin {total}");
        }
    }
    assert!(twin.halved > 5, "bursts overshoot: {}", twin.halved);
    assert!(moved > 0.3, "the recording never moved the posterior: {moved}");
    assert_eq!(bank.resets(), 0);
}

#[test]
fn missing_bins_widen_and_masked_channels_say_nothing() {
    let model = example();
    let readout = &model.readouts[0];
    let mut bank = FilterBank::new(&model, readout, Adaptation::NONE).expect("bank");
    let counts = vec![1.0; readout.n_channels()];
    for _ in 0..100 {
        bank.update(&counts);
    }
    let before = bank.estimate().embedding_sd.clone();
    for _ in 0..200 {
        bank.predict();
    }
    for (a, b) in bank.estimate().embedding_sd.iter().zip(&before) {
        assert!(a > b, "sd after 200 missing bins {a}, before {b}");
    }
    // Whatever counts a masked channel has, the estimate is the same.
    let run = |value: f32| {
        let mut bank = FilterBank::new(&model, readout, Adaptation::NONE).expect("bank");
        bank.set_active((0..readout.n_channels()).map(|i| i != 5));
        let mut counts = counts.clone();
        counts[5] = value;
        for _ in 0..50 {
            bank.update(&counts);
        }
        bank.estimate().clone()
    };
    assert_eq!(run(0.0), run(40.0));
}
