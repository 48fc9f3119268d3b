# %% [markdown]
# Record a minute of a session's decisions and events, plot and save them. Needs matplotlib:
#
#     pip install ./clients/python matplotlib
#     regimed demo &          # or your own daemon
#     python clients/python/examples/record_and_plot.py --session demo --seconds 20

# %%
import argparse
import itertools
import threading

import numpy as np

from regimed import Client, to_arrays

parser = argparse.ArgumentParser()
parser.add_argument("--endpoint", default="http://127.0.0.1:7733")
parser.add_argument("--session", default="rig")
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--out", default="decisions")
args = parser.parse_args()

# %% [markdown] Events come on a stream of their own: each once and in order, also when the daemon
# is restarted meanwhile.

# %%
daemon = Client(args.endpoint)
session = daemon.session(args.session)
events = []


def listen():
    try:
        for event in daemon.events(args.session):
            events.append(event)
            print(f"bin {event.bin}: {event.to} (p {event.probability:.2f})")
    except ValueError:
        pass  # the client is closed


threading.Thread(target=listen, daemon=True).start()

# %% [markdown]
# Every decision for so many seconds of bins, as arrays.

# %%
n = round(args.seconds / session.bin_width_s)
found = to_arrays(itertools.islice(daemon.decisions(args.session), n))
np.savez_compressed(f"{args.out}.npz", **found)
p99_us = np.percentile(found["latency_ns"], 99) / 1e3
print(f"{len(found['bin'])} decisions in {args.out}.npz, latency p99 {p99_us:.0f} us")

# %%
try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    raise SystemExit("no plot: matplotlib is not here")

time = found["bin"] * session.bin_width_s
figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 5), layout="constrained")
above.stackplot(time, found["posterior"].T, labels=found["regime_names"], alpha=0.7)
above.set(ylabel="posterior", ylim=(0, 1), title=f"{args.session}: regimes")
above.legend(loc="upper left", fontsize="small")
below.plot(time, found["spectral_radius"], lw=1)
below.axhline(1, color="tab:orange", ls="--", lw=1)
below.set(xlabel="time, s", ylabel="spectral radius")
for event in list(events):
    for axes in (above, below):
        axes.axvline(event.bin * session.bin_width_s, color="black", lw=0.6, ls=":")
figure.savefig(f"{args.out}.png", dpi=130)
print(f"the plot is {args.out}.png")
daemon.close()
