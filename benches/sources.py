"""How much each source holds before anything is lost, and how long a bin takes from its peer's send
to the decision's publication; beside it, a Python consumer that only receives the same messages.

    pip install -r tests/interop/requirements.txt
    cargo build --release --features lsl
    python benches/sources.py target/release/regimed [--seconds 2] [--only zeromq,open_ephys]

Needs a redis-server beside these; what is absent is said and left out. One session of the built-in
model, 96 channels, bins of 10 ms, everything on one machine. Latency at real time; load in steps of
twice the rate (bins of 96 channels, or spikes with their 10 ms block) until something is rejected,
late or lost, or the sender itself falls behind. Budget: decision within 1 ms of the peer's send at
the 99th percentile (zeromq and grpc).
"""

import argparse, json, pathlib, socket, subprocess, sys, tempfile, threading, time, urllib.request

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "interop"))
import rigs, stubs

CHANNELS, BIN = 96, 0.01
ELECTRODES = [f"Electrode {i + 1}" for i in range(CHANNELS)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Daemon:
    def __init__(self, binary, table, patience="deadline_ms = 2000\nidle_ms = 5000\n"):
        self.folder = tempfile.TemporaryDirectory()
        self.ports = {k: free_port() for k in ["grpc", "pull", "publish", "http"]}
        text = (
            '[grpc]\nlisten = "127.0.0.1:{grpc}"\n'
            '[zeromq]\npull = "127.0.0.1:{pull}"\npublish = "127.0.0.1:{publish}"\n'
            '[http]\nlisten = "127.0.0.1:{http}"\n'.format(**self.ports)
        )
        text += '[[session]]\nname = "rig"\nmodel = "builtin"\nreadout = "0"\n'
        text += f"[session.events]\n{patience}{table}"
        path = pathlib.Path(self.folder.name) / "c.toml"
        path.write_text(text)
        self.process = subprocess.Popen(
            [binary, "serve", "--config", path], stderr=subprocess.PIPE, text=True
        )
        said = ""
        for line in self.process.stderr:
            said += line
            if " ready " in line:
                break
        else:
            raise RuntimeError(said)
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def metrics(self):
        text = (
            urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/metrics", timeout=10)
            .read()
            .decode()
        )
        out = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[name.split("{")[0]] = out.get(name.split("{")[0], 0) + float(value)
        return out

    def wait(self, name, value, seconds=20):
        end = time.time() + seconds
        while self.metrics().get(name, 0) < value and time.time() < end:
            time.sleep(0.02)
        return self.metrics().get(name, 0) >= value

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


class Listener:
    """Decisions as they are published, heard in a process of its own: when each bin's was."""

    def __init__(self, port):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--listen", str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "listening\n"

    def published(self):
        return {int(k): v for k, v in json.loads(self.process.communicate()[0]).items()}


def listen(port):
    import zmq
    from regimed.v1 import decisions_pb2

    sub = zmq.Context.instance().socket(zmq.SUB)
    sub.setsockopt(zmq.SUBSCRIBE, b"rig/decision")
    sub.connect(f"tcp://127.0.0.1:{port}")
    print("listening", flush=True)
    raw = []
    while sub.poll(20_000 if not raw else 2000):
        raw.append(sub.recv_multipart()[1])
    decisions = map(decisions_pb2.Decision.FromString, raw)
    print(json.dumps({d.sequence: d.publish_time_ns for d in decisions if not d.predicted}))


def paced(units, send, rate, seconds, batch_s=0.002):
    """Calls `send(i)` at a rate; the share of the time asked for that it took, 1 if it kept up."""
    total, began, i = int(rate * seconds), time.monotonic(), 0
    while i < total:
        due = min(total, int((time.monotonic() - began + batch_s) * rate))
        while i < due:
            send(i)
            i += 1
        time.sleep(batch_s / 2)
    return total, (time.monotonic() - began) / seconds


class ZeroMq:
    name, unit, table = "zeromq counts", "bins", ""

    def open(self, daemon):
        import zmq
        from regimed.v1 import counts_pb2

        self.pb, self.push = counts_pb2, zmq.Context.instance().socket(zmq.PUSH)
        self.push.connect(f"tcp://127.0.0.1:{daemon.ports['pull']}")
        self.rows = [r.tolist() for r in stubs.spikes(512)]
        self.at = 0

    def bin(self):
        m = self.pb.Counts(
            session="rig",
            sequence=self.at,
            n_channels=CHANNELS,
            bin_width_s=BIN,
            counts=self.rows[self.at % 512],
        )
        sent = time.time_ns()
        self.push.send(m.SerializeToString())
        self.at += 1
        return sent

    def step(self, rate, seconds):
        return paced(1, lambda _: self.bin(), rate, seconds)

    counted = "regimed_bins_received_total"

    def receive_only(self, n):
        """A PULL that only receives."""
        import zmq

        pull, push = (
            zmq.Context.instance().socket(zmq.PULL),
            zmq.Context.instance().socket(zmq.PUSH),
        )
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        push.connect(f"tcp://127.0.0.1:{port}")
        payload = self.pb.Counts(
            session="rig", sequence=1, n_channels=CHANNELS, bin_width_s=BIN, counts=self.rows[0]
        ).SerializeToString()
        return receive(n, lambda: push.send(payload), lambda: pull.recv())


def receive(n, send, take):
    """Latency of a consumer that does nothing else, us."""
    came, sent = [], []

    def consumer():
        for _ in range(n):
            take()
            came.append(time.time_ns())

    thread = threading.Thread(target=consumer, daemon=True)
    thread.start()
    time.sleep(0.2)
    due = time.monotonic()
    for _ in range(n):
        due += BIN
        time.sleep(max(0, due - time.monotonic()))
        sent.append(time.time_ns())
        send()
    thread.join(5)
    return [(c - s) / 1e3 for c, s in zip(came, sent)]


class Spikes(ZeroMq):
    name, unit, counted = "zeromq spikes", "spikes", "regimed_events_received_total"
    rng = np.random.default_rng(0)

    def bin(self, n=15):
        at = self.at * 10_000_000
        m = self.pb.Spikes(
            session="rig",
            message_number=self.at + 1,
            until_ns=at + 10_000_000,
            time_ns=(at + self.rng.integers(0, 10_000_000, n)).tolist(),
            channel=self.rng.integers(0, CHANNELS, n).tolist(),
        )
        sent = time.time_ns()
        self.push.send_multipart([b"regimed.v1.Spikes", m.SerializeToString()])
        self.at += 1
        return sent

    def step(self, rate, seconds):
        n = int(rate * BIN)
        total, took = paced(1, lambda _: self.bin(n), 1 / BIN, seconds)
        return total * n, took


class Grpc(ZeroMq):
    name = "grpc counts"

    def open(self, daemon):
        import grpc, queue
        from regimed.v1 import counts_pb2, ingest_pb2_grpc

        super().open(daemon)
        self.queue = queue.SimpleQueue()
        channel = grpc.insecure_channel(f"127.0.0.1:{daemon.ports['grpc']}")
        stub = ingest_pb2_grpc.IngestStub(channel)

        def stream():
            try:
                stub.SendCounts(iter(self.queue.get, None))
            except grpc.RpcError:
                pass  # the daemon was ended

        threading.Thread(target=stream, daemon=True).start()

    def bin(self):
        m = self.pb.Counts(
            session="rig",
            sequence=self.at,
            n_channels=CHANNELS,
            bin_width_s=BIN,
            counts=self.rows[self.at % 512],
        )
        sent = time.time_ns()
        self.queue.put(m)
        self.at += 1
        return sent

    receive_only = None


class OpenEphys:
    name, unit, counted = "open ephys", "spikes", "regimed_events_received_total"

    def __init__(self):
        self.port = free_port()
        self.table = (
            f'[session.open_ephys]\nendpoint = "tcp://127.0.0.1:{self.port}"\n'
            f'heartbeat = "tcp://127.0.0.1:{self.port + 1}"\n'
            f"sample_rate_hz = 30000\nreorder_ms = 0\nelectrodes = {json.dumps(ELECTRODES)}\n"
        )

    def open(self, daemon):
        self.rig = rigs.OpenEphys()
        self.rig.start(self.port)
        self.rig.wait_daemon()
        self.rig.zeros = np.zeros(self.rig.block)

    def block(self, n):
        rig = self.rig
        for electrode in range(n):
            rig.spike(ELECTRODES[electrode % CHANNELS], rig.sample + electrode % rig.block)
        sent = time.time_ns()
        rig.data(0, rig.zeros)
        rig.sample += rig.block
        return sent

    def bin(self):
        return self.block(15)

    def step(self, rate, seconds):
        """Blocks whose messages were made before: making them in Python is the slow part."""
        rig, n = self.rig, int(rate * BIN)
        blocks, sent = [], []
        real = rig.pub
        for _ in range(int(seconds / BIN)):
            sent = []
            rig.pub = type("Made", (), {"send_multipart": staticmethod(sent.append)})
            self.block(n)
            blocks.append(sent)
        rig.pub = real

        def send(i):
            for message in blocks[i]:
                rig.pub.send_multipart(message, copy=False)

        total, took = paced(1, send, 1 / BIN, seconds)
        return total * n, took

    def receive_only(self, n):
        import zmq

        context = zmq.Context.instance()
        pub, sub = context.socket(zmq.PUB), context.socket(zmq.SUB)
        port = pub.bind_to_random_port("tcp://127.0.0.1")
        sub.setsockopt(zmq.SUBSCRIBE, b"")
        sub.connect(f"tcp://127.0.0.1:{port}")
        time.sleep(0.3)
        message = [b"DATA\0", self.rig.header("data", dict(content={})), b"\0" * 1200]
        return receive(
            n, lambda: pub.send_multipart(message), lambda: json.loads(sub.recv_multipart()[1])
        )


class Brand:
    name, unit, counted = "brand (redis)", "bins", "regimed_bins_received_total"

    def __init__(self):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        self.server = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--save", "", "--dir", self.folder.name],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        self.url = f"redis://127.0.0.1:{self.port}"
        self.table = f'[session.brand]\nredis = "{self.url}"\n'

    def open(self, daemon):
        self.rig = rigs.Brand()
        self.rig.start(self.url)
        daemon.wait("regimed_source_connected", 1)
        time.sleep(0.2)
        self.rows = stubs.spikes(512).astype("int8")

    def fields(self):
        i = self.rig.i
        self.rig.i += 1
        return dict(
            samples=self.rows[i % 512].tobytes(),
            i=i.to_bytes(8, "little"),
            ts=time.monotonic_ns().to_bytes(8, "little"),
            sync=b"{}",
        )

    def bin(self):
        sent = time.time_ns()
        self.rig.redis.xadd("binned_spikes", self.fields())
        return sent

    def step(self, rate, seconds):
        per = max(1, int(rate * 0.005))

        def send(_):
            pipe = self.rig.redis.pipeline(transaction=False)
            for _ in range(per):
                pipe.xadd("binned_spikes", self.fields(), maxlen=10_000)
            pipe.execute()

        total, took = paced(1, send, rate / per, seconds)
        return total * per, took

    def receive_only(self, n):
        import redis

        reader, last = redis.Redis.from_url(self.url), ["$"]

        def take():
            while True:
                for _, entries in reader.xread({"alone": last[0]}, block=500) or []:
                    last[0] = entries[-1][0]
                    return

        return receive(n, lambda: self.rig.redis.xadd("alone", self.fields()), take)

    def close(self):
        self.server.terminate()
        self.server.wait()


class Lsl:
    name, unit, counted = "lsl", "bins", "regimed_bins_received_total"
    table = '[session.lsl]\nname = "bench"\noutlets = false\n'

    def open(self, daemon):
        self.rig = rigs.Lsl()
        self.rig.start("bench", CHANNELS)
        daemon.wait("regimed_source_connected", 1)
        time.sleep(0.3)
        self.rows, self.at, self.stamp = stubs.spikes(512).astype("float32"), 0, None

    def bin(self):
        sent = time.time_ns()
        self.rig.outlet.push_sample(self.rows[self.at % 512])
        self.at += 1
        return sent

    def step(self, rate, seconds):
        per = max(1, int(rate * 0.005))
        self.stamp = self.stamp or self.rig.pylsl.local_clock()

        def send(_):
            # Time stamps of bins of 10 ms, however fast they come.
            self.stamp += per * BIN
            self.rig.outlet.push_chunk(
                self.rows[:per] if per <= 512 else np.resize(self.rows, (per, CHANNELS)), self.stamp
            )

        total, took = paced(1, send, rate / per, seconds)
        return total * per, took

    def receive_only(self, n):
        pylsl = self.rig.pylsl
        inlet = pylsl.StreamInlet(pylsl.resolve_byprop("name", "bench", timeout=5)[0])
        inlet.open_stream()
        row = self.rows[0]
        return receive(
            n, lambda: self.rig.outlet.push_sample(row), lambda: inlet.pull_sample(timeout=5)
        )


def lost(metrics):
    names = [
        "regimed_bins_rejected_total",
        "regimed_bins_late_total",
        "regimed_bins_missing_total",
        "regimed_events_rejected_total",
        "regimed_events_late_total",
        "regimed_source_messages_lost_total",
    ]
    return sum(metrics.get(n, 0) for n in names)


def shown(us):
    return f"p50 {np.percentile(us, 50):6.0f} us, p99 {np.percentile(us, 99):6.0f} us"


def measure(kind, binary, seconds):
    source = kind()
    try:
        with Daemon(binary, source.table) as daemon:
            source.open(daemon)
            listener = Listener(daemon.ports["publish"])
            time.sleep(0.3)
            due, sends = time.monotonic(), []
            for _ in range(int(5 / BIN)):
                due += BIN
                time.sleep(max(0, due - time.monotonic()))
                sends.append(source.bin())
            # The last bins of a source that closes them by what comes next.
            published = listener.published()
            us = [(published[i] - s) / 1e3 for i, s in enumerate(sends) if i in published][50:]
            budget = (
                f", budget 1000 us, ratio {np.percentile(us, 99) / 1000:.2f}"
                if kind in (ZeroMq, Grpc)
                else ""
            )
            print(
                f"{source.name:14} send to publication {shown(us)} ({len(us)} bins){budget}",
                flush=True,
            )
            if source.receive_only:
                alone = source.receive_only(300)[20:]
                print(f"{'':14} Python, receive only {shown(alone)}", flush=True)
        source_close(source)
        source, held, why = kind(), 0, "the steps ended"
        rate = 20_000 if source.unit == "spikes" else 1000
        while rate <= 1_000_000:
            with Daemon(binary, source.table) as daemon:
                source.open(daemon)
                sent, took = source.step(rate, seconds)
                all_came = daemon.wait(source.counted, sent, 5)
                time.sleep(0.3)
                n = lost(daemon.metrics())
            if isinstance(source, OpenEphys):
                source.rig.stop()
            if n > 0 or not all_came:
                why = (
                    f"at {rate} a second {n:.0f} were lost, late or refused"
                    if n
                    else f"at {rate} a second not all came"
                )
                break
            if took > 1.1:
                held, why = (
                    sent / (took * seconds),
                    f"the sender could do no more than this of {rate}",
                )
                break
            held, rate = rate, rate * 2
        print(f"{'':14} held {held:.0f} {source.unit}/s ({why})", flush=True)
    finally:
        source_close(source)


def source_close(source):
    if isinstance(source, OpenEphys) and getattr(source, "rig", None) and source.rig.running:
        source.rig.stop()
    if hasattr(source, "close"):
        source.close()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary", nargs="?")
    arguments.add_argument("--listen", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--seconds", type=float, default=2)
    arguments.add_argument("--only", default="")
    options = arguments.parse_args()
    stubs.load(str(pathlib.Path(__file__).parent.parent / "proto"))
    if options.listen:
        return listen(options.listen)
    all_kinds = dict(
        zeromq=ZeroMq, grpc=Grpc, spikes=Spikes, open_ephys=OpenEphys, brand=Brand, lsl=Lsl
    )
    for name, kind in all_kinds.items():
        if options.only and name not in options.only.split(","):
            continue
        try:
            measure(kind, options.binary, options.seconds)
        except (ImportError, FileNotFoundError, RuntimeError) as e:
            print(f"{name}: left out: {str(e).strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
