//! The weights file, `model.safetensors`: a model's arrays by name.

use std::borrow::Cow;
use std::collections::HashMap;

use ndarray::{Array, Dimension, IntoDimension};
use safetensors::tensor::{Dtype, SafeTensors};

use super::card::{Card, SessionCard};
use super::fault::{Fault, fault};
use crate::model::{
    AveragesHead, Dimensions, Experts, Hypernetwork, Model, Network, RateStates, Readout,
    RecurrentHead, values,
};

/// Arrays of the weights file by name, `f32`.
pub(super) struct Arrays(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Arrays {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let file = match SafeTensors::deserialize(bytes) {
            Ok(file) => file,
            Err(e) => return fault("content", "a safetensors file", e),
        };
        let mut arrays = HashMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                return fault(name, "F32", format!("{:?}", view.dtype()));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            if !values.iter().all(|x| x.is_finite()) {
                return fault(name, "finite values", "NaN or infinity");
            }
            arrays.insert(name, (view.shape().to_vec(), values));
        }
        Ok(Self(arrays))
    }

    fn take<D: Dimension>(
        &mut self,
        name: &str,
        shape: impl IntoDimension<Dim = D>,
    ) -> Result<Array<f32, D>, Fault> {
        let shape = shape.into_dimension();
        let expected = || format!("{:?}", shape.slice());
        let Some((found, values)) = self.0.remove(name) else {
            return fault(name, format!("an array of shape {}", expected()), "no such array");
        };
        if found != shape.slice() {
            return fault(name, format!("shape {}", expected()), format!("{found:?}"));
        }
        let array = Array::from_shape_vec(shape.clone(), values);
        array.or_else(|e| fault(name, format!("shape {}", expected()), e))
    }
}

pub(super) fn assemble(card: &Card, mut arrays: Arrays) -> Result<Model, Fault> {
    let Dimensions { embedding: d, rank, units, hidden: [h1, h2] } = card.dimensions;
    let hypernetwork = Hypernetwork {
        w1: arrays.take("hypernetwork.w1", [d, h1])?,
        b1: arrays.take("hypernetwork.b1", [h1])?,
        w2: arrays.take("hypernetwork.w2", [h1, h2])?,
        b2: arrays.take("hypernetwork.b2", [h2])?,
        wn: arrays.take("hypernetwork.wn", [h2, rank, units])?,
        n0: arrays.take("hypernetwork.n0", [rank, units])?,
        wc: arrays.take("hypernetwork.wc", [h2, rank])?,
    };
    let network = network(&mut arrays, rank, units)?;
    let readouts = readouts(card, &mut arrays)?;
    if let Some(name) = arrays.0.keys().next() {
        return fault("arrays", "only those of the model card", format!("'{name}' as well"));
    }
    Ok(Model {
        dims: card.dimensions,
        bin_width_s: card.bin_width_s,
        regime_names: card.regime_names.clone(),
        hypernetwork,
        network,
        readouts,
        prior: card.prior.clone(),
        online: card.online.clone(),
    })
}

fn network(arrays: &mut Arrays, rank: usize, units: usize) -> Result<Network, Fault> {
    let leak = arrays.take("network.leak", [1])?[0];
    let network = Network {
        m: arrays.take("network.m", [units, rank])?,
        offset: arrays.take("network.offset", [units])?,
        leak,
        process_variance: arrays.take("network.process_variance", [rank])?,
        initial_variance: arrays.take("network.initial_variance", [rank])?,
    };
    if !(leak > 0.0 && leak < 1.0) {
        return fault("network.leak", "between 0 and 1", leak);
    }
    for (name, values) in [
        ("network.process_variance", &network.process_variance),
        ("network.initial_variance", &network.initial_variance),
    ] {
        if let Some(v) = values.iter().find(|v| **v <= 0.0) {
            return fault(name, "variances above 0", v);
        }
    }
    Ok(network)
}

fn readouts(card: &Card, arrays: &mut Arrays) -> Result<Vec<Readout>, Fault> {
    let rank = card.dimensions.rank;
    let mut readouts = Vec::new();
    for (i, session) in card.sessions.iter().enumerate() {
        let n = session.n_channels;
        let dispersion = match session.negative_binomial {
            true => Some(arrays.take(&format!("readout.{i}.dispersion"), [n])?),
            false => None,
        };
        if let Some(alpha) = dispersion.iter().flatten().find(|a| **a < 0.0) {
            return fault(format!("readout.{i}.dispersion"), "values of 0 or more", alpha);
        }
        readouts.push(Readout {
            session: session.name.clone(),
            loading: arrays.take(&format!("readout.{i}.loading"), [n, rank])?,
            baseline: arrays.take(&format!("readout.{i}.baseline"), [n])?,
            channels: session.channels.clone(),
            dispersion,
            trusted: session.trusted,
            prior: session.prior.clone(),
            experts: experts(card, session, i, arrays)?,
        });
    }
    Ok(readouts)
}

fn experts(
    card: &Card,
    session: &SessionCard,
    at: usize,
    arrays: &mut Arrays,
) -> Result<Option<Experts>, Fault> {
    let Some(of) = &session.experts else { return Ok(None) };
    let (n, states, hidden) = (session.n_channels, of.state_regime.len(), of.hidden);
    let regimes = card.regime_names.len();
    let name = |array: &str| format!("experts.{at}.{array}");
    let rates = RateStates {
        rates: arrays.take(&name("rates.rates"), [states, n])?,
        transition: arrays.take(&name("rates.transition"), [states, states])?,
        regime: of.state_regime.clone(),
        power: of.power,
    };
    if let Some(rate) = rates.rates.iter().find(|r| **r <= 0.0) {
        return fault(name("rates.rates"), "rates above 0", rate);
    }
    for row in rates.transition.rows() {
        let sum: f32 = row.iter().sum();
        if row.iter().any(|p| *p < 0.0) || (sum - 1.0).abs() > 1e-3 {
            let found = format!("a sum of {sum}");
            return fault(name("rates.transition"), "rows of 0 or more with a sum of 1", found);
        }
    }
    let averages = AveragesHead {
        mean: arrays.take(&name("averages.mean"), [n])?,
        shares: arrays.take(&name("averages.shares"), [of.averages])?.to_vec(),
        weights: arrays.take(&name("averages.weights"), [of.averages, n, regimes])?,
        bias: arrays.take(&name("averages.bias"), [regimes])?,
    };
    if let Some(share) = averages.shares.iter().find(|s| !(**s > 0.0 && **s <= 1.0)) {
        return fault(name("averages.shares"), "shares above 0 and at most 1", share);
    }
    let recurrent = RecurrentHead {
        mean: arrays.take(&name("recurrent.mean"), [n])?,
        input: arrays.take(&name("recurrent.input"), [n, 3 * hidden])?,
        bias: arrays.take(&name("recurrent.bias"), [3 * hidden])?,
        recurrent: arrays.take(&name("recurrent.recurrent"), [hidden, 3 * hidden])?,
        output: arrays.take(&name("recurrent.output"), [hidden, regimes])?,
        output_bias: arrays.take(&name("recurrent.output_bias"), [regimes])?,
    };
    Ok(Some(Experts { rates, averages, recurrent }))
}

pub(super) type NamedArray<'a> = (String, Vec<usize>, Cow<'a, [f32]>);

pub(super) fn named_arrays(model: &Model) -> Vec<NamedArray<'_>> {
    let (h, n) = (&model.hypernetwork, &model.network);
    let mut arrays = vec![
        named("hypernetwork.w1", &h.w1),
        named("hypernetwork.b1", &h.b1),
        named("hypernetwork.w2", &h.w2),
        named("hypernetwork.b2", &h.b2),
        named("hypernetwork.wn", &h.wn),
        named("hypernetwork.n0", &h.n0),
        named("hypernetwork.wc", &h.wc),
        ("network.leak".into(), vec![1], Cow::Owned(vec![n.leak])),
        named("network.m", &n.m),
        named("network.offset", &n.offset),
        named("network.process_variance", &n.process_variance),
        named("network.initial_variance", &n.initial_variance),
    ];
    for (i, r) in model.readouts.iter().enumerate() {
        arrays.push(named(&format!("readout.{i}.loading"), &r.loading));
        arrays.push(named(&format!("readout.{i}.baseline"), &r.baseline));
        if let Some(alpha) = &r.dispersion {
            arrays.push(named(&format!("readout.{i}.dispersion"), alpha));
        }
        if let Some(Experts { rates, averages, recurrent: head }) = &r.experts {
            let name = |array: &str| format!("experts.{i}.{array}");
            arrays.extend([
                named(&name("rates.rates"), &rates.rates),
                named(&name("rates.transition"), &rates.transition),
                named(&name("averages.mean"), &averages.mean),
                (
                    name("averages.shares"),
                    vec![averages.shares.len()],
                    Cow::Borrowed(averages.shares.as_slice()),
                ),
                named(&name("averages.weights"), &averages.weights),
                named(&name("averages.bias"), &averages.bias),
                named(&name("recurrent.mean"), &head.mean),
                named(&name("recurrent.input"), &head.input),
                named(&name("recurrent.bias"), &head.bias),
                named(&name("recurrent.recurrent"), &head.recurrent),
                named(&name("recurrent.output"), &head.output),
                named(&name("recurrent.output_bias"), &head.output_bias),
            ]);
        }
    }
    arrays
}

fn named<'a, D: Dimension>(name: &str, array: &'a Array<f32, D>) -> NamedArray<'a> {
    (name.to_owned(), array.shape().to_vec(), Cow::Borrowed(values(array)))
}
