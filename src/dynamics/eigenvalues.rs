//! Eigenvalues of small real matrices, in bounded time.

use nalgebra::{Complex, DMatrix, Schur};

/// Precisions that are tried in turn, relative to the matrix: the QR iteration of some matrices
/// never reaches the first.
const PRECISIONS: [f64; 3] = [1e-14, 1e-11, 1e-8];
/// Iterations for each.
const ITERATIONS_MAX: usize = 1000;

/// All eigenvalues; `None` where the matrix is not finite or the iteration does not end.
pub(crate) fn eigenvalues(matrix: &DMatrix<f64>) -> Option<Vec<Complex<f64>>> {
    if !matrix.iter().all(|x| x.is_finite()) {
        return None;
    }
    let schur = PRECISIONS
        .iter()
        .find_map(|&precision| Schur::try_new(matrix.clone(), precision, ITERATIONS_MAX))?;
    let values: Vec<Complex<f64>> = schur.complex_eigenvalues().iter().copied().collect();
    values.iter().all(|v| v.re.is_finite() && v.im.is_finite()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companion_matrix_has_its_roots_and_nonsense_has_none() {
        // (x - 2)(x^2 - 2 x + 5) = x^3 - 4 x^2 + 9 x - 10
        let companion =
            DMatrix::from_row_slice(3, 3, &[4.0, -9.0, 10.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let mut found = eigenvalues(&companion).expect("finite");
        found.sort_by(|a, b| a.re.total_cmp(&b.re).then(a.im.total_cmp(&b.im)));
        for (value, (re, im)) in found.iter().zip([(1.0, -2.0), (1.0, 2.0), (2.0, 0.0)]) {
            assert!((value.re - re).abs() < 1e-9 && (value.im - im).abs() < 1e-9, "{found:?}");
        }
        assert_eq!(eigenvalues(&DMatrix::from_element(2, 2, f64::NAN)), None);
        let zeros = eigenvalues(&DMatrix::zeros(4, 4)).expect("finite");
        assert!(zeros.iter().all(|v| v.re == 0.0 && v.im == 0.0));
    }
}
