//! What several rooms draw.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Evenly between two logarithms.
pub(super) fn log_uniform([low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> f64 {
    rng.random_range(low.ln()..high.ln()).exp()
}

/// Draws the first `first` places of a random order.
pub(super) fn shuffle<T>(list: &mut [T], first: usize, rng: &mut ChaCha8Rng) {
    for i in 0..first {
        let j = rng.random_range(i..list.len());
        list.swap(i, j);
    }
}

/// The numbers below `n` in random order.
pub(super) fn permuted(n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    shuffle(&mut all, n, rng);
    all
}

/// Gram and Schmidt's orthonormal rows from rows that are independent.
pub(super) fn orthonormal<R: AsRef<[f64]> + AsMut<[f64]>>(mut rows: Vec<R>) -> Vec<R> {
    for i in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(i);
        let row = rest[0].as_mut();
        for other in before {
            let dot: f64 = row.iter().zip(other.as_ref()).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(other.as_ref()).for_each(|(a, b)| *a -= dot * b);
        }
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    rows
}
