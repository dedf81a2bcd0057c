"""NATS and JetStream for those who publish: a connection that mends itself, and a stream that acknowledges.

A submitted event is submitted again, under the same id, until the stream has acknowledged it; the stream drops repeats.
Source: NATS client protocol; JetStream's streams (ADR-8) and their de-duplication by `Nats-Msg-Id`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, NamedTuple

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from labkit.errors import TrialError
from labkit.event import encode_id, sequence_of
from labkit.protocols.base import CONNECT_LIMIT, Backoff, Tasks, every
from labkit.trial import Trial
from labkit.workload import Scheduled

BATCH = 1000
FAILURES = (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error)
"""What a request to a broker that may be gone ends with."""


async def nothing() -> None:
    """What is done about a lost or regained connection where nobody needs to know."""


async def dial(
    url: str,
    backoff: Backoff,
    lost: Callable[[], Awaitable[None]] = nothing,
    found: Callable[[], Awaitable[None]] = nothing,
    failed: Callable[[Exception], None] = lambda error: None,
) -> Client:
    """A connected client that reconnects forever, with the lab's own waits; `failed` is told of its errors."""
    client = Client()

    def choose(servers: list[Any], info: dict[str, Any]) -> tuple[Any, float]:
        return servers[0], backoff.next()

    async def note(error: Exception) -> None:
        failed(error)

    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            await client.connect(
                url,
                error_cb=note,
                allow_reconnect=False,
                reconnect_to_server_handler=choose,
                connect_timeout=1,
                disconnected_cb=lost,
                reconnected_cb=found,
            )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        reason = str(error) or type(error).__name__
        raise TrialError(
            f"The broker at {_shown(url)} does not answer ({reason}); start it, or unset LABKIT_NATS."
        ) from error
    client.options.update(allow_reconnect=True, max_reconnect_attempts=-1)
    return client


async def hang_up(*clients: Client) -> None:
    """Closes connections, in whatever state they are: of one just lost, the library lets the errors out of close()."""
    await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)


def _shown(url: str) -> str:
    """The URL without credentials."""
    return url.rsplit("@", 1)[-1].removeprefix("nats://")


async def sweep(url: str, names: set[str]) -> None:
    """Removes these streams from a broker, where a trial that was interrupted has left them."""
    client = await nats.connect(url, allow_reconnect=False, connect_timeout=1)
    try:
        manager = client.jsm()
        for stream in await manager.streams_info():
            if stream.config.name in names:
                await manager.delete_stream(stream.config.name)
    finally:
        await hang_up(client)


def stream_name(uid: str) -> str:
    """The name of a trial's stream."""
    return f"labkit-{uid}"


class _Submitted(NamedTuple):
    item: Scheduled
    since: float
    future: "asyncio.Future[Any]"


class Stream:
    """A trial's stream on file storage, as its publisher sees it. The subject of an event is `<prefix>.<topic>`.

    `kept` is told of each event that the stream has acknowledged.
    """

    def __init__(self, trial: Trial, client: Client, tasks: Tasks, kept: Callable[[Scheduled], None]) -> None:
        self.name, self._prefix = stream_name(trial.uid), f"labkit.{trial.uid}"
        self._timings, self._tasks, self._kept = trial.timings, tasks, kept
        self.jetstream = client.jetstream(publish_async_max_pending=100_000, timeout=CONNECT_LIMIT)
        self.unacknowledged: dict[int, _Submitted | None] = {}

    async def open(self) -> None:
        """Makes the stream, or finds it as it was left. TrialError where the broker has no JetStream."""
        config = StreamConfig(
            name=self.name,
            subjects=[self._prefix + ".>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
        )
        try:
            await self.jetstream.add_stream(config)
        except FAILURES as error:
            raise TrialError(f"The broker has no JetStream for this guarantee ({error}); switch it on.") from error
        self._tasks.start(every(self._timings.ack / 2, self._look_for_lost))

    async def submit(self, item: Scheduled) -> None:
        """Sends one event; its id lets the stream drop the repeat when only an acknowledgement got lost."""

        def ended(future: "asyncio.Future[Any]") -> None:
            if item.sequence not in self.unacknowledged:
                return
            if future.cancelled() or future.exception():
                self.unacknowledged[item.sequence] = None
                self._tasks.start(self._again(item))
            else:
                del self.unacknowledged[item.sequence]
                self._kept(item)

        self.unacknowledged.setdefault(item.sequence, None)
        headers = {"Nats-Msg-Id": encode_id(item.sequence)}
        try:
            future = await self.jetstream.publish_async(f"{self._prefix}.{item.topic}", item.raw, headers=headers)
        except FAILURES:
            self._tasks.start(self._again(item))
            return
        self.unacknowledged[item.sequence] = _Submitted(item, monotonic(), future)
        future.add_done_callback(ended)

    async def _again(self, item: Scheduled) -> None:
        await asyncio.sleep(self._timings.retry)
        await self.submit(item)

    async def _look_for_lost(self) -> None:
        """An acknowledgement that was lost with its connection never comes: the library itself would wait forever."""
        since = monotonic() - self._timings.ack
        for submitted in list(self.unacknowledged.values()):
            if submitted and submitted.since < since:
                submitted.future.cancel()

    async def read(self) -> list[Scheduled]:
        """All events the stream holds, by sequence number; what it is told later comes after them."""
        held = (await self.jetstream.stream_info(self.name)).state.messages
        config = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=2 * CONNECT_LIMIT)
        reader = await self.jetstream.pull_subscribe(self._prefix + ".>", stream=self.name, config=config)
        messages: list[Msg] = []
        while len(messages) < held:
            messages += await reader.fetch(min(BATCH, held - len(messages)), timeout=CONNECT_LIMIT)
        await reader.unsubscribe()
        topic = len(self._prefix) + 1
        found = {
            number: Scheduled(0, number, m.subject[topic:], m.data)
            for m in messages
            if (number := sequence_of(m.data)) >= 0
        }
        return [found[number] for number in sorted(found)]

    async def delete(self) -> None:
        """Removes the stream and all it holds, unless the broker is gone."""
        try:
            await self.jetstream.delete_stream(self.name)
        except FAILURES:
            pass  # with its broker went the only one who could remove it
