"""Rigs to be driven by a test: one JSON command a line on standard input, one JSON answer a line on
standard output.

The Open Ephys plugin's stand-in sends what the plugin's source says it sends: envelopes with their
NUL, pretty-printed headers with CRLF, one count of messages over all types, one message per channel
and block of continuous data.
"""

import json
import os, sys, threading, time

import numpy as np


#: Where rigs listen: loopback, but on a host of their own.
HOST = os.environ.get("RIG_HOST", "127.0.0.1")


class OpenEphys:
    """ZMQ Interface: PUB of data, REP of heartbeats; and the Network Events plugin's REP."""

    rate, block = 30_000, 300

    def start(self, port, network_events=None, stream="example_data", numbers_from=0):
        import zmq

        self.zmq = zmq
        self.context = zmq.Context()
        # A PUB that tells when somebody has subscribed.
        self.pub = self.context.socket(zmq.XPUB)
        self.pub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.pub.setsockopt(zmq.SNDHWM, 0)
        self.pub.bind(f"tcp://{HOST}:{port}")
        self.beats, self.ttl, self.running = 0, [], True
        self.number, self.sample, self.stream = numbers_from, 0, stream
        self.spikes = 0
        self.threads = [threading.Thread(target=self.answer, args=(port + 1, self.heartbeat))]
        if network_events:
            self.threads.append(
                threading.Thread(target=self.answer, args=(network_events, self.network_event))
            )
        for thread in self.threads:
            thread.daemon = True
            thread.start()

    def answer(self, port, reply):
        rep = self.context.socket(self.zmq.REP)
        rep.bind(f"tcp://{HOST}:{port}")
        while self.running:
            if rep.poll(50):
                rep.send_string(reply(rep.recv_string()))
        rep.close(linger=0)

    def heartbeat(self, text):
        try:
            message = json.loads(text)
        except ValueError:
            return "JSON message could not be read"
        assert message["application"] and message["uuid"]
        if message["type"] == "heartbeat":
            self.beats += 1
            return "heartbeat received"
        return "message correctly parsed"

    def network_event(self, text):
        self.ttl.append(text)
        return "TTLHandled: " + text.removeprefix("TTL ")

    def stop(self):
        self.running = False
        for thread in self.threads:
            thread.join()
        self.pub.close(linger=0)
        self.context.term()

    def status(self):
        return dict(
            beats=self.beats,
            ttl=self.ttl,
            spikes=self.spikes,
            messages=self.number,
            sample=self.sample,
        )

    def wait_daemon(self):
        """Until the daemon has subscribed, and its heart has beaten."""
        before, end = self.beats, time.time() + 20
        # One that left before may be told of first.
        while not self.pub.poll(100) or self.pub.recv() != b"\x01":
            assert time.time() < end, "no subscription"
        while self.beats == before:
            assert time.time() < end, "no heartbeat"
            time.sleep(0.02)

    def header(self, kind, fields):
        header = {
            "message_num": self.number,
            "type": kind,
            **fields,
            "timestamp": int(time.time() * 1000),
        }
        self.number += 1
        return json.dumps(header, indent=2).replace("\n", "\r\n").encode()

    def spike(self, electrode, sample, sorted_id=0):
        spike = dict(
            stream=self.stream,
            source_node=103,
            electrode=electrode,
            sample_num=int(sample),
            num_channels=1,
            num_samples=40,
            sorted_id=sorted_id,
            threshold=[50.0],
        )
        self.pub.send_multipart([b"EVENT\0", self.header("spike", dict(spike=spike)), b"\0" * 160])
        self.spikes += 1

    def data(self, channel, samples):
        payload = np.asarray(samples, "<f4").tobytes()
        content = dict(
            stream=self.stream,
            channel_num=channel,
            channel_name=f"CH{channel + 1}",
            num_samples=len(samples),
            sample_num=self.sample,
            sample_rate=float(self.rate),
        )
        self.pub.send_multipart(
            [b"DATA\0", self.header("data", dict(content=content, data_size=len(payload))), payload]
        )

    def ttl_in(self, line, state):
        content = dict(stream=self.stream, source_node=101, type=3, sample_num=self.sample)
        payload = bytes([line, state]) + (state << line).to_bytes(8, "little")
        self.pub.send_multipart(
            [b"EVENT\0", self.header("event", dict(content=content, data_size=10)), payload]
        )

    def play(
        self, file, first=0, bins=None, speed=1.0, data=True, names="Electrode {}", silent_tail=0
    ):
        """Bins of 10 ms of a recording as spikes, block after block, electrode after electrode."""
        counts = np.load(file)["counts"]
        counts = counts.reshape(-1, counts.shape[-1])[
            first : None if bins is None else first + bins
        ]
        rng = np.random.default_rng(first)
        began = time.monotonic()
        for b, row in enumerate(counts):
            for channel in np.flatnonzero(row):
                for at in np.sort(rng.integers(0, self.block, row[channel])):
                    self.spike(names.format(channel + 1), self.sample + at)
            if data:
                self.data(0, np.zeros(self.block))
            self.sample += self.block
            if speed:
                time.sleep(max(0, began + (b + 1) * 0.01 / speed - time.monotonic()))
        # The end of the last bin is only known by what comes after it.
        for _ in range(silent_tail):
            self.data(0, np.zeros(self.block))
            self.sample += self.block
        return self.status()

    def load(self, electrodes, spikes_per_s, seconds):
        """A steady load in real time; how long sending took of each second."""
        rng = np.random.default_rng(1)
        per_block = rng.poisson(spikes_per_s * 0.01, int(seconds * 100))
        began, busy = time.monotonic(), 0.0
        for b, n in enumerate(per_block):
            t = time.monotonic()
            for electrode in np.sort(rng.integers(0, electrodes, n)):
                self.spike(
                    f"Electrode {electrode + 1}", self.sample + int(rng.integers(0, self.block))
                )
            self.data(0, np.zeros(self.block))
            self.sample += self.block
            busy += time.monotonic() - t
            time.sleep(max(0, began + (b + 1) * 0.01 - time.monotonic()))
        return dict(self.status(), busy=busy / seconds, took=time.monotonic() - began)

    def noise(self, channels, blocks, spikes):
        """Continuous data: noise of 5 uV on a slow wave, with spikes of -80 uV at given (channel,
        sample)."""
        rng = np.random.default_rng(2)
        for _ in range(blocks):
            t = self.sample + np.arange(self.block)
            for channel in range(channels):
                x = rng.normal(0, 5, self.block) + 200 * np.sin(2 * np.pi * 8 * t / self.rate)
                for c, s in spikes:
                    if c == channel:
                        x[(t >= s) & (t < s + 6)] -= 80
                self.data(channel, x)
            self.sample += self.block
            time.sleep(0.002)
        return self.status()

    def short_data(self):
        """A block whose payload is shorter than its header says."""
        content = dict(
            stream=self.stream,
            channel_num=0,
            channel_name="CH1",
            num_samples=300,
            sample_num=self.sample,
            sample_rate=float(self.rate),
        )
        self.pub.send_multipart(
            [b"DATA\0", self.header("data", dict(content=content, data_size=1200)), b"\0" * 10]
        )

    def garbage(self):
        self.pub.send_multipart([b"EVENT\0", b"{not json", b""])
        self.pub.send(b"one frame")
        self.pub.send_multipart([b"EVENT\0"] * 9)
        self.pub.send_multipart([b"EVENT\0", b'{"message_num": -1, "type": "spike"}', b""])

    def lose(self, messages):
        self.number += messages

    def jump(self, samples):
        self.sample += samples

    def acquisition(self):
        """Acquisition is stopped and started."""
        self.number, self.sample = 0, 0


class Brand:
    """A node that publishes binned counts, and whoever reads what comes back."""

    def start(self, url, stream="binned_spikes"):
        import redis

        self.redis = redis.Redis.from_url(url)
        self.stream, self.i = stream, 0

    def graph(self, nodes):
        self.redis.xadd("supergraph_stream", dict(data=json.dumps(dict(nodes=nodes))))

    def play(self, file, first=0, bins=None, dtype="int8", speed=1.0, power=False, ahead_ns=0):
        counts = np.load(file)["counts"]
        counts = counts.reshape(-1, counts.shape[-1])[
            first : None if bins is None else first + bins
        ]
        began = time.monotonic()
        for b, row in enumerate(counts):
            samples = row.astype(dtype)
            if power:
                samples = np.concatenate([samples, np.full(len(row), 7.5).astype(dtype)])
            self.redis.xadd(
                self.stream,
                dict(
                    samples=samples.tobytes(),
                    i=np.uint64(self.i).tobytes(),
                    ts=np.uint64(time.monotonic_ns() + ahead_ns).tobytes(),
                    sync=json.dumps(dict(nsp_idx=self.i * 10)),
                ),
            )
            self.i += 1
            if speed:
                time.sleep(max(0, began + (b + 1) * 0.01 / speed - time.monotonic()))
        return dict(i=self.i)

    def lose(self, bins):
        self.i += bins

    def restart(self):
        self.i = 0

    def garbage(self):
        self.redis.xadd(self.stream, dict(nothing=b"x"))
        self.redis.xadd(self.stream, dict(samples=b"123", i=b"12345678", ts=b"12345678", sync=b"{"))

    def read_back(self, stream, count):
        """Entries of a stream as numpy reads them."""
        out, last, end = [], "0", time.time() + 20
        while len(out) < count and time.time() < end:
            for _, entries in self.redis.xread({stream: last}, block=500) or []:
                for last, fields in entries:
                    out.append(
                        dict(
                            i=int(np.frombuffer(fields[b"i"], np.uint64)[0]),
                            ts=int(np.frombuffer(fields[b"ts"], np.uint64)[0])
                            <= time.monotonic_ns(),
                            sync=json.loads(fields[b"sync"]),
                            label=fields[b"label"].decode(),
                            posterior=np.frombuffer(fields[b"samples"], np.float32).tolist(),
                        )
                    )
        return out

    def states(self, nickname):
        return [f[b"status"].decode() for _, f in self.redis.xrange(f"{nickname}_state")]

    def group(self, stream, group):
        self.redis.xgroup_create(stream, group, id="0", mkstream=True)

    def read_group(self, stream, group, consumer, count):
        out, end = [], time.time() + 10
        while len(out) < count and time.time() < end:
            for _, entries in (
                self.redis.xreadgroup(group, consumer, {stream: ">"}, count=count, block=200) or []
            ):
                for entry, fields in entries:
                    out.append({k.decode(): v.decode() for k, v in fields.items() if k != b"event"})
                    self.redis.xack(stream, group, entry)
        return out

    def length(self, stream):
        return self.redis.xlen(stream)


class Spikes:
    """Rigs that send spikes by sample number: bins of 10 ms of a recording at 30 kHz, in blocks of
    10 ms."""

    rate, block = 30_000, 300

    def play(self, file, first=0, bins=None, speed=1.0):
        counts = np.load(file)["counts"]
        counts = counts.reshape(-1, counts.shape[-1])[
            first : None if bins is None else first + bins
        ]
        rng = np.random.default_rng(first)
        began = time.monotonic()
        for b, row in enumerate(counts):
            spikes = [
                (c, self.sample + int(at))
                for c in np.flatnonzero(row)
                for at in rng.integers(0, self.block, row[c])
            ]
            self.send(spikes)
            self.spikes += len(spikes)
            self.sample += self.block
            if speed:
                time.sleep(max(0, began + (b + 1) * 0.01 / speed - time.monotonic()))
        return dict(spikes=self.spikes)

    def jump(self, samples):
        self.sample += samples

    def restart(self):
        self.sample = 0


class Intan(Spikes):
    """RHX's TCP spike output: a server that one client reads."""

    def start(self, port):
        import socket

        self.sample, self.spikes, self.client = 0, 0, None
        self.server = socket.create_server(("127.0.0.1", port))

    def wait_daemon(self):
        self.server.settimeout(20)
        self.client, _ = self.server.accept()

    def send(self, spikes, names="A-{:03d}"):
        import struct

        raw = b"".join(
            struct.pack("<I5sIB", 0x3AE2710F, names.format(c).encode(), s % 2**32, 1)
            for c, s in spikes
        )
        # Pieces that end where they like.
        for i in range(0, len(raw), 37):
            self.client.sendall(raw[i : i + 37])

    def stranger(self):
        self.send([(0, self.sample)], names="Z-{:03d}")
        self.spikes += 1

    def garbage(self):
        self.client.sendall(b"this is no spike")


class Blackrock(Spikes):
    """UDP packets of a processor, several a datagram, with the heartbeat of each 10 ms."""

    def start(self, port, protocol="4.1"):
        import socket

        self.sample, self.spikes, self.protocol = 0, 0, protocol
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.to = ("127.0.0.1", port)

    def packet(self, sample, chid, kind, payload=b""):
        import struct

        if self.protocol == "4.1":
            time_ns = (sample * 1_000_000_000 + self.rate - 1) // self.rate
            return struct.pack("<QHHHBB", time_ns, chid, kind, len(payload) // 4, 0, 0) + payload
        return struct.pack("<IHBB", sample, chid, kind, len(payload) // 4) + payload

    def send(self, spikes):
        packets = [self.packet(s, c + 1, 0, b"\0" * 96) for c, s in spikes]
        packets.append(self.packet(self.sample + self.block, 0x8000, 0))
        for i in range(0, len(packets), 8):
            self.socket.sendto(b"".join(packets[i : i + 8]), self.to)

    def noise(self):
        self.socket.sendto(self.packet(self.sample, 1, 255, b"\0" * 96), self.to)

    def stranger(self):
        self.socket.sendto(self.packet(self.sample, 97, 0, b"\0" * 96), self.to)
        self.spikes += 1

    def garbage(self):
        self.socket.sendto(b"short", self.to)
        self.socket.sendto(self.packet(self.sample, 1, 0, b"\0" * 96)[:40], self.to)


class Lsl:
    """Outlet of binned counts, inlets of what comes back."""

    def start(
        self, name, channels, dtype="float32", rate=100.0, source_id="rig-1", kind="SpikeCounts"
    ):
        import pylsl

        self.pylsl = pylsl
        info = pylsl.StreamInfo(name, kind, channels, rate, dtype, source_id)
        self.outlet = pylsl.StreamOutlet(info)

    def stop(self):
        del self.outlet

    def mark(self, text, ago_s=0.0):
        """A marker, of a while ago."""
        self.outlet.push_sample([text], self.pylsl.local_clock() - ago_s)

    def garbage(self, channels):
        """Values that are no counts, of any format."""
        for value in [-1, 5000, -30_000]:
            self.outlet.push_sample([value] * channels)

    def wait_consumer(self):
        assert self.outlet.wait_for_consumers(20), "nobody came"
        time.sleep(0.3)

    def play(self, file, first=0, bins=None, speed=1.0, shift=0.0):
        counts = np.load(file)["counts"]
        counts = counts.reshape(-1, counts.shape[-1])[
            first : None if bins is None else first + bins
        ]
        began, clock = time.monotonic(), self.pylsl.local_clock() + shift
        for b, row in enumerate(counts):
            self.outlet.push_sample(row.tolist(), clock + b * 0.01)
            if speed:
                time.sleep(max(0, began + (b + 1) * 0.01 / speed - time.monotonic()))
        return dict(bins=len(counts))

    def listen(self, markers, metrics):
        """Inlets are opened before anything is sent."""
        self.inlets = {}
        for key, name in dict(markers=markers, metrics=metrics).items():
            found = self.pylsl.resolve_byprop("name", name, timeout=20)
            assert found, f"no stream {name}"
            self.inlets[key] = self.pylsl.StreamInlet(found[0])
            self.inlets[key].open_stream(timeout=20)
        markers = self.inlets["markers"].info(timeout=10)
        metrics = self.inlets["metrics"].info(timeout=10)
        labels, channel = [], metrics.desc().child("channels").child("channel")
        while not channel.empty():
            labels.append(channel.child_value("label"))
            channel = channel.next_sibling()
        return dict(
            type=markers.type(),
            rate=markers.nominal_srate(),
            metrics=metrics.channel_count(),
            labels=labels,
        )

    def heard(self, seconds=1.0):
        time.sleep(seconds)
        out = {}
        for key, inlet in self.inlets.items():
            samples, stamps = inlet.pull_chunk(timeout=0.5, max_samples=100_000)
            correction = inlet.time_correction(timeout=5)
            ages = [self.pylsl.local_clock() - s - correction for s in stamps]
            # What is not known yet has no JSON.
            samples = [[None if v != v else v for v in sample] for sample in samples]
            out[key] = dict(samples=samples, ages=ages)
        return out


class Events:
    """Spike events and parts of bins over ZeroMQ, as regimed.v1 messages."""

    def start(self, endpoint, proto, kind="PUSH"):
        """PUSH connects, as to the daemon's PULL; PUB binds, for a daemon that subscribes."""
        import zmq, stubs

        stubs.load(proto)
        from regimed.v1 import counts_pb2

        self.messages = counts_pb2
        self.socket = zmq.Context.instance().socket(getattr(zmq, kind))
        self.socket.bind(endpoint) if kind == "PUB" else self.socket.connect(endpoint)

    def play(
        self,
        file,
        session,
        publisher="",
        channels=None,
        first=0,
        bins=None,
        speed=1.0,
        begin_ns=0,
        number=1,
    ):
        counts = np.load(file)["counts"]
        counts = counts.reshape(-1, counts.shape[-1])[
            first : None if bins is None else first + bins
        ]
        rng = np.random.default_rng(0)
        began = time.monotonic()
        for b, row in enumerate(counts):
            at = begin_ns + (first + b) * 10_000_000
            message = self.messages.Spikes(
                session=session,
                publisher=publisher,
                message_number=number + b,
                until_ns=at + 10_000_000,
            )
            for channel in np.flatnonzero(row):
                if channels is None or channel in channels:
                    message.time_ns.extend(
                        (at + rng.integers(0, 10_000_000, row[channel])).tolist()
                    )
                    message.channel.extend([int(channel)] * int(row[channel]))
            self.socket.send_multipart(
                [b"regimed.v1.Spikes", message.SerializeToString()], copy=True
            )
            if speed:
                time.sleep(max(0, began + (b + 1) * 0.01 / speed - time.monotonic()))


RIGS = dict(
    open_ephys=OpenEphys, intan=Intan, blackrock=Blackrock, brand=Brand, lsl=Lsl, events=Events
)


def main():
    rig = RIGS[sys.argv[1]]()
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(rig, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
