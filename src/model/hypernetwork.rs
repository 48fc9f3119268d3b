//! Task embedding to low-rank factors.

use ndarray::{Array1, Array2, Array3};

use super::values;

/// `e -> tanh -> tanh -> (N(e), c(e))`, the last layer linear.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypernetwork {
    /// First layer, `[embedding, hidden0]`.
    pub w1: Array2<f32>,
    /// Its bias, `[hidden0]`.
    pub b1: Array1<f32>,
    /// Second layer, `[hidden0, hidden1]`.
    pub w2: Array2<f32>,
    /// Its bias, `[hidden1]`.
    pub b2: Array1<f32>,
    /// Output layer to `N`, `[hidden1, rank, units]`.
    pub wn: Array3<f32>,
    /// Its bias, `[rank, units]`.
    pub n0: Array2<f32>,
    /// Output layer to `c`, `[hidden1, rank]`.
    pub wc: Array2<f32>,
}

/// Low-rank factors of one embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// `N(e)` transposed, `[rank, units]`.
    pub n: Array2<f32>,
    /// `c(e)`, `[rank]`.
    pub c: Array1<f32>,
}

impl Hypernetwork {
    /// Factors of embedding `e`, `[embedding]`. Written for clarity; the filter bank has its own.
    #[must_use]
    pub fn factors(&self, e: &[f32]) -> Factors {
        let first = layer(e, &self.w1, &self.b1);
        let second = layer(values(&first), &self.w2, &self.b2);
        let (mut n, mut c) = (self.n0.clone(), Array1::zeros(self.wc.ncols()));
        for ((&h, wn), wc) in second.iter().zip(self.wn.outer_iter()).zip(self.wc.rows()) {
            n.scaled_add(h, &wn);
            c.scaled_add(h, &wc);
        }
        Factors { n, c }
    }
}

/// `tanh(input W + b)`.
fn layer(input: &[f32], weight: &Array2<f32>, bias: &Array1<f32>) -> Array1<f32> {
    let mut sum = Array1::zeros(bias.len());
    for (&x, row) in input.iter().zip(weight.rows()) {
        sum.scaled_add(x, &row);
    }
    (sum + bias).mapv_into(f32::tanh)
}
