"""What the synchronous and the asynchronous client share: who comes, counts as messages, what an error means."""

from __future__ import annotations

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
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


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
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        read = lambda path: None if path is None else Path(path).read_bytes()
        self.credentials = (
            grpc.ssl_channel_credentials(read(ca), read(client_key), read(client_cert)) if self.secure else None
        )

    def channel(self, of: Any):
        if self.credentials is None:
            return of.insecure_channel(self.target, options=OPTIONS)
        return of.secure_channel(self.target, self.credentials, options=OPTIONS)


def counts_message(
    session: str, bin_width_s: float, n_channels: int, sequence: int, counts: ArrayLike, rig_time_ns: int, masked: Sequence[int]
) -> counts_pb2.Counts:
    """A message of one or more bins.

    Raises
    ------
    ValueError
        Another shape than ``[n_channels]`` or ``[n_bins, n_channels]``, or counts that are none.
    """
    array = np.asarray(counts)
    if array.ndim not in (1, 2) or array.shape[-1] != n_channels or array.size == 0:
        raise ValueError(f"expected counts of shape [{n_channels}] or [n_bins, {n_channels}], found {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"expected numbers, found {array.dtype}")
    bad = ~((array >= 0) & (array <= COUNT_MAX))
    if bad.any():
        raise ValueError(f"expected counts from 0 to {COUNT_MAX}, found {array[bad][0]}")
    return counts_pb2.Counts(
        session=session,
        sequence=sequence,
        n_channels=n_channels,
        bin_width_s=bin_width_s,
        rig_time_ns=rig_time_ns,
        counts=np.rint(array).astype(np.uint32).ravel().tolist(),
        masked_channels=list(masked),
    )
