"""Makes the golden files: a model trained by the JAX prototype, recordings, and the prototype's
posterior.

    pip install jax numpy scikit-learn safetensors
    python make.py PROTOTYPE_FOLDER MODEL.pkl RECORDING.npz

PROTOTYPE_FOLDER holds the prototype's model.py and bank.py, MODEL.pkl what its model.py wrote.
Writes model/model.json, model/model.safetensors, recording.npz and posterior.npz beside itself.
"""

import hashlib, json, os, pickle, sys

sys.path.insert(0, sys.argv[1])
import jax, jax.numpy as jnp, numpy as np
from safetensors.numpy import save
import bank
from model import D, H, N, R

here = os.path.dirname(os.path.abspath(__file__))
params, label = pickle.load(open(sys.argv[2], "rb"))
prior = bank.regime_prior(np.asarray(params["E"]), label)
run = bank.make(jax.tree.map(jnp.asarray, params), prior)
d = np.load(sys.argv[3])
keep = d["session"] == 0
counts, regime, names = d["counts"][keep], d["regime"][keep], [str(n) for n in d["regime_names"]]
pick = np.array([np.flatnonzero(regime == k)[7] for k in range(len(names))])
counts, regime = counts[pick], regime[pick]
posterior, embedding = map(np.asarray, jax.vmap(run)(jnp.array(counts.astype(np.float32))))
np.savez_compressed(
    f"{here}/recording.npz",
    counts=counts.astype(np.uint8),
    bin_width_s=d["bin_width_s"],
    session=np.array(["0"] * len(pick)),
    regime=regime.astype(np.int64),
    regime_names=np.array(names),
)
np.savez_compressed(
    f"{here}/posterior.npz",
    posterior=posterior.astype(np.float32),
    embedding=embedding.astype(np.float32),
)

f = lambda x: np.ascontiguousarray(np.asarray(x, np.float32))
gain = 4.0  # the prototype's drive is 4 N^T tanh
arrays = {
    "hypernetwork.w1": f(params["W1"]),
    "hypernetwork.b1": f(params["b1"]),
    "hypernetwork.w2": f(params["W2"]),
    "hypernetwork.b2": f(params["b2"]),
    "hypernetwork.wn": f(gain * params["WN"].reshape(H, N, R).transpose(0, 2, 1)),
    "hypernetwork.n0": f(gain * params["N0"].T),
    "hypernetwork.wc": f(params["Wc"]),
    "network.leak": f([1 / (1 + np.exp(-params["logit_a"]))]),
    "network.m": f(params["M"]),
    "network.offset": f(params["bx"]),
    "network.process_variance": f(np.exp(params["logq"])),
    "network.initial_variance": f(np.exp(params["logP0"])),
    "readout.0.loading": f(params["C"]),
    "readout.0.baseline": f(params["b"]),
}
weights = save(arrays)
mean, cov, of = map(np.asarray, prior)
components = [
    dict(regime=int(k), weight=1 / len(of), mean=m.tolist(), covariance=c.ravel().tolist())
    for m, c, k in zip(mean.astype(float), cov.astype(float), of)
]
hazard = ([bank.HAZARD / len(names)] * len(names) + [0.0]) * (
    len(names) + 1
)  # the last: bins without a label
card = dict(
    format="regimed-model",
    format_version=2,
    dimensions=dict(embedding=D, rank=R, units=N, hidden=[H, H]),
    bin_width_s=float(d["bin_width_s"]),
    regime_names=names,
    online=dict(
        hazard_per_bin=hazard,
        process_noise=1.0,
        fresh_share_min=0.0,
        embedding_drift=bank.Q_E,
        temperature=1.0,
        novelty_limits=dict(innovation_runs=3.0, embedding_distance=10.0),
        operating_points=[],
        log_rate_bounds=[-8.0, 2.5],
    ),
    sessions=[
        dict(
            name="0",
            n_channels=int(params["C"].shape[0]),
            negative_binomial=False,
            prior=dict(components=components),
        )
    ],
    prior=dict(components=components),
    provenance=dict(
        regimed_version="",
        git_commit="",
        seed=0,
        steps=0,
        data=[],
        held_out=None,
        held_out_by_session=[],
    ),
    weights_sha256=hashlib.sha256(weights).hexdigest(),
)
os.makedirs(f"{here}/model", exist_ok=True)
open(f"{here}/model/model.safetensors", "wb").write(weights)
json.dump(card, open(f"{here}/model/model.json", "w"), indent=1)
print(
    "posterior of the truth in the last bin:",
    posterior[np.arange(len(regime)), -1, regime].round(3),
)
