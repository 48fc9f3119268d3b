"""From nothing to a labelled live stream, as docs/quickstart.md has it: a wheel is installed into a
new environment, the rig is listened to, the daemon is started, and a label other than unknown is
waited for. The rig is the stand-in of Open Ephys' ZMQ plugin with a simulated animal that the
built-in model does not know. Every command is typed at so many characters a second.

usage: python benches/first_minutes.py WHEEL [--characters-per-s 4] [--budget-s 300]

Needs numpy and pyzmq for the stand-in, and the package registry for the wheel's requirements."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PORT = 15556


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--characters-per-s", type=float, default=4.0)
    parser.add_argument("--budget-s", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=70)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(args, Path(folder))


def measure(args, folder):
    # The machine's own Python has its environment already.
    venv.create(folder / "env", with_pip=True)
    path = f"{folder / 'env/bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    spent = []

    def typed(line, **more):
        began = time.monotonic()
        time.sleep(len(line) / args.characters_per_s)
        spent.append((f"typed: {line}", time.monotonic() - began))
        return dict(args=line, shell=True, cwd=folder, env=environment, **more)

    def timed(what, line):
        command = typed(line, capture_output=True, text=True)
        began = time.monotonic()
        done = subprocess.run(**command)
        if done.returncode:
            raise SystemExit(f"{line}: {done.stdout}{done.stderr}")
        spent.append((what, time.monotonic() - began))

    (folder / args.wheel.name).symlink_to(args.wheel.resolve())
    timed("installed", "pip install -q regimed*.whl")
    animal = ["simulate", "--out", "rig.npz", "--animals", "1", "--first-animal", str(args.seed)]
    animal += ["--switch-every", "3", "--seconds", "360", "--no-truth"]
    quiet = dict(cwd=folder, env=environment, check=True, capture_output=True)
    subprocess.run([folder / "env/bin/regimed", *animal], **quiet)
    # It plays from before the daemon is there.
    rig = subprocess.Popen(
        [sys.executable, ROOT / "tests/interop/rigs.py", "open_ephys"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for command in [
        {"do": "start", "port": PORT},
        {"do": "play", "file": os.fspath(folder / "rig.npz"), "speed": 1},
    ]:
        rig.stdin.write(json.dumps(command) + "\n")
        rig.stdin.flush()
        if command["do"] == "start":
            rig.stdout.readline()
    try:
        timed("listened", f"regimed init --rig open-ephys --at tcp://127.0.0.1:{PORT}")
        serve = typed("regimed serve --config regimed.toml", stderr=subprocess.DEVNULL)
        began = time.monotonic()
        daemon = subprocess.Popen(**serve, start_new_session=True)
        try:
            label = first_label(environment, args.budget_s)
        finally:
            os.killpg(daemon.pid, 15)
            daemon.wait()
        spent.append((f"served until the first label ({label})", time.monotonic() - began))
    finally:
        rig.kill()
    for what, seconds in spent:
        print(f"{seconds:7.1f} s  {what}")
    total = sum(seconds for _, seconds in spent)
    budget = args.budget_s
    print(f"{total:7.1f} s  in all, budget {budget:.0f} s, ratio {total / budget:.2f}")


def first_label(environment, patience_s):
    """The first label that is not unknown."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        watch = subprocess.Popen(
            ["regimed", "watch", "--json", "--events-only", "--for", f"{patience_s:.0f}s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        try:
            for line in watch.stdout:
                event = json.loads(line)["event"]
                if event["to"] != "unknown":
                    return event["to"]
        finally:
            watch.kill()
            watch.wait()
        time.sleep(0.2)
    raise SystemExit(f"no label within {patience_s} s")


main()
