"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import Optional, Union

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from regimed.v1 import actions_pb2, decisions_pb2, ingest_pb2, regimes_pb2

from . import _calls
from ._access import Access, RegimedError, raise_rejected, refused
from ._calls import Call, Counting, Resuming, Spiking, Stubs, T

Path = Union[str, "os.PathLike[str]"]


class AsyncClient:
    """As `regimed.Client`, for asyncio: the same names, parameters and errors.

    >>> async with AsyncClient() as daemon:
    ...     async for event in daemon.events("rig"):
    ...         print(event.to)
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
        self._stubs = Stubs(access, grpc.aio)

    async def close(self) -> None:
        """Ends the connection and all streams on it."""
        await self._stubs.channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _do(self, call: Call[T]) -> T:
        stubs, timeout = self._stubs, self.timeout + call.longer_s
        try:
            answer = await call.of(stubs)(call.request, timeout=timeout, metadata=stubs.metadata)
        except grpc.RpcError as error:
            raise refused(error) from None
        return call.then(answer)

    async def sessions(self) -> list[regimes_pb2.Session]:
        """The sessions that run."""
        return await self._do(_calls.sessions())

    async def session(self, name: str) -> regimes_pb2.Session:
        """One session."""
        return await self._do(_calls.session(name))

    async def start_session(self, config: str) -> regimes_pb2.Session:
        """Starts a session from a ``[[session]]`` table in TOML."""
        return await self._do(_calls.start(config))

    async def stop_session(self, session: str) -> regimes_pb2.Session:
        """Ends a session."""
        return await self._do(_calls.stop(session))

    async def pause_session(self, session: str) -> regimes_pb2.Session:
        """Refuses the session's counts until it is resumed."""
        return await self._do(_calls.pause(session))

    async def resume_session(self, session: str) -> regimes_pb2.Session:
        """Takes the session's counts again."""
        return await self._do(_calls.resume(session))

    async def swap_model(
        self,
        session: str,
        model: str = "",
        readout: str = "",
        warm_up_s: float = 0.0,
        false_changes_per_min: float = 0.0,
    ) -> regimes_pb2.Session:
        """Gives the session another model, or another rate of false changes, between two bins: see
        `regimed.Client.swap_model`."""
        call = _calls.swap(session, model, readout, warm_up_s, false_changes_per_min)
        return await self._do(call)

    async def arm_triggers(self, session: str, armed: bool = True) -> regimes_pb2.Session:
        """Lets the session's triggers act, or not any more."""
        return await self._do(_calls.arm(session, armed))

    async def annotate(
        self, session: str, text: str, source: str = "python"
    ) -> actions_pb2.Annotation:
        """Notes something at the session's newest bin: kept in the journal, shown on the page,
        exported."""
        return await self._do(_calls.annotate(session, text, source))

    async def annotations(self, session: str) -> list[actions_pb2.Annotation]:
        """The session's newest annotations, oldest first."""
        return await self._do(_calls.notes(session))

    async def seek(self, session: str, position_s: float) -> regimes_pb2.Session:
        """Has a session that replays a recording go on from another place in it."""
        return await self._do(_calls.seek(session, position_s))

    async def updates(
        self, session: str = "", every: int = 1
    ) -> AsyncIterator[regimes_pb2.DecisionUpdate]:
        """Every ``every``-th decision from now on, with the number of updates that this reader has
        lost so far."""
        stubs = self._stubs
        request = _calls.updates(session, every)
        call = stubs.regimes.SubscribeDecisions(request, metadata=stubs.metadata)
        try:
            async for update in call:
                yield update
        except grpc.RpcError as error:
            raise refused(error) from None
        finally:
            call.cancel()

    async def decisions(
        self, session: str = "", every: int = 1
    ) -> AsyncIterator[decisions_pb2.Decision]:
        """Every ``every``-th decision from now on."""
        async for update in self.updates(session, every):
            yield update.decision

    async def events(
        self, session: str, after: Optional[int] = None, reconnect: bool = True
    ) -> AsyncIterator[decisions_pb2.Event]:
        """Regime events, each once and in order, over lost connections and restarts: see
        `regimed.Client.events`."""
        if after is None:
            after = (await self.session(session)).last_event_sequence
        at = Resuming(session, after, reconnect)
        while True:
            call = self._stubs.regimes.SubscribeEvents(
                at.request(), metadata=self._stubs.metadata
            )
            try:
                async for event in call:
                    yield at.take(event)
                if not reconnect or at.ended(await self.sessions()):
                    return
            except (grpc.RpcError, RegimedError) as error:
                at.failed(error)
            finally:
                call.cancel()
            await asyncio.sleep(at.pause())

    async def exchange(
        self, session: str, bins: AsyncIterable[ArrayLike], first_sequence: Optional[int] = None
    ) -> AsyncIterator[Union[decisions_pb2.Decision, decisions_pb2.Event, ingest_pb2.Rejection]]:
        """Sends counts ``[n_channels]`` or ``[n_bins, n_channels]`` and gives back what the daemon
        makes of them."""
        numbered = Counting(await self.session(session), self._stubs.numbers, first_sequence)

        async def messages():
            async for counts in bins:
                yield numbered.sent(numbered.message(counts, None, 0, ()))

        call = self._stubs.ingest.Exchange(messages(), metadata=self._stubs.metadata)
        try:
            async for reply in call:
                yield _calls.reply(reply)
        except grpc.RpcError as error:
            raise refused(error) from None
        finally:
            call.cancel()

    async def send_spikes(
        self,
        session: str,
        events: AsyncIterable[tuple[ArrayLike, ArrayLike]],
        publisher: str = "",
        raises: bool = True,
    ) -> ingest_pb2.SpikesSummary:
        """Sends spike events, ``(times_ns, channels)`` each, until there are no more; what became
        of them."""
        numbered = Spiking(await self.session(session), publisher)

        async def messages():
            async for times_ns, channels in events:
                yield numbered.message(times_ns, channels)

        stubs = self._stubs
        try:
            summary = await stubs.ingest.SendSpikes(messages(), metadata=stubs.metadata)
        except grpc.RpcError as error:
            raise refused(error) from None
        if raises:
            raise_rejected(summary)
        return summary
