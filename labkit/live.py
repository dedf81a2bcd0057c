"""The child side of `labkit launch`: a producer that publishes what it is told to, until it is stopped."""

import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web

from labkit.broker import Broker, external
from labkit.errors import UsageError
from labkit.event import TOPIC, Event, encode, encode_id
from labkit.ledger import Ledger
from labkit.protocols import find
from labkit.protocols.base import Producer, every, serve_http
from labkit.protocols.webhook import WebhookProducer
from labkit.trial import Guarantee, Measure, Trial
from labkit.workload import MAX_SIZE, Scheduled, Workload

DEFAULT_TOPIC = "t0"


class LiveRole:
    """One live producer, at-least-once, and beside it a control server: POST /publish, POST /endpoints."""

    def __init__(self) -> None:
        self._exits = AsyncExitStack()
        self._broker: Broker | None = None
        self._sequence, self._started = 0, time.monotonic_ns()

    async def open(self, protocol: str, port: int, rate: float, uid: str) -> dict[str, Any]:
        row = find(protocol)
        folder = self._exits.enter_context(tempfile.TemporaryDirectory(prefix="labkit-live-"))
        ledger = Ledger(Path(folder) / "live.ledger")
        self._exits.callback(ledger.close)
        broker_url = external() if row.brokered else None
        if row.brokered and broker_url is None:
            self._broker = Broker()
            self._exits.callback(self._broker.close)
            broker_url = await self._broker.open(port)
        trial = Trial("live", Measure.LATENCY, protocol, Guarantee.AT_LEAST_ONCE, Workload(subscribers=1), uid=uid)
        self._producer: Producer = row.producer()(trial, ledger)
        self._exits.push_async_callback(self._producer.close)
        url = await self._producer.open(port)
        await self._producer.connect(broker_url)
        control = await self._open_control(0 if url or broker_url else port)
        if rate:
            self._producer.tasks.start(every(1 / rate, self._tick))
        pid = self._broker.process.pid if self._broker else None
        return {"url": url or broker_url or control, "control": control, "pid": pid}

    async def _open_control(self, port: int) -> str:
        app = web.Application()
        app.router.add_post("/publish", self._publish_request)
        app.router.add_post("/endpoints", self._endpoint_request)
        runner, url = await serve_http(app, port)
        self._exits.push_async_callback(runner.cleanup)
        return url

    async def _tick(self) -> None:
        await self.publish({"tick": self._sequence}, DEFAULT_TOPIC)

    async def publish(self, data: Any, topic: str) -> str:
        """Publishes one event now; returns its id."""
        if not TOPIC.fullmatch(topic):
            raise UsageError(f"The topic is {topic!r}; use letters, digits, '-', '_' and single dots between them.")
        offset = time.monotonic_ns() - self._started
        try:
            raw = encode(Event(self._sequence, topic, offset, data))
        except ValueError as error:
            raise UsageError(f"The data is not JSON ({error}); publish what JSON can hold.") from None
        if len(raw) > MAX_SIZE:
            raise UsageError(f"The event has {len(raw):,} bytes; the limit is {MAX_SIZE:,}: publish less at a time.")
        item = Scheduled(offset, self._sequence, topic, raw)
        # Counted before the first await: two publishers never share a number.
        self._sequence += 1
        await self._producer.publish(item)
        return encode_id(item.sequence)

    async def _publish_request(self, request: web.Request) -> web.Response:
        body = await _json(request)
        if not isinstance(body, dict) or "data" not in body:
            raise web.HTTPUnprocessableEntity(text='Send {"data": ...}, and "topic" if you like.\n')
        try:
            event_id = await self.publish(body["data"], str(body.get("topic", DEFAULT_TOPIC)))
        except UsageError as error:
            raise web.HTTPUnprocessableEntity(text=f"{error}\n") from None
        return web.json_response({"id": event_id}, status=202)

    async def _endpoint_request(self, request: web.Request) -> web.Response:
        if not isinstance(self._producer, WebhookProducer):
            raise web.HTTPNotFound(text="Only a webhook producer is configured with endpoints.\n")
        body = await _json(request)
        url = body.get("url") if isinstance(body, dict) else None
        if not isinstance(url, str) or not url.startswith(("http://127.0.0.1:", "http://localhost:")):
            raise web.HTTPUnprocessableEntity(text='Send {"url": "http://127.0.0.1:PORT/"}, on this machine.\n')
        return web.json_response({"secret": self._producer.add_endpoint(url)}, status=201)

    async def status(self) -> None:
        if self._producer.tasks.failure:
            raise self._producer.tasks.failure
        if self._broker:
            self._broker.check()

    async def close(self) -> None:
        await self._exits.aclose()


async def _json(request: web.Request) -> Any:
    # A JSON content type makes a browser ask first, so no foreign page can publish here.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send it with the header Content-Type: application/json.\n")
    try:
        return await request.json()
    except ValueError:
        raise web.HTTPBadRequest(text="The body is not JSON.\n") from None
