//! Task embedding to low-rank factors.

use super::Dimensions;

/// `e -> tanh -> tanh -> (N(e), c(e))`, the last layer linear.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypernetwork {
    /// First layer, `[embedding, hidden0]`.
    pub w1: Vec<f32>,
    /// Its bias, `[hidden0]`.
    pub b1: Vec<f32>,
    /// Second layer, `[hidden0, hidden1]`.
    pub w2: Vec<f32>,
    /// Its bias, `[hidden1]`.
    pub b2: Vec<f32>,
    /// Output layer to `N`, `[hidden1, rank, units]`.
    pub wn: Vec<f32>,
    /// Its bias, `[rank, units]`.
    pub n0: Vec<f32>,
    /// Output layer to `c`, `[hidden1, rank]`.
    pub wc: Vec<f32>,
}

/// Low-rank factors of one embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// `N(e)` transposed, `[rank, units]`.
    pub n: Vec<f32>,
    /// `c(e)`, `[rank]`.
    pub c: Vec<f32>,
}

impl Hypernetwork {
    /// Factors of embedding `e`, `[embedding]`. Written for clarity; the filter bank has its own.
    #[must_use]
    pub fn factors(&self, dims: &Dimensions, e: &[f32]) -> Factors {
        let [h1, h2] = dims.hidden;
        let layer = |input: &[f32], weight: &[f32], bias: &[f32], width: usize| -> Vec<f32> {
            (0..width)
                .map(|j| {
                    let sum: f32 =
                        input.iter().enumerate().map(|(i, x)| x * weight[i * width + j]).sum();
                    (sum + bias[j]).tanh()
                })
                .collect()
        };
        let first = layer(e, &self.w1, &self.b1, h1);
        let second = layer(&first, &self.w2, &self.b2, h2);
        let mut n = self.n0.clone();
        let mut c = vec![0.0; dims.rank];
        for (b, &h) in second.iter().enumerate() {
            let row = &self.wn[b * n.len()..(b + 1) * n.len()];
            n.iter_mut().zip(row).for_each(|(n, w)| *n += h * w);
            let row = &self.wc[b * dims.rank..(b + 1) * dims.rank];
            c.iter_mut().zip(row).for_each(|(c, w)| *c += h * w);
        }
        Factors { n, c }
    }
}
