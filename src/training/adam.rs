//! Adam (Kingma & Ba 2015) with global-norm clipping, on plain arrays so that its state is a file.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// One parameter and its moments.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) var: Var,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Parameter {
    pub(crate) fn new(name: &'static str, var: Var) -> Self {
        let n = var.as_tensor().elem_count();
        Self { name, var, first: vec![0.0; n], second: vec![0.0; n] }
    }

    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        self.var.as_tensor().flatten_all()?.to_vec1()
    }

    pub(crate) fn set(&self, values: Vec<f32>) -> Result<()> {
        let tensor = self.var.as_tensor();
        self.var.set(&Tensor::from_vec(values, tensor.shape(), tensor.device())?)
    }
}

/// One update. `step` counts from 0. Returns the gradient's norm before clipping; a gradient that
/// is not finite changes nothing.
pub(crate) fn update(
    parameters: &mut [Parameter],
    gradients: &GradStore,
    learning_rate: f64,
    clip_norm: f64,
    step: usize,
) -> Result<f64> {
    let mut collected = Vec::with_capacity(parameters.len());
    let mut squared = 0.0f64;
    for p in parameters.iter() {
        let g = match gradients.get(p.var.as_tensor()) {
            Some(g) => g.flatten_all()?.to_vec1::<f32>()?,
            None => vec![0.0; p.first.len()],
        };
        squared += g.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        collected.push(g);
    }
    let norm = squared.sqrt();
    if !norm.is_finite() {
        return Ok(norm);
    }
    let scale = (clip_norm / norm.max(1e-12)).min(1.0);
    let t = (step + 1) as f64;
    let rate = learning_rate * (1.0 - BETA2.powf(t)).sqrt() / (1.0 - BETA1.powf(t));
    for (p, g) in parameters.iter_mut().zip(collected) {
        let mut values = p.values()?;
        for (i, g) in g.into_iter().enumerate() {
            let g = f64::from(g) * scale;
            let first = BETA1 * f64::from(p.first[i]) + (1.0 - BETA1) * g;
            let second = BETA2 * f64::from(p.second[i]) + (1.0 - BETA2) * g * g;
            p.first[i] = first as f32;
            p.second[i] = second as f32;
            values[i] -= (rate * first / (second.sqrt() + EPSILON)) as f32;
        }
        p.set(values)?;
    }
    Ok(norm)
}
