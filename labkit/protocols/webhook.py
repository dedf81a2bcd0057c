"""Webhook: the producer POSTs each event to every endpoint it was configured with (Standard Webhooks 1.0).

At-most-once: one POST per event, no retry. At-least-once: retries with backoff; the consumer drops repeated ids.
Durable: the producer remembers how far each endpoint has come, and a new process goes on from there.
Subscribing happens beforehand and out of band: both sides know the endpoints and their secrets.
"""

import asyncio

from aiohttp import web

from labkit.event import encode_id, sequence_of
from labkit.protocols.base import Consumer, Producer, every
from labkit.protocols.delivery import SAVE_EVERY, Endpoint, Receiver, Table, derived_secret, drained
from labkit.workload import Scheduled


class WebhookProducer(Producer):
    """The client: one queue and one POST at a time for each endpoint."""

    async def open(self, port: int = 0) -> str | None:
        """A webhook's producer has no server, but in a duplex trial it has one that takes requests."""
        return await self.serve(web.Application(), port) if self.trial.duplex else None

    async def connect(self, peer: str | None, spared: str | None = None) -> None:
        self._client = await self.client(self.timings.request)
        self._endpoints: list[tuple[str | None, Endpoint]] = []
        for subscriber in range(self.trial.workload.subscribers if peer else 0):
            url = peer if subscriber < self.trial.struck else spared
            self.add_endpoint(f"{url}/hooks/{subscriber}", self.trial.workload.interest(subscriber))
        if self.durable:
            self._catch_up()
            await self._save()
            self.tasks.start(every(SAVE_EVERY, self._save))

    def _catch_up(self) -> None:
        """Queues what the log holds and a predecessor had not delivered; what it had, but not saved, comes again."""
        for row in Table(self.ledger).load():
            topic, endpoint = self._endpoints[row["subscriber"]]
            endpoint.ended_with = row["ended_with"]
            for item in self.log.after(max(row["ended_with"], self.log.oldest - 1), topic):
                endpoint.push(item, item.raw)

    async def _save(self) -> None:
        endpoints = (endpoint for _, endpoint in self._endpoints)
        Table(self.ledger).save([{"subscriber": e.subscriber, "ended_with": e.ended_with} for e in endpoints])

    def add_endpoint(self, url: str, topic: str | None = None) -> str:
        """Configures one more endpoint; returns the secret that signs what it gets."""
        number = len(self._endpoints)
        secret = derived_secret(self.trial, number)
        endpoint = Endpoint(self.trial, self.ledger, self._client, subscriber=number, url=url, secret=secret)
        self._endpoints.append((topic, endpoint))
        self.tasks.start(endpoint.run())
        return secret

    async def publish(self, item: Scheduled) -> None:
        if self.durable:
            self.log.append(item)
        for topic, endpoint in self._endpoints:
            if topic is None or topic == item.topic:
                endpoint.push(item, item.raw)

    async def pending(self) -> int:
        return sum(endpoint.pending for _, endpoint in self._endpoints)

    async def drain(self) -> None:
        while not drained(endpoint for _, endpoint in self._endpoints):
            await asyncio.sleep(0)


class WebhookConsumer(Consumer):
    """The server: one path for each subscriber. 204 for a genuine event, 401 for any other, 410 for no such path."""

    async def open(self, port: int = 0) -> str:
        self._receivers = {
            subscriber: Receiver(derived_secret(self.trial, subscriber), drop_repeats=self.recovers)
            for subscriber in self.hosts
        }
        app = web.Application(client_max_size=2**21)
        app.router.add_post("/hooks/{subscriber:[0-9]{1,4}}", self._hook)
        return await self.serve(app, port)

    async def _hook(self, request: web.Request) -> web.Response:
        subscriber = int(request.match_info["subscriber"])
        if subscriber not in self.hosts:
            raise web.HTTPGone(text="Nobody is subscribed here.\n")
        body, receiver = await request.read(), self._receivers[subscriber]
        if receiver.repeated(receiver.verify(request.headers, body)):
            self.ledger.repeated(subscriber, sequence_of(body), body)
        else:
            self.ledger.received(subscriber, sequence_of(body), body)
        return web.Response(status=204)

    def resume(self, received: dict[int, list[int]]) -> None:
        super().resume(received)
        for subscriber, receiver in self._receivers.items():
            receiver.remember(map(encode_id, received.get(subscriber, [])))

    async def connect(self, peer: str | None, public: str | None) -> None:
        for subscriber in self.hosts:
            self.up(subscriber)
