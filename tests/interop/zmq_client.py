"""A rig and a subscriber in pyzmq (libzmq): PUSH counts, SUB decisions; garbage once."""

import sys, time

import stubs
import zmq

stubs.load(sys.argv[3])
from regimed.v1 import counts_pb2, decisions_pb2

context = zmq.Context()
push, sub = context.socket(zmq.PUSH), context.socket(zmq.SUB)
push.connect(sys.argv[1])
sub.setsockopt(zmq.SUBSCRIBE, b"rig/decision")
sub.setsockopt(zmq.SUBSCRIBE, b"rig/event")
sub.setsockopt(zmq.RCVTIMEO, 10_000)
sub.connect(sys.argv[2])
rows = stubs.spikes(1000)


def send(sequence):
    row = rows[sequence % len(rows)]
    message = counts_pb2.Counts(
        session="rig", sequence=sequence, n_channels=96, bin_width_s=0.01, counts=row.tolist()
    )
    push.send(message.SerializeToString())


# Until the subscription has arrived at the publisher, decisions pass by.
sequence = 0
while not sub.poll(50):
    send(sequence)
    sequence += 1
    assert sequence < 200, "nothing comes out"
push.send(b"\xff\xff garbage")
push.send_multipart(
    [
        b"any topic",
        counts_pb2.Counts(
            session="rig", sequence=sequence, n_channels=96, bin_width_s=0.01, counts=[0] * 96
        ).SerializeToString(),
    ]
)
sequence += 1
last = sequence + 299
for s in range(sequence, last + 1):
    send(s)
    time.sleep(0.0005)
newest, decisions = -1, 0
while newest < last:
    topic, payload = sub.recv_multipart()
    if topic == b"rig/decision":
        decision = decisions_pb2.Decision.FromString(payload)
        assert decision.sequence > newest and abs(sum(decision.posterior) - 1) < 1e-4
        newest, decisions = decision.sequence, decisions + 1
    else:
        assert topic == b"rig/event", topic
        assert decisions_pb2.Event.FromString(payload).session == "rig"
assert decisions > 300, decisions
print("ok", decisions, "decisions")
context.destroy(linger=0)
