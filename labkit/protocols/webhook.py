"""Webhook: the producer POSTs each event to every endpoint it was configured with (Standard Webhooks 1.0).

At-most-once: one POST per event, no retry. At-least-once: retries with backoff; the consumer drops repeated ids.
Subscribing happens beforehand and out of band: both sides know the endpoints and their secrets.
"""

import asyncio

from aiohttp import web

from labkit.event import sequence_of
from labkit.protocols.base import Consumer, Producer
from labkit.protocols.delivery import Endpoint, Receiver, derived_secret, drained
from labkit.workload import Scheduled


class WebhookProducer(Producer):
    """The client: one queue and one POST at a time for each endpoint."""

    async def connect(self, peer: str | None) -> None:
        self._client = await self.client(self.timings.request)
        self._endpoints: list[tuple[str | None, Endpoint]] = []
        for subscriber in range(self.trial.workload.subscribers if peer else 0):
            self.add_endpoint(f"{peer}/hooks/{subscriber}", self.trial.workload.interest(subscriber))

    def add_endpoint(self, url: str, topic: str | None = None) -> str:
        """Configures one more endpoint; returns the secret that signs what it gets."""
        number = len(self._endpoints)
        secret = derived_secret(self.trial, number)
        endpoint = Endpoint(self.trial, self.ledger, self._client, subscriber=number, url=url, secret=secret)
        self._endpoints.append((topic, endpoint))
        self.tasks.start(endpoint.run())
        return secret

    async def publish(self, item: Scheduled) -> None:
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
        self._receivers = [
            Receiver(derived_secret(self.trial, subscriber), drop_repeats=self.recovers)
            for subscriber in range(self.count)
        ]
        app = web.Application(client_max_size=2**21)
        app.router.add_post("/hooks/{subscriber:[0-9]{1,4}}", self._hook)
        return await self.serve(app, port)

    async def _hook(self, request: web.Request) -> web.Response:
        subscriber = int(request.match_info["subscriber"])
        if subscriber >= self.count:
            raise web.HTTPGone(text="Nobody is subscribed here.\n")
        body, receiver = await request.read(), self._receivers[subscriber]
        if receiver.repeated(receiver.verify(request.headers, body)):
            self.ledger.repeated(subscriber, sequence_of(body), body)
        else:
            self.ledger.received(subscriber, sequence_of(body), body)
        return web.Response(status=204)

    async def connect(self, peer: str | None, public: str | None) -> None:
        for subscriber in range(self.count):
            self.up(subscriber)
