"""The installed package `regimed` against a daemon: both clients, arrays, resume over a restart,
errors.

usage: python_client.py ENDPOINT STEP, STEP one of: first, resume."""

import asyncio
import itertools
import sys
import threading

import grpc
import numpy as np
from regimed import AsyncClient, Client, RegimedError, to_arrays
from regimed.v1 import decisions_pb2

endpoint, step = sys.argv[1:3]
spikes = np.random.default_rng(0).poisson(0.16, (600, 96))
daemon = Client(endpoint)


def first():
    rig = daemon.session("rig")
    assert (rig.n_channels, rig.bin_width_s) == (96, 0.01)
    # Sent one by one, heard by another.
    heard = []
    hearing = threading.Thread(
        target=lambda: heard.extend(itertools.islice(daemon.updates("rig"), 300)), daemon=True
    )
    hearing.start()
    # The subscription went before whatever is asked for now on the same connection.
    import time

    time.sleep(0.5)
    with daemon.send("rig") as sender:
        for counts in spikes[:100]:
            sender.send(counts)
        assert sender.send(spikes[100:300], rig_time_ns=1_000_000_000) == 100
        assert sender.sequence == 300
        for bad, why in [
            (spikes[0][:5], "[96]"),
            (-spikes[:1] - 1, "0 to 4096"),
            (np.full(96, "a"), "numbers"),
            (spikes[0] + 0.25, "whole counts"),
            (np.full(96, np.nan), "0 to 4096"),
        ]:
            try:
                sender.send(bad)
                raise AssertionError("taken")
            except ValueError as error:
                assert why in str(error), error
    assert sender.summary.bins_accepted == 300, sender.summary
    hearing.join(30)
    found = to_arrays(u.decision for u in heard)
    assert found["bin"].tolist() == list(range(300)) and heard[-1].lost == 0
    assert found["posterior"].shape == (300, len(rig.regime_names))
    assert all(len(values) == 0 for values in to_arrays([]).values())
    # Before the first reading of the dynamics, and of nothing.
    unread = [decisions_pb2.Decision.FromString(u.decision.SerializeToString()) for u in heard]
    for decision in unread:
        decision.ClearField("metrics")
    rank = found["latent"].shape[1]
    assert to_arrays(unread)["map_eigenvalues"].shape == (300, rank)
    assert np.allclose(found["posterior"].sum(1), 1, atol=1e-4)
    assert found["embedding_mean"].shape[1] >= 2 and found["spectral_radius"].shape == (300,)
    for convert, check in [
        ("to_dataframe", lambda t: t["p_" + rig.regime_names[0]].shape == (300,)),
        ("to_xarray", lambda d: d["posterior"].dims == ("time", "regime_name")),
        ("to_xarray", lambda d: d["time"].attrs["units"] == "s"),
    ]:
        try:
            import regimed

            assert check(getattr(regimed, convert)(u.decision for u in heard)), convert
            assert len(getattr(regimed, convert)(unread)["spectral_radius"]) == 300, convert
            assert len(getattr(regimed, convert)([])["spectral_radius"]) == 0, convert
        except ModuleNotFoundError as error:
            print(f"without {error.name}")
    # Refusals and errors in the daemon's own words.
    kinds = [
        type(r).__name__
        for r in daemon.exchange("rig", [spikes[300], spikes[301]], first_sequence=299)
    ]
    assert "Rejection" in kinds and "Decision" in kinds, kinds
    for call in (
        lambda: daemon.session("no"),
        lambda: next(daemon.events("no", after=0)),
        lambda: daemon.stop_session("no"),
    ):
        try:
            call()
            raise AssertionError("answered")
        except RegimedError as error:
            assert error.code is not None and "'no'" in str(error), error
    try:
        next(daemon.events("rig", after=10_000))
        raise AssertionError("answered")
    except RegimedError as error:
        assert error.code == grpc.StatusCode.OUT_OF_RANGE
    # Another stream's bins are numbered on; what is refused is an error.
    with daemon.send("rig") as sender:
        assert sender.send(spikes[302:310]) == 301, sender.sequence
    assert sender.summary.bins_accepted == 8 and sender.summary.bins_missing == 0, sender.summary
    # Readings of the dynamics come beside the decisions, whenever they are ready.
    for number in itertools.count(1):
        replies = list(daemon.exchange("rig", [spikes[0]]))
        read = to_arrays(r for r in replies if type(r).__name__ == "Decision")
        if np.isfinite(read["spectral_radius"][-1]):
            break
        assert number < 300, "no reading"
        time.sleep(0.1)
    try:
        with daemon.send("rig", first_sequence=5) as sender:
            sender.send(spikes[0])
        raise AssertionError("no word of a bin that was refused")
    except RegimedError as error:
        assert "expected sequence" in str(error) and sender.summary.rejections, error
    with daemon.send("rig", first_sequence=5, raises=False) as sender:
        sender.send(spikes[0])
    assert sender.summary.rejections
    # Whoever else sends to it does so under numbers that are new to it.
    with Client(endpoint) as another, another.send("rig") as sender:
        sender.send(spikes[0])
    assert sender.summary.bins_accepted == 1, sender.summary
    # No proxy stands between a program and its own machine.
    import os

    os.environ["http_proxy"] = os.environ["HTTP_PROXY"] = "http://127.0.0.1:9"
    with Client(endpoint) as direct:
        assert direct.session("rig").n_channels == 96
    # Events are binned by the daemon.
    daemon.start_session('[[session]]\nname = "events"\nmodel = "builtin"\nreadout = "0"\n')
    with daemon.send_spikes("events") as sender:
        for first in range(0, 100, 10):
            times = np.arange(first, first + 10) * 10_000_000 + 1
            sender.send(times, np.arange(10))
        sender.send([], [], until_ns=2_000_000_000)
        for times, channels, why in [
            ([1, 2], [1], "as many"),
            ([0.5], [1], "whole"),
            ([1], [96], "below 96"),
            ([-1], [1], "from 0"),
        ]:
            try:
                sender.send(np.array(times), np.array(channels))
                raise AssertionError("taken")
            except ValueError as error:
                assert why in str(error), error
    assert sender.summary.events_binned == 100, sender.summary
    daemon.stop_session("events")
    # Sessions at run time.
    other = daemon.start_session('[[session]]\nname = "other"\nmodel = "builtin"\nreadout = "0"\n')
    assert other.name == "other" and len(daemon.sessions()) == 2
    assert daemon.pause_session("other").state == 2 and daemon.resume_session("other").state == 1
    daemon.stop_session("other")
    asyncio.run(concurrently())


async def concurrently():
    async with AsyncClient(endpoint) as client:

        async def bins():
            for counts in spikes[400:500]:
                yield counts

        replies = [r async for r in client.exchange("rig", bins())]
        assert sum(type(r).__name__ == "Decision" for r in replies) >= 100
        assert [s.name for s in await client.sessions()] == ["rig"]
        async for event in client.events("rig", after=0):
            assert event.event_sequence == 1
            break


def resume():
    """Hears events while the daemon is killed and started again; ends at the number it is told."""
    numbers = []
    print("listening", flush=True)
    last = None
    for event in daemon.events("rig", after=0):
        numbers.append(event.event_sequence)
        print(f"event {event.event_sequence}", flush=True)
        last = event
        if len(numbers) == int(sys.argv[3]):
            break
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    assert last.to


{"first": first, "resume": resume}[step]()
daemon.close()
