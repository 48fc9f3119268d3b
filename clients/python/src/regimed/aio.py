"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from typing import Optional, Union

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from regimed.v1 import (
    actions_pb2,
    control_pb2,
    control_pb2_grpc,
    decisions_pb2,
    ingest_pb2,
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
    raise_rejected,
    refused,
    spikes_message,
)

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
        self._metadata = access.metadata
        self._numbers = Numbers()
        self._channel = access.channel(grpc.aio)
        self._ingest = ingest_pb2_grpc.IngestStub(self._channel)
        self._regimes = regimes_pb2_grpc.RegimesStub(self._channel)
        self._control = control_pb2_grpc.ControlStub(self._channel)

    async def close(self) -> None:
        """Ends the connection and all streams on it."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, call, request, timeout=None):
        try:
            return await call(request, timeout=timeout or self.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise refused(error) from None

    async def sessions(self) -> list[regimes_pb2.Session]:
        """The sessions that run."""
        return list(
            (
                await self._call(self._regimes.ListSessions, regimes_pb2.ListSessionsRequest())
            ).sessions
        )

    async def session(self, name: str) -> regimes_pb2.Session:
        """One session."""
        listed = await self.sessions()
        for session in listed:
            if session.name == name:
                return session
        known = ", ".join(s.name for s in listed)
        raise RegimedError(
            f"expected one of the sessions {known}, found '{name}'", grpc.StatusCode.NOT_FOUND
        )

    async def start_session(self, config: str) -> regimes_pb2.Session:
        """Starts a session from a ``[[session]]`` table in TOML."""
        return await self._call(
            self._control.StartSession, control_pb2.StartSessionRequest(config=config)
        )

    async def stop_session(self, session: str) -> regimes_pb2.Session:
        """Ends a session."""
        return await self._call(
            self._control.StopSession, control_pb2.StopSessionRequest(session=session)
        )

    async def pause_session(self, session: str) -> regimes_pb2.Session:
        """Refuses the session's counts until it is resumed."""
        return await self._call(
            self._control.PauseSession, control_pb2.PauseSessionRequest(session=session)
        )

    async def resume_session(self, session: str) -> regimes_pb2.Session:
        """Takes the session's counts again."""
        return await self._call(
            self._control.ResumeSession, control_pb2.ResumeSessionRequest(session=session)
        )

    async def swap_model(
        self, session: str, model: str, readout: str = "", warm_up_s: float = 0.0
    ) -> regimes_pb2.Session:
        """Gives the session another model between two bins."""
        request = control_pb2.SwapModelRequest(
            session=session, model=model, readout=readout, warm_up_s=warm_up_s
        )
        return await self._call(
            self._control.SwapModel, request, self.timeout + 10 * max(warm_up_s, 2.0)
        )

    async def arm_triggers(self, session: str, armed: bool = True) -> regimes_pb2.Session:
        """Lets the session's triggers act, or not any more."""
        request = control_pb2.ArmTriggersRequest(session=session, armed=armed)
        return await self._call(self._control.ArmTriggers, request)

    async def annotate(
        self, session: str, text: str, source: str = "python"
    ) -> actions_pb2.Annotation:
        """Notes something at the session's newest bin: kept in the journal, shown on the page,
        exported."""
        request = control_pb2.AnnotateRequest(session=session, text=text, source=source)
        return await self._call(self._control.Annotate, request)

    async def annotations(self, session: str) -> list[actions_pb2.Annotation]:
        """The session's newest annotations, oldest first."""
        request = regimes_pb2.ListAnnotationsRequest(session=session)
        return list((await self._call(self._regimes.ListAnnotations, request)).annotations)

    async def seek(self, session: str, position_s: float) -> regimes_pb2.Session:
        """Has a session that replays a recording go on from another place in it."""
        return await self._call(
            self._control.Seek, control_pb2.SeekRequest(session=session, position_s=position_s)
        )

    async def updates(
        self, session: str = "", every: int = 1
    ) -> AsyncIterator[regimes_pb2.DecisionUpdate]:
        """Every ``every``-th decision from now on, with the number of updates that this reader has
        lost so far."""
        request = regimes_pb2.SubscribeDecisionsRequest(session=session, every=every)
        call = self._regimes.SubscribeDecisions(request, metadata=self._metadata)
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
        wait = RETRY_S[0]
        while True:
            request = regimes_pb2.SubscribeEventsRequest(
                session=session, after_event_sequence=after
            )
            call = self._regimes.SubscribeEvents(request, metadata=self._metadata)
            try:
                async for event in call:
                    after, wait = event.event_sequence, RETRY_S[0]
                    yield event
                # The session has ended, or its daemon ends.
                if not reconnect or all(s.name != session for s in await self.sessions()):
                    return
            except grpc.RpcError as error:
                if not reconnect or error.code() not in PASSING:
                    raise refused(error) from None
            except RegimedError as error:
                if error.code not in PASSING:
                    raise
            finally:
                call.cancel()
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_S[1])

    async def exchange(
        self, session: str, bins: AsyncIterable[ArrayLike], first_sequence: Optional[int] = None
    ) -> AsyncIterator[Union[decisions_pb2.Decision, decisions_pb2.Event, ingest_pb2.Rejection]]:
        """Sends counts ``[n_channels]`` or ``[n_bins, n_channels]`` and gives back what the daemon
        makes of them."""
        of = await self.session(session)
        first = self._numbers.first(of, first_sequence)

        async def messages():
            sequence = first
            async for counts in bins:
                message = counts_message(
                    of.name, of.bin_width_s, of.n_channels, sequence, counts, 0, ()
                )
                sequence += len(message.counts) // of.n_channels
                self._numbers.sent(of.name, sequence)
                yield message

        call = self._ingest.Exchange(messages(), metadata=self._metadata)
        try:
            async for reply in call:
                yield getattr(reply, reply.WhichOneof("reply"))
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
        of = await self.session(session)

        async def messages():
            number = 0
            async for times_ns, channels in events:
                number += 1
                yield spikes_message(
                    of.name, of.n_channels, number, times_ns, channels, 0, publisher
                )

        try:
            summary = await self._ingest.SendSpikes(messages(), metadata=self._metadata)
        except grpc.RpcError as error:
            raise refused(error) from None
        if raises:
            raise_rejected(summary)
        return summary
