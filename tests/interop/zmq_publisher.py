"""A rig that publishes (pyzmq PUB): the daemon connects to it."""

import sys, time, urllib.request

import stubs
import zmq

stubs.load(sys.argv[2])
from regimed.v1 import counts_pb2

context = zmq.Context()
pub = context.socket(zmq.PUB)
pub.bind(sys.argv[1])


def taken():
    text = urllib.request.urlopen(f"http://{sys.argv[3]}/metrics", timeout=5).read().decode()
    return sum(
        float(l.split()[-1]) for l in text.splitlines() if l.startswith("regimed_bins_total")
    )


end = time.time() + 20
sequence = 0
while time.time() < end and taken() < 100:
    for row in stubs.spikes(20, seed=sequence):
        message = counts_pb2.Counts(
            session="rig", sequence=sequence, n_channels=96, bin_width_s=0.01, counts=row.tolist()
        )
        pub.send_multipart([b"counts", message.SerializeToString()])
        sequence += 1
    time.sleep(0.05)
assert taken() >= 100, taken()
print("ok", sequence, "sent")
context.destroy(linger=0)
