"""Recordings as numpy writes them, of every dtype and layout; and whether numpy reads ours."""

import sys
from pathlib import Path

import numpy as np

what, folder = sys.argv[1], Path(sys.argv[2])
counts = (np.arange(4 * 6 * 5) * 7 % 11).reshape(4, 6, 5)
labels = dict(
    bin_width_s=0.02,
    regime=np.array([0, 0, -1, 1]),
    regime_names=np.array(["ruhig", "größer"]),
    session=np.array([3, 3, 4, 4]),
)
if what == "write":
    for dtype in ["i1", "u1", "<i2", ">i2", "<u4", "i8", ">u8", "f2", "<f4", ">f8"]:
        np.savez(
            folder / f"{dtype.strip('<>')}-{dtype[0] == '>'}.npz",
            counts=counts.astype(dtype),
            **labels,
        )
    np.savez_compressed(folder / "compressed.npz", counts=counts.astype("u1"), **labels)
    np.savez(folder / "fortran.npz", counts=np.asfortranarray(counts.astype("i2")), **labels)
    np.savez(
        folder / "bytes.npz",
        counts=counts,
        **{**labels, "regime_names": np.array(["ruhig", "größer"], dtype="U9")},
    )
else:
    for path in sorted(folder.glob("*.npz")):
        d = np.load(path)
        assert (d["counts"] == counts).all(), path
        assert d["regime_names"].tolist() == ["ruhig", "größer"], path
        assert d["regime"].reshape(4, 6)[:, 0].tolist() == [0, 0, -1, 1], path
        assert float(d["bin_width_s"]) == 0.02 and d["session"].tolist() == ["3", "3", "4", "4"], (
            path
        )
print("ok")
