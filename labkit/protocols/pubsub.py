"""Pub-Sub over NATS: both sides dial a broker, and neither knows the other.

At-most-once: core NATS, fire and forget. At-least-once: JetStream; every publish is acknowledged by the stream,
every delivery by the subscriber's durable consumer, and what is not acknowledged is sent again. Durable is the same
on a broker that syncs each write to the disk.
Source: NATS client protocol; JetStream's streams and consumers (ADR-8, ADR-13).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from labkit.event import sequence_of
from labkit.ledger import EVERYONE, Kind, Ledger
from labkit.protocols.base import CONNECT_LIMIT, Backoff, Consumer, Producer
from labkit.protocols.jetstream import FAILURES, Stream, dial, hang_up, stream_name
from labkit.trial import Trial
from labkit.workload import Scheduled

UNSENT = 64 * 1024
"""Bytes that may wait in the client and still count as drained."""

ALIVE = "labkit-alive"
"""A subject that nobody subscribes to."""

DRAINED = 256
"""Publishes that may wait for the stream's acknowledgement and still count as drained."""


def _requests(trial: Trial) -> str:
    """The subject of a trial's requests; no subscription to events covers it."""
    return f"labkit-requests.{trial.uid}"


async def _echo(message: Msg) -> None:
    await message.respond(message.data)


class PubSubProducer(Producer):
    """The publisher. The subject of an event is `labkit.<trial>.<topic>`."""

    _client: Client | None = None
    _stream: Stream | None = None

    async def connect(self, peer: str | None, spared: str | None = None) -> None:
        assert peer is not None

        async def lost() -> None:
            self.ledger.write(Kind.DISCONNECTED)

        async def found() -> None:
            self.ledger.write(Kind.CONNECTED)

        self._client = await dial(peer, Backoff(self.trial, EVERYONE), lost, found)
        self._prefix = f"labkit.{self.trial.uid}"
        if self.trial.duplex:
            await self._client.subscribe(_requests(self.trial), cb=_echo)
            await self._client.flush()
        if self.recovers:
            self._stream = Stream(self.trial, self._client, self.tasks, self._kept)
            await self._stream.open()

    def _kept(self, item: Scheduled) -> None:
        self.ledger.write(Kind.ACCEPTED, item.sequence, value=len(item.raw))

    async def publish(self, item: Scheduled) -> None:
        if self._stream:
            await self._stream.submit(item)
            return
        assert self._client
        try:
            await self._client.publish(f"{self._prefix}.{item.topic}", item.raw)
        except nats.errors.Error:
            self.ledger.write(Kind.REJECTED, item.sequence)

    async def pending(self) -> int:
        """Publishes without acknowledgement, and what the durable consumers still have to get or to acknowledge."""
        if not self._stream:
            return 0
        try:
            infos = await self._stream.jetstream.consumers_info(self._stream.name)
        except FAILURES:
            return 1 + len(self._stream.unacknowledged)  # a broker that does not answer holds at least its answer
        owed = sum((info.num_pending or 0) + (info.num_ack_pending or 0) for info in infos)
        return len(self._stream.unacknowledged) + owed

    async def drain(self) -> None:
        assert self._client
        if self._stream:
            while len(self._stream.unacknowledged) > DRAINED:
                await asyncio.sleep(0)
        elif self._client.pending_data_size > UNSENT:
            await self._client.flush()

    async def close(self) -> None:
        await super().close()
        if self._client is None:
            return
        if self._stream and self._client.is_connected:
            await self._stream.delete()
        await hang_up(self._client)


class PubSubConsumer(Consumer):
    """The subscribers, one connection each."""

    def __init__(self, trial: Trial, ledger: Ledger, hosts: range | None = None) -> None:
        super().__init__(trial, ledger, hosts)
        self._clients: dict[int, Client] = {}
        self._heard = dict.fromkeys(self.hosts, 0.0)

    def resume(self, received: dict[int, list[int]]) -> None:
        super().resume(received)
        self._heard = dict.fromkeys(self.hosts, monotonic())

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        for subscriber in self.hosts:
            await self._subscribe(peer, subscriber)

    async def _subscribe(self, peer: str, subscriber: int) -> None:
        async def lost() -> None:
            self.down(subscriber, "the connection to the broker was lost")

        async def found() -> None:
            backoff.reset()
            self.up(subscriber)

        def failed(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError):
                self.ledger.write(Kind.OVERFLOWED, subscriber=subscriber)

        backoff = Backoff(self.trial, subscriber)
        client = await dial(peer, backoff, lost, found, failed)
        self._clients[subscriber] = client
        subject = f"labkit.{self.trial.uid}.{self.trial.workload.interest(subscriber) or '>'}"
        if self.recovers:
            await self._subscribe_durably(client, subject, subscriber)
            self.tasks.start(self._watch(client, subscriber))
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

        until = monotonic() + CONNECT_LIMIT
        while True:
            try:
                await client.jetstream().subscribe(
                    subject,
                    stream=stream_name(self.trial.uid),
                    durable=f"s{subscriber:04d}",
                    cb=acknowledge,
                    manual_ack=True,
                    config=ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=self.timings.ack),
                )
                return
            except nats.js.errors.Error as error:
                # The broker may not have noticed yet that the subscriber's earlier process is gone.
                if "already bound" not in str(error) or monotonic() > until:
                    raise
                await asyncio.sleep(self.timings.retry)

    async def ask(self, item: Scheduled) -> None:
        """NATS's own request and reply: the answer comes to an inbox of the client's."""
        self.tasks.start(self._ask(item, self.asks(item)))

    async def _ask(self, item: Scheduled, subscriber: int) -> None:
        client = self._clients[subscriber]
        try:
            reply = await client.request(_requests(self.trial), item.raw, timeout=self.timings.request)
        except FAILURES:
            self.ledger.write(Kind.REJECTED, item.sequence, subscriber)
        else:
            self.ledger.received(subscriber, sequence_of(reply.data), reply.data)

    async def _watch(self, client: Client, subscriber: int) -> None:
        """After a heartbeat without a message, asks whether the broker is alive; if it is not, connects anew.

        Begins with the first message: until then, nothing has been missed.
        """
        heartbeat = self.timings.heartbeat
        while True:
            await asyncio.sleep(heartbeat)
            heard = self._heard[subscriber]
            if not heard or monotonic() - heard < heartbeat or not client.is_connected:
                continue
            try:
                # A request that nobody is there to answer is answered by the broker itself, at once.
                await client.request(ALIVE, timeout=heartbeat)
            except nats.errors.NoRespondersError:
                pass
            except FAILURES:
                await client.force_reconnect()

    def _handler(self, subscriber: int) -> Callable[[Msg], Awaitable[None]]:
        async def receive(message: Msg) -> None:
            self.ledger.received(subscriber, sequence_of(message.data), message.data)
            self._heard[subscriber] = monotonic()

        return receive

    async def close(self) -> None:
        await super().close()
        await hang_up(*self._clients.values())
