"""What the synchronous and the asynchronous client share: who comes, counts as messages, what an
error means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import grpc
import numpy as np
from numpy.typing import ArrayLike

from regimed.v1 import counts_pb2

#: Seconds before a lost daemon is asked again: the first time, and at most.
RETRY_S = (0.1, 2.0)
#: Largest count of a bin that the daemon takes.
COUNT_MAX = 4096
#: A peer that is not there any more is found out by pings.
OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 << 20),
]
#: The daemon may come again.
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class RegimedError(RuntimeError):
    """The daemon refused, and why: ``code`` is gRPC's."""

    def __init__(self, message: str, code: Optional[grpc.StatusCode] = None):
        super().__init__(message)
        self.code = code


def refused(error: grpc.RpcError) -> RegimedError:
    """An error in the daemon's own words."""
    return RegimedError(error.details() or str(error), error.code())


class Access:
    """Where the daemon is, and who comes."""

    def __init__(self, endpoint, token, token_file, ca, client_cert, client_key):
        self.target = endpoint.split("://", 1)[-1]
        self.secure = endpoint.startswith("https://") or ca is not None
        if endpoint.startswith("unix:"):
            self.target = endpoint
        if token_file is not None:
            token = Path(token_file).read_text().split()[0]
        if (client_cert is None) != (client_key is None):
            raise ValueError("expected both client_cert and client_key, or neither")
        host = self.target.rsplit(":", 1)[0].strip("[]")
        # A proxy is never the way to this machine, whatever the environment says.
        self.local = (
            endpoint.startswith("unix:")
            or host == "localhost"
            or host == "::1"
            or host.startswith("127.")
        )
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        read = lambda path: None if path is None else Path(path).read_bytes()
        self.credentials = (
            grpc.ssl_channel_credentials(read(ca), read(client_key), read(client_cert))
            if self.secure
            else None
        )

    def channel(self, of: Any):
        options = OPTIONS + [("grpc.enable_http_proxy", 0)] if self.local else OPTIONS
        if self.credentials is None:
            return of.insecure_channel(self.target, options=options)
        return of.secure_channel(self.target, self.credentials, options=options)


class Numbers:
    """Numbers of bins, going on over streams and connections: what was sent before is not sent
    again."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def first(self, session: Any, asked: Optional[int]) -> int:
        """Number of a stream's first bin: that asked for, or the one behind what was sent last; of
        a session that others have sent to, one that is new to it (the clock's microseconds)."""
        if asked is not None:
            return asked
        if session.name in self._next:
            return self._next[session.name]
        return time.time_ns() // 1000 if session.accounts.bins_received else 0

    def sent(self, session: str, following: int) -> None:
        self._next[session] = following


def raise_rejected(summary: Any) -> None:
    """
    Raises
    ------
    RegimedError
        Something was refused.
    """
    if summary.rejections:
        told = "; ".join(f"{r.messages} refused: {r.detail}" for r in summary.rejections)
        raise RegimedError(told, grpc.StatusCode.FAILED_PRECONDITION)


def counts_message(
    session: str,
    bin_width_s: float,
    n_channels: int,
    sequence: int,
    counts: ArrayLike,
    rig_time_ns: int,
    masked: Sequence[int],
) -> counts_pb2.Counts:
    """A message of one or more bins.

    Raises
    ------
    ValueError
        Another shape than ``[n_channels]`` or ``[n_bins, n_channels]``, or counts that are none.
    """
    array = np.asarray(counts)
    if array.ndim not in (1, 2) or array.shape[-1] != n_channels or array.size == 0:
        raise ValueError(
            f"expected counts of shape [{n_channels}] or [n_bins, {n_channels}], "
            f"found {list(array.shape)}"
        )
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"expected numbers, found {array.dtype}")
    bad = ~((array >= 0) & (array <= COUNT_MAX))
    if bad.any():
        raise ValueError(f"expected counts from 0 to {COUNT_MAX}, found {array[bad][0]}")
    fractional = array != np.rint(array)
    if fractional.any():
        raise ValueError(f"expected whole counts, found {array[fractional][0]} (are these rates?)")
    return counts_pb2.Counts(
        session=session,
        sequence=sequence,
        n_channels=n_channels,
        bin_width_s=bin_width_s,
        rig_time_ns=rig_time_ns,
        counts=array.astype(np.uint32).ravel().tolist(),
        masked_channels=list(masked),
    )


def spikes_message(
    session: str,
    n_channels: int,
    number: int,
    times_ns: ArrayLike,
    channels: ArrayLike,
    until_ns: int,
    publisher: str,
) -> counts_pb2.Spikes:
    """A message of spike events.

    Raises
    ------
    ValueError
        Times and channels that do not belong together, or are none.
    """
    times, places = np.asarray(times_ns).ravel(), np.asarray(channels).ravel()
    if times.shape != places.shape:
        raise ValueError(
            f"expected as many channels as times, found {places.size} and {times.size}"
        )
    for name, array in (("times_ns", times), ("channels", places)):
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"expected whole numbers in {name}, found {array.dtype}")
    if times.size and times.min() < 0:
        raise ValueError(f"expected times in nanoseconds from 0, found {times.min()}")
    if places.size and not 0 <= places.min() <= places.max() < n_channels:
        raise ValueError(
            f"expected channels below {n_channels}, found {places.min()} to {places.max()}"
        )
    return counts_pb2.Spikes(
        session=session,
        publisher=publisher,
        message_number=number,
        time_ns=times.astype(np.int64).tolist(),
        channel=places.astype(np.uint32).tolist(),
        until_ns=until_ns,
    )
