"""What both clients say and how they take the answers: all but the waiting itself, which one does
in a thread and the other in a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypeVar

import grpc
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from regimed.v1 import (
    actions_pb2,
    control_pb2,
    control_pb2_grpc,
    counts_pb2,
    ingest_pb2_grpc,
    regimes_pb2,
    regimes_pb2_grpc,
)

from ._access import (
    PASSING,
    RETRY_S,
    Access,
    Numbers,
    RegimedError,
    counts_message,
    refused,
    spikes_message,
)

T = TypeVar("T")


class Stubs:
    """A daemon's services on one channel, with what both clients know."""

    def __init__(self, access: Access, of: Any):
        self.channel = access.channel(of)
        self.metadata = access.metadata
        self.numbers = Numbers()
        self.ingest = ingest_pb2_grpc.IngestStub(self.channel)
        self.regimes = regimes_pb2_grpc.RegimesStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question: of which service, in which words, and what its answer means."""

    service: str
    name: str
    request: Message
    then: Callable[[Any], T]
    #: Seconds in addition to the client's.
    longer_s: float = 0.0

    def of(self, stubs: Stubs) -> Any:
        return getattr(getattr(stubs, self.service), self.name)


def _same(answer: Any) -> Any:
    return answer


def sessions() -> Call[list[regimes_pb2.Session]]:
    request = regimes_pb2.ListSessionsRequest()
    return Call("regimes", "ListSessions", request, lambda listed: list(listed.sessions))


def session(name: str) -> Call[regimes_pb2.Session]:
    def then(listed: regimes_pb2.ListSessionsResponse) -> regimes_pb2.Session:
        for one in listed.sessions:
            if one.name == name:
                return one
        known = ", ".join(s.name for s in listed.sessions)
        raise RegimedError(
            f"expected one of the sessions {known}, found '{name}'", grpc.StatusCode.NOT_FOUND
        )

    return Call("regimes", "ListSessions", regimes_pb2.ListSessionsRequest(), then)


def start(config: str) -> Call[regimes_pb2.Session]:
    request = control_pb2.StartSessionRequest(config=config)
    return Call("control", "StartSession", request, _same)


def stop(session: str) -> Call[regimes_pb2.Session]:
    request = control_pb2.StopSessionRequest(session=session)
    return Call("control", "StopSession", request, _same)


def pause(session: str) -> Call[regimes_pb2.Session]:
    request = control_pb2.PauseSessionRequest(session=session)
    return Call("control", "PauseSession", request, _same)


def resume(session: str) -> Call[regimes_pb2.Session]:
    request = control_pb2.ResumeSessionRequest(session=session)
    return Call("control", "ResumeSession", request, _same)


def swap(
    session: str, model: str, readout: str, warm_up_s: float, false_changes_per_min: float
) -> Call[regimes_pb2.Session]:
    request = control_pb2.SwapModelRequest(
        session=session,
        model=model,
        readout=readout,
        warm_up_s=warm_up_s,
        false_changes_per_min=false_changes_per_min,
    )
    # It answers when the model is in force.
    return Call("control", "SwapModel", request, _same, 10 * max(warm_up_s, 2.0))


def arm(session: str, armed: bool) -> Call[regimes_pb2.Session]:
    request = control_pb2.ArmTriggersRequest(session=session, armed=armed)
    return Call("control", "ArmTriggers", request, _same)


def annotate(session: str, text: str, source: str) -> Call[actions_pb2.Annotation]:
    request = control_pb2.AnnotateRequest(session=session, text=text, source=source)
    return Call("control", "Annotate", request, _same)


def notes(session: str) -> Call[list[actions_pb2.Annotation]]:
    request = regimes_pb2.ListAnnotationsRequest(session=session)
    return Call("regimes", "ListAnnotations", request, lambda listed: list(listed.annotations))


def seek(session: str, position_s: float) -> Call[regimes_pb2.Session]:
    request = control_pb2.SeekRequest(session=session, position_s=position_s)
    return Call("control", "Seek", request, _same)


def updates(session: str, every: int) -> Message:
    return regimes_pb2.SubscribeDecisionsRequest(session=session, every=every)


def reply(message: Any) -> Any:
    """What an answer of ``Exchange`` holds."""
    return getattr(message, message.WhichOneof("reply"))


class Resuming:
    """Where a reader of events stands, over lost connections."""

    def __init__(self, session: str, after: int, reconnect: bool):
        self.session, self.after, self.reconnect = session, after, reconnect
        self._wait = RETRY_S[0]

    def request(self) -> Message:
        return regimes_pb2.SubscribeEventsRequest(
            session=self.session, after_event_sequence=self.after
        )

    def take(self, event: Any) -> Any:
        self.after, self._wait = event.event_sequence, RETRY_S[0]
        return event

    def ended(self, listed: list[regimes_pb2.Session]) -> bool:
        """Whether the session has ended, not its daemon."""
        return all(s.name != self.session for s in listed)

    def failed(self, error: Exception) -> None:
        """Passes what may pass.

        Raises
        ------
        RegimedError
            What does not.
        """
        if isinstance(error, grpc.RpcError):
            error = refused(error)
        if not self.reconnect or error.code not in PASSING:  # type: ignore[attr-defined]
            raise error from None

    def pause(self) -> float:
        """Seconds until the daemon is asked again."""
        wait = self._wait
        self._wait = min(2 * wait, RETRY_S[1])
        return wait


class Counting:
    """Messages of counts to a session, numbered one after the other."""

    def __init__(self, of: regimes_pb2.Session, numbers: Numbers, first: Optional[int]):
        self._of, self._numbers = of, numbers
        self.sequence = numbers.first(of, first)

    def message(
        self, counts: ArrayLike, sequence: Optional[int], rig_time_ns: int, masked: Any
    ) -> counts_pb2.Counts:
        of = self._of
        first = self.sequence if sequence is None else sequence
        return counts_message(
            of.name, of.bin_width_s, of.n_channels, first, counts, rig_time_ns, masked
        )

    def sent(self, message: counts_pb2.Counts) -> counts_pb2.Counts:
        """The message, which is on its way."""
        of = self._of
        self.sequence = message.sequence + len(message.counts) // of.n_channels
        self._numbers.sent(of.name, self.sequence)
        return message


class Spiking:
    """Messages of spike events to a session, numbered from 1."""

    def __init__(self, of: regimes_pb2.Session, publisher: str):
        self._of, self._publisher, self._numbers = of, publisher, _from_one()

    def message(
        self, times_ns: ArrayLike, channels: ArrayLike, until_ns: int = 0
    ) -> counts_pb2.Spikes:
        of, number = self._of, next(self._numbers)
        return spikes_message(
            of.name, of.n_channels, number, times_ns, channels, until_ns, self._publisher
        )


def _from_one() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number
