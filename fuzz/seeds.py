"""Makes the good examples in fuzz/seeds from which fuzzing begins: python fuzz/seeds.py

Needs numpy, h5py and grpcio-tools (tests/interop/requirements.txt brings them along).
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
SEEDS = ROOT / "fuzz" / "seeds"


def seed(decoder: str, name: str, data: bytes) -> None:
    folder = SEEDS / decoder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def messages():
    out = tempfile.mkdtemp()
    protos = sorted(
        str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto/regimed/v1").glob("*.proto")
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT / 'proto'}",
            f"--python_out={out}",
            *protos,
        ],
        check=True,
    )
    sys.path.insert(0, out)
    from regimed.v1 import counts_pb2, decisions_pb2, journal_pb2

    return counts_pb2, decisions_pb2, journal_pb2


def parts(*fields: bytes) -> bytes:
    return b"".join(bytes([len(f)]) + f for f in fields)


def frame(number: int, payload: bytes) -> bytes:
    checked = struct.pack("<IQ", len(payload), number)
    return b"RGJ1" + checked + struct.pack("<I", zlib.crc32(checked + payload)) + payload


def main() -> None:
    counts_pb2, decisions_pb2, journal_pb2 = messages()
    counts = counts_pb2.Counts(
        session="rig", sequence=5, n_channels=4, bin_width_s=0.01, counts=[0, 1, 2, 3] * 3
    )
    seed("counts", "whole", counts.SerializeToString())
    counts.channels.extend([2, 0])
    counts.publisher = "a"
    del counts.counts[2:]
    counts.n_channels = 2
    seed("counts", "part", counts.SerializeToString())
    spikes = counts_pb2.Spikes(
        session="rig",
        message_number=1,
        time_ns=[10_000_000, 12_000_000, 31_000_000],
        channel=[0, 3, 1],
    )
    seed("spikes", "three", spikes.SerializeToString())
    greeting = bytes([0xFF] + [0] * 8 + [0x7F, 3] + [0] * 53)
    seed("zeromq", "connection", greeting + bytes([4, 3, 1, 2, 3, 0, 2, 9, 9]))
    seed("zeromq", "message", parts(b"topic", counts.SerializeToString()))

    def header(kind: str, number: int, **content) -> bytes:
        key = "spike" if kind == "spike" else "content"
        text = json.dumps({"message_num": number, "type": kind, key: content})
        return text.encode() + b"\0"

    spike = dict(
        stream="s",
        source_node=1,
        electrode="E1",
        sample_num=3000,
        num_channels=1,
        num_samples=2,
        sorted_id=1,
    )
    data = dict(
        stream="s",
        channel_num=1,
        channel_name="E1",
        num_samples=4,
        sample_num=3000,
        sample_rate=30000,
    )
    event = dict(stream="s", source_node=1, type=3, sample_num=3600)
    between = b"\xff" * 4
    seed("open_ephys", "spike", header("spike", 1, **spike) + struct.pack("<2f", -50, 3))
    seed("open_ephys", "data", header("data", 1, **data) + struct.pack("<4f", 0, -90, 4, 1))
    seed("open_ephys", "ttl", header("event", 1, **event) + struct.pack("<BBQ", 1, 1, 2))
    seed(
        "open_ephys",
        "several",
        between.join(
            [
                header("data", 1, **data) + struct.pack("<4f", 0, -90, 4, 1),
                header("spike", 2, **spike) + struct.pack("<2f", -50, 3),
                header("event", 4, **event) + struct.pack("<BBQ", 1, 1, 2),
            ]
        ),
    )
    entry = [bytes([0, 1, 2, 3]), struct.pack("<Q", 1), struct.pack("<Q", 10_000_000), b'{"i": 1}']
    seed("brand", "int8", bytes([0]) + parts(*entry, *entry))
    floats = [struct.pack("<4f", 0, 1, 2, 3), b"17", b"10000000", b"{}"]
    seed("brand", "float32", bytes([7]) + parts(*floats))
    seed("blackrock", "v4", bytes([0]) + parts(struct.pack("<QHHHH", 10_000_000, 2, 1, 0, 0) * 3))
    seed("blackrock", "v3", bytes([1]) + parts(struct.pack("<IHBB", 10_000_000, 2, 1, 0) * 3))
    spike = struct.pack("<I5sIB", 0x3AE2710F, b"A-000", 3000, 1)
    seed("intan", "two", spike * 2)

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "a.npz"
        common = dict(
            bin_width_s=0.01,
            regime=np.array([[0, 0, 1], [-1, 1, 1]]),
            regime_names=np.array(["a", "b"]),
        )
        np.savez(
            file,
            counts=np.arange(12, dtype=np.uint8).reshape(2, 3, 2),
            task=np.array([3, 4]),
            **common,
        )
        seed("npz", "trials", file.read_bytes())
        np.savez_compressed(
            file,
            counts=np.ones((6, 2), np.float32),
            bin_width_s=0.02,
            trial_start=np.array([0, 2]),
            session=np.array(["x", "y"]),
        )
        seed("npz", "concatenated", file.read_bytes())
        np.save(
            pathlib.Path(folder) / "a.npy",
            np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        )
        seed("npz", "array", (pathlib.Path(folder) / "a.npy").read_bytes())
        nwb = pathlib.Path(folder) / "a.nwb"
        with h5py.File(nwb, "w", libver="earliest") as f:
            f["units/spike_times"] = np.array([0.1, 0.2, 0.15])
            f["units/spike_times_index"] = np.array([2, 3], np.uint64)
            f["intervals/trials/start_time"] = np.array([0.0, 0.1])
            f["intervals/trials/stop_time"] = np.array([0.1, 0.2])
            f["intervals/trials/condition"] = np.array(["go", "stop"], dtype=h5py.string_dtype())
            f["intervals/trials/target"] = np.array([1, 2], np.int32)
            f["general/session_id"] = "day 1"
        seed("nwb", "old_layout", nwb.read_bytes())
        with h5py.File(nwb, "w", libver="latest") as f:
            f.create_dataset(
                "units/spike_times",
                data=np.array([0.1, 0.2, 0.15]),
                chunks=(2,),
                compression="gzip",
                shuffle=True,
            )
            f["units/spike_times_index"] = np.array([2, 3], np.uint8)
            f["intervals/trials/start_time"] = np.array([0.0, 0.1])
            f["intervals/trials/stop_time"] = np.array([0.1, 0.2])
            f["intervals/trials/condition"] = np.array([True, False])
            f["intervals/trials/target"] = np.array([1.5, 2])
        seed("nwb", "new_layout", nwb.read_bytes())
        # Spike times in another file, and a link to another file: neither is followed.
        with h5py.File(nwb, "w", libver="earliest") as f:
            f.create_dataset("units/spike_times", (3,), "<f8", external=[("secret.bin", 0, 24)])
            f["units/spike_times_index"] = np.array([2, 3], np.uint64)
        seed("nwb", "external", nwb.read_bytes())
        with h5py.File(nwb, "w", libver="earliest") as f:
            f["units/spike_times"] = h5py.ExternalLink("secret.nwb", "/units/spike_times")
            f["units/spike_times_index"] = np.array([2, 3], np.uint64)
        seed("nwb", "linked", nwb.read_bytes())

    for example in sorted((ROOT / "deploy/examples").glob("*.toml")) + [
        ROOT / "deploy/regimed.toml"
    ]:
        seed("config", example.stem, example.read_bytes())

    event = decisions_pb2.Event(
        session="rig", event_sequence=1, to="limit_cycle", bin=30, probability=0.9
    )
    records = [
        journal_pb2.JournalRecord(session="rig", event=event),
        journal_pb2.JournalRecord(gap=journal_pb2.Gap(bins=3, first_sequence=1, last_sequence=3)),
        journal_pb2.JournalRecord(fault=journal_pb2.Fault(condition="falling_behind", detail="x")),
    ]
    first = b"RGMDJRN1" + struct.pack("<Q", 1)
    first += struct.pack("<II", zlib.crc32(first), 0)
    frames = b"".join(frame(i + 1, r.SerializeToString()) for i, r in enumerate(records))
    seed("journal", "file", first + frames)
    seed("journal", "frames", frames)
    # fingerprint, time, sequence and words of a saved state, as protobuf.
    state = b"\x0a\x02ab\x10\x05\x18\x06\x22\x08" + struct.pack("<2I", 7, 0x7FC00000)
    seed("state", "body", state)
    seed("state", "file", b"RGMDSTA1" + struct.pack("<I", zlib.crc32(state)) + state)

    model()


def model() -> None:
    """A model of the least sizes, in the format of docs/model-format.md."""
    d, rank, units, h1, h2, channels = 1, 2, 2, 1, 2, 3
    shapes = {
        "hypernetwork.w1": (d, h1),
        "hypernetwork.b1": (h1,),
        "hypernetwork.w2": (h1, h2),
        "hypernetwork.b2": (h2,),
        "hypernetwork.wn": (h2, rank, units),
        "hypernetwork.n0": (rank, units),
        "hypernetwork.wc": (h2, rank),
        "network.leak": (1,),
        "network.m": (units, rank),
        "network.offset": (units,),
        "network.process_variance": (rank,),
        "network.initial_variance": (rank,),
        "readout.0.loading": (channels, rank),
        "readout.0.baseline": (channels,),
        "readout.0.dispersion": (channels,),
    }
    arrays, data = {}, b""
    for name, shape in shapes.items():
        values = np.full(shape, 0.25, "<f4").tobytes()
        arrays[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    head = json.dumps(arrays).encode()
    prior = {
        "components": [
            {"regime": 0, "weight": 0.5, "mean": [0.0], "covariance": [1.0]},
            {"regime": None, "weight": 0.5, "mean": [1.0], "covariance": [1.0]},
        ]
    }
    online = {
        "hazard_per_bin": [0, 0.01, 0.01, 0],
        "process_noise": 1.0,
        "embedding_drift": 1e-4,
        "temperature": 1.0,
        "novelty_limits": {"innovation_runs": 3.0, "embedding_distance": 10.0},
        "operating_points": [
            {"probability_min": 0.5, "false_changes_per_min": 2.0, "median_delay_s": 0.1}
        ],
        "log_rate_bounds": [-8.0, 4.0],
        "fresh_share_min": 0.0,
    }
    provenance = {
        "regimed_version": "",
        "git_commit": "",
        "seed": 0,
        "steps": 0,
        "data": [],
        "held_out": None,
        "held_out_by_session": [],
    }
    card = {
        "format": "regimed-model",
        "format_version": 2,
        "dimensions": {"embedding": d, "rank": rank, "units": units, "hidden": [h1, h2]},
        "bin_width_s": 0.01,
        "regime_names": ["a"],
        "online": online,
        "prior": prior,
        "provenance": provenance,
        "sessions": [
            {"name": "0", "n_channels": channels, "negative_binomial": True, "prior": prior}
        ],
        "weights_sha256": "",
    }
    seed(
        "model",
        "least",
        json.dumps(card).encode() + b"\0" + struct.pack("<Q", len(head)) + head + data,
    )


if __name__ == "__main__":
    main()
