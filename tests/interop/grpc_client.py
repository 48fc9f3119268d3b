"""A rig and a subscriber in grpcio: 600 bins in, their decisions and events out, refusals, health,
reflection."""

import sys, threading

import grpc
import stubs

stubs.load(sys.argv[2])
from regimed.v1 import counts_pb2, ingest_pb2_grpc, regimes_pb2, regimes_pb2_grpc

channel = grpc.insecure_channel(sys.argv[1])
grpc.channel_ready_future(channel).result(timeout=10)
ingest, regimes = ingest_pb2_grpc.IngestStub(channel), regimes_pb2_grpc.RegimesStub(channel)


def counts(sequence, row, **more):
    return counts_pb2.Counts(
        session="rig",
        sequence=sequence,
        n_channels=len(row),
        bin_width_s=0.01,
        **(more or dict(counts=row.tolist())),
    )


rows = stubs.spikes(600)
subscriber = regimes.SubscribeDecisions(
    regimes_pb2.SubscribeDecisionsRequest(session="rig", every=1)
)
ready = threading.Event()
heard = []


def listen():
    ready.set()
    for update in subscriber:
        heard.append(update.decision.sequence)
        if len(heard) == 600:
            return


thread = threading.Thread(target=listen)
thread.start()
ready.wait()
regimes.ListSessions(
    regimes_pb2.ListSessionsRequest()
)  # an answer says that the subscription went before
decisions, events, rejections = [], [], []


def send():
    for i, row in enumerate(rows):
        yield counts(i, row)
        if i == 300:
            yield counts(301, row[:50])


for reply in ingest.Exchange(send(), timeout=60):
    kind = reply.WhichOneof("reply")
    {"decision": decisions, "event": events, "rejection": rejections}[kind].append(
        getattr(reply, kind)
    )
assert [d.sequence for d in decisions] == list(range(600)), len(decisions)
assert all(abs(sum(d.posterior) - 1) < 1e-4 for d in decisions)
assert len(rejections) == 1 and "96" in rejections[0].detail and "50" in rejections[0].detail, (
    rejections
)
thread.join(30)
assert heard == list(range(600)), len(heard)
listed = regimes.ListSessions(regimes_pb2.ListSessionsRequest()).sessions
assert listed[0].bins == 600 and listed[0].last_event_sequence == len(events)
if events:
    first = next(iter(regimes.SubscribeEvents(regimes_pb2.SubscribeEventsRequest(session="rig"))))
    assert first == events[0]
summary = ingest.SendCounts(
    iter([counts(700, rows[0], float_counts=[float("nan")] * 96)]), timeout=10
)
assert summary.rejections[0].messages == 1, summary
print("ok", len(decisions), "decisions", len(events), "events")
