//! Networks as arrays by name.

use std::collections::HashMap;

use ndarray::{Array1, Array2};

use super::network::{Layer, Network, sizes};

/// Most networks of one kind.
const NETWORKS_MAX: f32 = 64.0;

/// What makes arrays none that a command wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct ArraysFault {
    expected: String,
    found: String,
}

/// Adds networks under a name, and how many they are.
pub(crate) fn networks_to(
    arrays: &mut HashMap<String, Vec<f32>>,
    name: &str,
    networks: &[Network],
) {
    arrays.insert(format!("{name}s"), vec![networks.len() as f32]);
    for (n, network) in networks.iter().enumerate() {
        for (l, layer) in network.layers.iter().enumerate() {
            let weights = layer.weights.iter().copied().collect();
            arrays.insert(format!("{name}{n}.weights{l}"), weights);
            arrays.insert(format!("{name}{n}.bias{l}"), layer.bias.to_vec());
        }
    }
}

/// The networks under a name, of so many inputs and outputs.
///
/// # Errors
/// Names the first array that is missing, or of another size.
pub(crate) fn networks_from(
    arrays: &mut HashMap<String, Vec<f32>>,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<Vec<Network>, ArraysFault> {
    let all = format!("{name}s");
    let n = take(arrays, &all, 1)?[0];
    if !(1.0..=NETWORKS_MAX).contains(&n) {
        let expected = format!("1 to {NETWORKS_MAX} in '{all}'");
        return Err(ArraysFault { expected, found: n.to_string() });
    }
    let mut networks = Vec::new();
    for n in 0..n as usize {
        let mut layers = Vec::new();
        for (l, [inputs, outputs]) in sizes(inputs, outputs).into_iter().enumerate() {
            let weights = take(arrays, &format!("{name}{n}.weights{l}"), inputs * outputs)?;
            let bias = Array1::from(take(arrays, &format!("{name}{n}.bias{l}"), outputs)?);
            let weights = Array2::from_shape_vec((inputs, outputs), weights);
            layers.extend(weights.ok().map(|weights| Layer { weights, bias }));
        }
        networks.extend(layers.try_into().ok().map(|layers| Network { layers }));
    }
    Ok(networks)
}

/// An array of so many finite values.
///
/// # Errors
/// Names an array that is missing, of another size, or holds what is not finite.
pub(crate) fn take(
    arrays: &mut HashMap<String, Vec<f32>>,
    name: &str,
    len: usize,
) -> Result<Vec<f32>, ArraysFault> {
    let expected = format!("an array '{name}' of {len} finite values");
    let Some(values) = arrays.remove(name) else {
        return Err(ArraysFault { expected, found: "no such array".into() });
    };
    if values.len() != len || !values.iter().all(|x| x.is_finite()) {
        let found = format!("{} values", values.len());
        return Err(ArraysFault { expected, found });
    }
    Ok(values)
}
