"""A lab's day on real parts: a rig is heard, a model learned, everything checked, the daemon runs,
somebody takes notes, a trigger acts, and in the evening there is a figure.

usage: lab_day.py FOLDER PORT, with the binary in REGIMED_BINARY. PORT and the next one are free."""

import atexit
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib
import numpy as np
import pynwb
import regimed
from rigs import OpenEphys

matplotlib.use("Agg")
folder, port = Path(sys.argv[1]), int(sys.argv[2])
os.chdir(folder)
BINARY = os.environ["REGIMED_BINARY"]
CHANNELS, BIN_S = 24, 0.01
NAMES = [f"Electrode {i + 1}" for i in range(CHANNELS)]
rng = np.random.default_rng(5)
phases = rng.uniform(0, 2 * np.pi, CHANNELS)


def recording(session, seconds):
    """At rest rates are even, in a reach they turn twice a second; two seconds each."""
    bins = round(seconds / BIN_S)
    reach = np.arange(bins) // 200 % 2 == 1
    angle = 2 * np.pi * 2 * np.arange(bins)[:, None] * BIN_S + phases
    rates = 0.25 * np.where(reach[:, None], 1 + 0.9 * np.cos(angle), 1.0)
    return regimed.Recording(
        counts=rng.poisson(rates),
        bin_width_s=BIN_S,
        regime=np.where(reach, "reach", "rest"),
        channels=NAMES,
        session=session,
    )


def command(*args, fails=False):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, (args, done.stdout, done.stderr)
    return done.stdout + done.stderr


class Rig:
    """An Open Ephys GUI that plays a recording."""

    def __init__(self, file, bins):
        self.gui = OpenEphys()
        self.gui.start(port)
        self.thread = threading.Thread(target=self.play, args=(file, bins), daemon=True)
        self.thread.start()

    def play(self, file, bins):
        self.gui.wait_daemon()
        self.gui.play(str(file), bins=bins, speed=1.0)

    def end(self):
        self.thread.join()
        self.gui.stop()


# Yesterday's recording, and what was learned of it.
model = regimed.pretrain(recording("monday", 120), "model", steps=60, progress=False)
assert model.sessions == {"monday": CHANNELS}
today = recording("tuesday", 30).save(folder / "today.npz")

# The rig is heard: its channels are those of the model, by their names.
rig = Rig(today, 800)
command(
    *("init", "--rig", "open-ephys", "--at", f"tcp://127.0.0.1:{port}", "--model", "model"),
    *("--for", "3s", "--journal", folder / "journal", "--session", "rig"),
)
rig.end()
text = (folder / "regimed.toml").read_text()
assert '\nreadout = "monday"\n' in text and "sample_rate_hz = 30000" in text, text
for usual in (7733, 7734, 7735, 9464):
    text = text.replace(f"127.0.0.1:{usual}", "127.0.0.1:0")
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("127.0.0.1", 0))
heard.settimeout(20)
(folder / "token").write_text("a-token-of-the-lab-0123")
text = text.replace("[journal]\n", "[journal]\ndecisions_every = 1\n")
text += f"""
[[session.trigger]]
name = "reward"
when = "begin"
regime = "reach"
[session.trigger.udp]
address = "127.0.0.1:{heard.getsockname()[1]}"

[[token]]
file = "token"
roles = ["read", "ingest", "control"]
"""
(folder / "regimed.toml").write_text(text)

# Everything is in place, and without the rig it is not.
rig = Rig(today, 1000)
found = command("doctor", "--config", "regimed.toml", "--for", "4s")
rig.end()
assert " 0 failures" in found and "rig channels" in found, found
found = command("doctor", "--config", "regimed.toml", "--for", "1s", fails=True)
assert "FAIL  rig rig" in found and "start the rig" in found, found

# It runs; a note is taken; the trigger acts once it is armed.
daemon = subprocess.Popen(
    [BINARY, "serve", "--config", "regimed.toml"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
)
atexit.register(daemon.kill)
for line in daemon.stderr:
    if " ready " in line:
        grpc = re.search(r'grpc="([^"]+)"', line)[1]
        break
threading.Thread(target=daemon.stderr.read, daemon=True).start()
with regimed.Client(f"http://{grpc}", token_file="token") as client:
    session = client.session("rig")
    assert [t.name for t in session.triggers] == ["reward"] and not session.triggers_armed
    assert client.arm_triggers("rig").triggers_armed
    rig = Rig(today, 3000)
    end = time.monotonic() + 60
    while client.session("rig").bins < 600:
        assert time.monotonic() < end, "no bins"
        time.sleep(0.05)
    note = client.annotate("rig", "juice", "experimenter")
    assert note.bin >= 590 and client.annotations("rig")[0].text == "juice"
    rig.end()
    acted = client.session("rig").triggers[0].count
    assert acted >= 3, acted
said = [heard.recv(1500) for _ in range(acted)]
assert all(b'"trigger":"reward"' in s for s in said), said
daemon.send_signal(signal.SIGTERM)
assert daemon.wait(20) == 0

# In the evening.
regimed.export("journal", out="day.npz", nwb="day.nwb")
with pynwb.NWBHDF5IO("day.nwb", "r") as io:
    file = io.read()
    regimes = file.intervals["regimes"].to_dataframe()
    assert {"rest", "reach"} <= set(regimes["regime"]), regimes
    assert (regimes["stop_time"] >= regimes["start_time"]).all()
    triggers = file.intervals["triggers"].to_dataframe()
    assert list(triggers["outcome"]).count("sent") == acted
    assert list(file.acquisition["annotations"].data) == ["juice"]
    of = file.processing["regimed"]
    assert of["posterior"].data.shape[1] == 2 and of["spectral_radius"].data.shape[1] == 3
assert pynwb.validate(path="day.nwb") == []
data = regimed.to_xarray(regimed.load_decisions("day.npz"))
reach = data["posterior"].sel(regime_name="reach").where(data["time"] > 20, drop=True)
assert 0.2 < float(reach.mean()) < 0.8
assert list(data["annotation_text"].values) == ["juice"] and data.sizes["trigger"] >= acted
assert np.isfinite(data["spectral_radius_low"]).any() and data["map_eigenvalues"].ndim == 2
regimed.plot(data).savefig("day.png")
assert (folder / "day.png").stat().st_size > 10_000
