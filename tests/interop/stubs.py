"""Python classes from proto/, compiled on the spot."""

import sys, tempfile
from pathlib import Path

import grpc_tools.protoc
import numpy as np


def load(proto):
    out = tempfile.mkdtemp()
    files = [str(p) for p in sorted(Path(proto).rglob("*.proto"))]
    args = ["protoc", f"-I{proto}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    assert grpc_tools.protoc.main(args) == 0, "protoc failed"
    sys.path.insert(0, out)


def spikes(n_bins, n_channels=96, seed=0):
    return np.random.default_rng(seed).poisson(0.16, (n_bins, n_channels))
