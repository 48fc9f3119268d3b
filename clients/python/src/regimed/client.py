"""The synchronous client."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional, Union

import grpc
from numpy.typing import ArrayLike

from regimed.v1 import actions_pb2, decisions_pb2, ingest_pb2, regimes_pb2

from . import _calls
from ._access import Access, RegimedError, raise_rejected, refused
from ._calls import Call, Counting, Resuming, Spiking, Stubs, T

Path = Union[str, "os.PathLike[str]"]


class Client:
    """A daemon's gRPC services.

    Parameters
    ----------
    endpoint : str
        ``http://host:port``, ``https://host:port`` (TLS), or ``unix:///path/to/socket``.
    token, token_file : str, path, optional
        What the daemon asks for, where it asks who comes; a file's first word.
    ca : path, optional
        PEM file of the authority that the daemon's certificate is from; implies TLS.
    client_cert, client_key : path, optional
        PEM files of a certificate of one's own.
    timeout : float
        Seconds that a call waits for an answer; streams do not end by it.
    """

    def __init__(
        self,
        endpoint: str = "http://127.0.0.1:7733",
        *,
        token: Optional[str] = None,
        token_file: Optional[Path] = None,
        ca: Optional[Path] = None,
        client_cert: Optional[Path] = None,
        client_key: Optional[Path] = None,
        timeout: float = 10.0,
    ):
        access = Access(endpoint, token, token_file, ca, client_cert, client_key)
        self.timeout = timeout
        self._stubs = Stubs(access, grpc)

    def close(self) -> None:
        """Ends the connection and all streams on it."""
        self._stubs.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, call: Call[T]) -> T:
        stubs, timeout = self._stubs, self.timeout + call.longer_s
        try:
            answer = call.of(stubs)(call.request, timeout=timeout, metadata=stubs.metadata)
        except grpc.RpcError as error:
            raise refused(error) from None
        return call.then(answer)

    # ---- Sessions.

    def sessions(self) -> list[regimes_pb2.Session]:
        """The sessions that run, with what became of their bins."""
        return self._do(_calls.sessions())

    def session(self, name: str) -> regimes_pb2.Session:
        """One session.

        Raises
        ------
        RegimedError
            There is none of that name.
        """
        return self._do(_calls.session(name))

    def start_session(self, config: str) -> regimes_pb2.Session:
        """Starts a session from a ``[[session]]`` table in TOML; paths in it are the daemon's."""
        return self._do(_calls.start(config))

    def stop_session(self, session: str) -> regimes_pb2.Session:
        """Ends a session: what waits is done and published first."""
        return self._do(_calls.stop(session))

    def pause_session(self, session: str) -> regimes_pb2.Session:
        """Refuses the session's counts until it is resumed."""
        return self._do(_calls.pause(session))

    def resume_session(self, session: str) -> regimes_pb2.Session:
        """Takes the session's counts again."""
        return self._do(_calls.resume(session))

    def swap_model(
        self,
        session: str,
        model: str = "",
        readout: str = "",
        warm_up_s: float = 0.0,
        false_changes_per_min: float = 0.0,
    ) -> regimes_pb2.Session:
        """Gives the session another model between two bins; answers when it is in force.

        Parameters
        ----------
        session : str
            Session name.
        model : str
            Directory on the daemon's machine, or ``builtin``; empty: as now.
        readout : str
            Session of the model whose readout is used; empty: as now.
        warm_up_s : float
            Seconds of counts on which the model is warmed up; 0: 2 s.
        false_changes_per_min : float
            False changes a minute that the decision rule may make; 0: as now.
        """
        call = _calls.swap(session, model, readout, warm_up_s, false_changes_per_min)
        return self._do(call)

    def arm_triggers(self, session: str, armed: bool = True) -> regimes_pb2.Session:
        """Lets the session's triggers act, or not any more."""
        return self._do(_calls.arm(session, armed))

    def annotate(
        self, session: str, text: str, source: str = "python"
    ) -> actions_pb2.Annotation:
        """Notes something at the session's newest bin: kept in the journal, shown on the page,
        exported."""
        return self._do(_calls.annotate(session, text, source))

    def annotations(self, session: str) -> list[actions_pb2.Annotation]:
        """The session's newest annotations, oldest first."""
        return self._do(_calls.notes(session))

    def seek(self, session: str, position_s: float) -> regimes_pb2.Session:
        """Has a session that replays a recording go on from another place in it."""
        return self._do(_calls.seek(session, position_s))

    # ---- Out.

    def decisions(self, session: str = "", every: int = 1) -> Iterator[decisions_pb2.Decision]:
        """Every ``every``-th decision of a session (or, without a name, of all) from now on.

        Ends when the session does. What a slow reader loses is in `regimed_decisions_lost_total`;
        `updates` tells it as well. A lost daemon is an error: decisions are not kept, events are.
        """
        for update in self.updates(session, every):
            yield update.decision

    def updates(self, session: str = "", every: int = 1) -> Iterator[regimes_pb2.DecisionUpdate]:
        """As `decisions`, each with the number of updates that this reader has lost so far."""
        stubs = self._stubs
        request = _calls.updates(session, every)
        call = stubs.regimes.SubscribeDecisions(request, metadata=stubs.metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise refused(error) from None
        finally:
            call.cancel()

    def events(
        self, session: str, after: Optional[int] = None, reconnect: bool = True
    ) -> Iterator[decisions_pb2.Event]:
        """Regime events, each once and in order, over lost connections and restarts of the daemon.

        Parameters
        ----------
        session : str
            Session name.
        after : int, optional
            Resume behind this event number; 0 for all that are held. Without it, only what comes
            from now on.
        reconnect : bool
            Whether to wait for a daemon that is lost, and to go on behind the last event. Over a
            restart of the daemon this needs its journal.

        Raises
        ------
        RegimedError
            No such session; or events after that number are not held any more (`code` is
            OUT_OF_RANGE).
        """
        if after is None:
            after = self.session(session).last_event_sequence
        at = Resuming(session, after, reconnect)
        while True:
            call = self._stubs.regimes.SubscribeEvents(
                at.request(), metadata=self._stubs.metadata
            )
            try:
                for event in call:
                    yield at.take(event)
                if not reconnect or at.ended(self.sessions()):
                    return
            except (grpc.RpcError, RegimedError) as error:
                at.failed(error)
            finally:
                call.cancel()
            time.sleep(at.pause())

    # ---- In.

    def send(
        self, session: str, first_sequence: Optional[int] = None, raises: bool = True
    ) -> Sender:
        """Opens a stream of counts to a session: a context manager.

        Parameters
        ----------
        session : str
            Session name.
        first_sequence : int, optional
            Number of the first bin. Without it, bins are numbered on from the last that this client
            has sent, over streams and lost connections; or, where others have sent to the session,
            from the clock's microseconds.
        raises : bool
            Whether bins that were refused are an error at the end; else they are in
            `Sender.summary` alone.

        Examples
        --------
        >>> with daemon.send("rig") as rig:
        ...     rig.send(counts)
        """
        return Sender(self, self.session(session), first_sequence, raises)

    def send_spikes(self, session: str, publisher: str = "", raises: bool = True) -> SpikeSender:
        """Opens a stream of spike events to a session, which the daemon counts into bins: a context
        manager.

        >>> with daemon.send_spikes("rig") as rig:
        ...     rig.send(times_ns, channels)
        """
        return SpikeSender(self, self.session(session), publisher, raises)

    def exchange(
        self, session: str, bins: Iterable[ArrayLike], first_sequence: Optional[int] = None
    ) -> Iterator[Union[decisions_pb2.Decision, decisions_pb2.Event, ingest_pb2.Rejection]]:
        """Sends counts and gives back what the daemon makes of them, on one stream.

        Parameters
        ----------
        session : str
            Session name.
        bins : iterable of array_like
            Counts ``[n_channels]`` or ``[n_bins, n_channels]`` each; taken as the stream has room.
        first_sequence : int, optional
            Number of the first bin; without it, as `send` has it.
        """
        numbered = Counting(self.session(session), self._stubs.numbers, first_sequence)
        messages = (numbered.sent(numbered.message(counts, None, 0, ())) for counts in bins)
        call = self._stubs.ingest.Exchange(messages, metadata=self._stubs.metadata)
        try:
            for reply in call:
                yield _calls.reply(reply)
        except grpc.RpcError as error:
            raise refused(error) from None
        finally:
            call.cancel()


class _Stream:
    """Messages to the daemon, one after another, and its summary at the end.

    Attributes
    ----------
    summary : ingest_pb2.IngestSummary or ingest_pb2.SpikesSummary or None
        What became of what was sent, after `close`.
    """

    #: Messages that wait to be sent.
    ROOM = 1024

    def __init__(self, client: Client, call, raises: bool):
        self._waiting: queue.Queue = queue.Queue(self.ROOM)
        self._timeout = client.timeout
        self._raises = raises
        self.summary = None
        self._call = call.future(iter(self._waiting.get, None), metadata=client._stubs.metadata)
        self._done = threading.Event()
        self._call.add_done_callback(lambda _: self._done.set())

    def _put(self, message) -> None:
        end = time.monotonic() + self._timeout
        while not self._done.is_set():
            try:
                return self._waiting.put(message, timeout=0.05)
            except queue.Full:
                if time.monotonic() > end:
                    raise RegimedError(f"the daemon takes nothing for {self._timeout} s") from None
        self._ended()

    def _ended(self):
        try:
            self._call.result(timeout=0)
        except grpc.RpcError as error:
            raise refused(error) from None
        raise RegimedError("the stream has ended")

    def close(self):
        """Ends the stream when all is sent; what became of it.

        Raises
        ------
        RegimedError
            The daemon is lost; or something was refused, unless `raises` is false.
        """
        if self.summary is None:
            if not self._done.is_set():
                self._put(None)
            try:
                self.summary = self._call.result(timeout=self._timeout)
            except grpc.FutureTimeoutError:
                self._call.cancel()
                raise RegimedError(f"the daemon gave no summary within {self._timeout} s") from None
            except grpc.RpcError as error:
                raise refused(error) from None
            if self._raises:
                raise_rejected(self.summary)
        return self.summary

    def __enter__(self):
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._call.cancel()
            self._done.wait(1.0)


class Sender(_Stream):
    """A stream of counts to one session; `Client.send` opens it."""

    def __init__(
        self,
        client: Client,
        session: regimes_pb2.Session,
        first_sequence: Optional[int],
        raises: bool,
    ):
        super().__init__(client, client._stubs.ingest.SendCounts, raises)
        self._numbered = Counting(session, client._stubs.numbers, first_sequence)

    @property
    def sequence(self) -> int:
        """Number that the next bin gets."""
        return self._numbered.sequence

    def send(
        self,
        counts: ArrayLike,
        *,
        sequence: Optional[int] = None,
        rig_time_ns: int = 0,
        masked: Sequence[int] = (),
    ) -> int:
        """Sends one or more bins.

        Parameters
        ----------
        counts : array_like
            ``[n_channels]`` or ``[n_bins, n_channels]``, whole numbers from 0 to 4096.
        sequence : int, optional
            Number of the first of these bins, where it is not the next: what is left out is
            missing.
        rig_time_ns : int
            The rig's clock at the end of the first bin, nanoseconds; 0: not known.
        masked : sequence of int
            Channels without information (dead, stimulated, blanked).

        Returns
        -------
        int
            The number of the first of these bins.

        Raises
        ------
        ValueError
            Counts that are none.
        RegimedError
            The stream has ended, or takes nothing for `Client.timeout` seconds.
        """
        message = self._numbered.message(counts, sequence, rig_time_ns, masked)
        self._put(message)
        return self._numbered.sent(message).sequence


class SpikeSender(_Stream):
    """A stream of spike events to one session; `Client.send_spikes` opens it."""

    def __init__(self, client: Client, session: regimes_pb2.Session, publisher: str, raises: bool):
        super().__init__(client, client._stubs.ingest.SendSpikes, raises)
        self._numbered = Spiking(session, publisher)

    def send(self, times_ns: ArrayLike, channels: ArrayLike, *, until_ns: int = 0) -> None:
        """Sends events; they need not be sorted.

        Parameters
        ----------
        times_ns : array_like of int
            Time of each on the rig's clock, nanoseconds from any epoch.
        channels : array_like of int
            Channel of each, from 0.
        until_ns : int
            All events before this time are sent, so that bins which end by it may close; without
            it, the newest event's time. A message without events keeps a silent rig's bins closing.

        Raises
        ------
        ValueError
            Times and channels that do not belong together, or are none.
        RegimedError
            The stream has ended, or takes nothing for `Client.timeout` seconds.
        """
        self._put(self._numbered.message(times_ns, channels, until_ns))
