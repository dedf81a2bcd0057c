"""Pub-Sub over NATS: both sides dial a broker, and neither knows the other.

At-most-once: core NATS, fire and forget. At-least-once: JetStream; every publish is acknowledged by the stream,
every delivery by the subscriber's durable consumer, and what is not acknowledged is sent again.
Source: NATS client protocol; JetStream's streams and consumers (ADR-8, ADR-13).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from labkit.errors import TrialError
from labkit.event import encode_id, sequence_of
from labkit.ledger import EVERYONE, Kind, Ledger
from labkit.protocols.base import CONNECT_LIMIT, Backoff, Consumer, Producer
from labkit.trial import Trial
from labkit.workload import Scheduled

UNSENT = 64 * 1024
"""Bytes that may wait in the client and still count as drained."""

DRAINED = 256
"""Publishes that may wait for the stream's acknowledgement and still count as drained."""


async def _ignore(error: Exception) -> None:
    """What a client says about a connection it is about to mend; the callbacks record the loss itself."""


async def _nothing() -> None:
    """What a publisher does about a lost connection: its client keeps what fits its buffer, and reconnects."""


async def _dial(
    url: str,
    backoff: Backoff,
    lost: Callable[[], Awaitable[None]] = _nothing,
    found: Callable[[], Awaitable[None]] = _nothing,
) -> Client:
    """A connected client that reconnects forever, with the lab's own waits."""
    client = Client()

    def choose(servers: list[Any], info: dict[str, Any]) -> tuple[Any, float]:
        return servers[0], backoff.next()

    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            await client.connect(
                url,
                error_cb=_ignore,
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


def _shown(url: str) -> str:
    """The URL without credentials."""
    return url.rsplit("@", 1)[-1].removeprefix("nats://")


class PubSubProducer(Producer):
    """The publisher. The subject of an event is `labkit.<trial>.<topic>`."""

    _client: Client | None = None
    _jetstream: JetStreamContext | None = None

    async def connect(self, peer: str | None) -> None:
        assert peer is not None
        self._client = await _dial(peer, Backoff(self.trial, EVERYONE))
        self._prefix = f"labkit.{self.trial.uid}"
        self._stream = f"labkit-{self.trial.uid}"
        self._unacknowledged: set[int] = set()
        if self.recovers:
            self._jetstream = await self._with_stream(self._client)

    async def _with_stream(self, client: Client) -> JetStreamContext:
        jetstream = client.jetstream(publish_async_max_pending=100_000)
        config = StreamConfig(
            name=self._stream,
            subjects=[self._prefix + ".>"],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
        )
        try:
            await jetstream.add_stream(config)
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise TrialError(f"The broker has no JetStream for at-least-once ({error}); switch it on.") from error
        return jetstream

    async def publish(self, item: Scheduled) -> None:
        subject = f"{self._prefix}.{item.topic}"
        if self._jetstream:
            self._unacknowledged.add(item.sequence)
            await self._submit(self._jetstream, subject, item)
            return
        assert self._client
        try:
            await self._client.publish(subject, item.raw)
        except nats.errors.Error:
            self.ledger.write(Kind.REJECTED, item.sequence)

    async def _submit(self, jetstream: JetStreamContext, subject: str, item: Scheduled) -> None:
        """One publish; its id lets the stream drop the repeat when an acknowledgement got lost."""

        def acknowledged(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                return
            if future.exception():
                self.tasks.start(self._again(jetstream, subject, item))
            else:
                self._unacknowledged.discard(item.sequence)

        headers = {"Nats-Msg-Id": encode_id(item.sequence)}
        future = await jetstream.publish_async(subject, item.raw, headers=headers)
        future.add_done_callback(acknowledged)

    async def _again(self, jetstream: JetStreamContext, subject: str, item: Scheduled) -> None:
        await asyncio.sleep(self.timings.retry)
        await self._submit(jetstream, subject, item)

    async def pending(self) -> int:
        """Publishes without acknowledgement, and what the durable consumers still have to get or to acknowledge."""
        if not self._jetstream:
            return 0
        infos = await self._jetstream.consumers_info(self._stream)
        owed = sum((info.num_pending or 0) + (info.num_ack_pending or 0) for info in infos)
        return len(self._unacknowledged) + owed

    async def drain(self) -> None:
        assert self._client
        if self._jetstream:
            while len(self._unacknowledged) > DRAINED:
                await asyncio.sleep(0)
        elif self._client.pending_data_size > UNSENT:
            await self._client.flush()

    async def close(self) -> None:
        await super().close()
        if self._client is None:
            return
        if self._jetstream and self._client.is_connected:
            await self._jetstream.delete_stream(self._stream)
        await self._client.close()


class PubSubConsumer(Consumer):
    """The subscribers, one connection each."""

    def __init__(self, trial: Trial, ledger: Ledger) -> None:
        super().__init__(trial, ledger)
        self._clients: list[Client] = []

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        for subscriber in range(self.count):
            await self._subscribe(peer, subscriber)

    async def _subscribe(self, peer: str, subscriber: int) -> None:
        async def lost() -> None:
            self.down(subscriber, "the connection to the broker was lost")

        async def found() -> None:
            backoff.reset()
            self.up(subscriber)

        backoff = Backoff(self.trial, subscriber)
        client = await _dial(peer, backoff, lost, found)
        self._clients.append(client)
        subject = f"labkit.{self.trial.uid}.{self.trial.workload.interest(subscriber) or '>'}"
        if self.recovers:
            await self._subscribe_durably(client, subject, subscriber)
        else:
            await client.subscribe(subject, cb=self._handler(subscriber))
        # nats-py's PING overtakes a SUB that is still in its buffer; the second one follows it.
        await client.flush()
        await client.flush()
        self.up(subscriber)

    async def _subscribe_durably(self, client: Client, subject: str, subscriber: int) -> None:
        receive = self._handler(subscriber)

        async def acknowledge(message: Msg) -> None:
            await receive(message)
            await message.ack()

        await client.jetstream().subscribe(
            subject,
            stream=f"labkit-{self.trial.uid}",
            durable=f"s{subscriber:04d}",
            cb=acknowledge,
            manual_ack=True,
            config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=self.timings.ack),
        )

    def _handler(self, subscriber: int) -> Callable[[Msg], Awaitable[None]]:
        async def receive(message: Msg) -> None:
            self.ledger.received(subscriber, sequence_of(message.data), message.data)

        return receive

    async def close(self) -> None:
        await super().close()
        # A client that has just lost its connection lets a CancelledError out of close().
        await asyncio.gather(*(client.close() for client in self._clients), return_exceptions=True)
