"""REST Hooks (resthooks.org): the consumer subscribes with one REST call, the producer then delivers webhooks.

The subscription is a resource: create, list, read, delete. Before it exists the producer asks the target whether
it wants it (the `X-Hook-Secret` handshake, which hands over the signing secret); 410 Gone ends it.
At-most-once: one POST per event. At-least-once: retries, and a consumer that has heard nothing for a heartbeat
reconciles against the producer's event log. Durable: log and queues outlive the producer.
A `thin` payload is a claim check that the consumer redeems.
"""

import asyncio
import base64
import json
import secrets
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from aiohttp import ClientError, web

from labkit.errors import TrialError
from labkit.event import TOPIC, decode_gap, decode_id, encode_id, sequence_of
from labkit.ledger import Kind
from labkit.protocols.base import Consumer, Producer, every, gap_response
from labkit.protocols.delivery import SAVE_EVERY, Endpoint, Receiver, Table, drained
from labkit.protocols.eventlog import UNKNOWN, Gap
from labkit.protocols.openapi import DOCUMENT
from labkit.trial import Payload
from labkit.workload import Scheduled

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The lab delivers on its own machine only; a public service has to keep targets out of its own network instead."""

PAGE = 1000
NDJSON = "application/x-ndjson"


class Subscription:
    """The resource: where to deliver what, and the endpoint that does it. `number` is that of the subscriber."""

    def __init__(self, identifier: str, number: int, target: str, topic: str | None, payload: Payload) -> None:
        self.id = identifier
        self.number = number
        self.target = target
        self.topic = topic
        self.payload = payload
        self.secret = ""
        self.endpoint: Endpoint | None = None

    def to_json(self) -> dict[str, str]:
        """The representation; the secret is not part of it."""
        return {"id": self.id, "target_url": self.target, "event": self.topic or "*", "payload": self.payload}

    def to_row(self) -> dict[str, Any]:
        """All there is to know of it, for the producer's own table."""
        assert self.endpoint
        fields = {name: getattr(self, name) for name in ("id", "number", "target", "topic", "payload", "secret")}
        return {**fields, "ended_with": self.endpoint.ended_with}

    def body(self, item: Scheduled) -> bytes:
        """What is delivered of an event: all of it, or a claim check."""
        event_id = encode_id(item.sequence)
        thin = {"id": event_id, "href": f"/events/{event_id}"}
        return json.dumps(thin).encode() if self.payload is Payload.THIN else item.raw


class RestHooksProducer(Producer):
    """The server of the subscription resource and of the event log, and the client that delivers."""

    async def open(self, port: int = 0) -> str:
        self._subscriptions: dict[str, Subscription] = {}
        self._numbers = count()
        self._table = Table(self.ledger)
        app = web.Application()
        app.router.add_post("/subscriptions", self._create)
        app.router.add_get("/subscriptions", self._list)
        app.router.add_get("/subscriptions/{id}", self._read)
        app.router.add_delete("/subscriptions/{id}", self._delete)
        app.router.add_get("/events", self._events)
        app.router.add_get("/events/{id}", self._event)
        app.router.add_get("/openapi.json", self._openapi)
        self._url, self._app = await self.serve(app, port), app
        self._client = await self.client(self.timings.request)
        self._restore()
        if self.durable:
            self.tasks.start(every(SAVE_EVERY, self._save))
        return self._url

    def _restore(self) -> None:
        """Goes on with the subscriptions of a predecessor, and with what the log holds and it had not delivered."""
        for row in self._table.load():
            subscription = Subscription(row["id"], row["number"], row["target"], row["topic"], Payload(row["payload"]))
            endpoint = self._start(subscription, row["secret"])
            endpoint.ended_with = row["ended_with"]
            self._numbers = count(max(row["number"] + 1, next(self._numbers)))
            for item in self.log.after(max(row["ended_with"], self.log.oldest - 1), row["topic"]):
                endpoint.push(item, subscription.body(item))

    async def _save(self) -> None:
        """What a 201 promises to keep outlives the process, whatever the guarantee."""
        self._table.save([subscription.to_row() for subscription in self._subscriptions.values()])

    async def _create(self, request: web.Request) -> web.Response:
        """201 for a new subscription; 200 where the target had one to this event: it goes on, with a new key."""
        wish = _wanted(await request.read())
        key = base64.b64encode(secrets.token_bytes(24)).decode()
        await self._shake_hands(wish.target, "whsec_" + key)
        same = (old for old in self._subscriptions.values() if (old.target, old.topic) == (wish.target, wish.topic))
        known = next(same, None)
        subscription = known or Subscription(secrets.token_hex(8), next(self._numbers), *wish)
        subscription.payload = wish.payload
        self._start(subscription, "whsec_" + key)
        await self._save()
        location = f"/subscriptions/{subscription.id}"
        status = 200 if known else 201
        return web.json_response(subscription.to_json(), status=status, headers={"Location": location})

    async def _shake_hands(self, target: str, secret: str) -> None:
        """The target proves that it wants this subscription by echoing the secret; 422 when it does not."""
        try:
            self.ledger.write(Kind.REQUESTED)
            async with self._client.post(target, headers={"X-Hook-Secret": secret}, allow_redirects=False) as response:
                confirmed = 200 <= response.status < 300 and response.headers.get("X-Hook-Secret") == secret
                problem = f"it answered {response.status} without the X-Hook-Secret it was sent"
        except (ClientError, OSError, TimeoutError) as error:
            confirmed, problem = False, f"it could not be reached ({type(error).__name__})"
        if not confirmed:
            raise _unprocessable(f"target_url did not confirm the subscription: {problem}.")

    def _start(self, subscription: Subscription, secret: str) -> Endpoint:
        """Delivers to a subscription from now on, with this secret."""
        subscription.secret = secret
        self._subscriptions[subscription.id] = subscription
        if subscription.endpoint:
            subscription.endpoint.rekey(secret)
            return subscription.endpoint
        subscription.endpoint = Endpoint(
            self.trial,
            self.ledger,
            self._client,
            subscriber=subscription.number,
            url=subscription.target,
            secret=secret,
            gone=lambda: self._end(subscription.id),
        )
        self.tasks.start(subscription.endpoint.run())
        return subscription.endpoint

    def _end(self, identifier: str) -> None:
        self._subscriptions.pop(identifier, None)
        self._table.save([subscription.to_row() for subscription in self._subscriptions.values()])

    def _found(self, request: web.Request) -> Subscription:
        subscription = self._subscriptions.get(request.match_info["id"])
        if subscription is None:
            raise _problem(web.HTTPNotFound, "There is no such subscription.")
        return subscription

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([subscription.to_json() for subscription in self._subscriptions.values()])

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response(self._found(request).to_json())

    async def _delete(self, request: web.Request) -> web.Response:
        subscription = self._found(request)
        self._end(subscription.id)
        if subscription.endpoint:
            subscription.endpoint.stop()
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.Response:
        after = request.query.get("after")
        cursor = self.log.oldest - 1 if after is None else decode_id(after)
        try:
            items = self.log.after(UNKNOWN if cursor is None else cursor, request.query.get("topic"), PAGE)
        except Gap as gap:
            return gap_response(gap)
        return web.Response(body=b"".join(item.raw + b"\n" for item in items), content_type=NDJSON)

    async def _event(self, request: web.Request) -> web.Response:
        sequence = decode_id(request.match_info["id"])
        item = self.log.get(sequence) if sequence is not None else None
        if item is None:
            raise _problem(web.HTTPNotFound, "There is no such event, or it is no longer kept.")
        return web.Response(body=item.raw, content_type="application/cloudevents+json")

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response({**DOCUMENT, "servers": [{"url": self._url}]})

    async def publish(self, item: Scheduled) -> None:
        self.log.append(item)
        for subscription in self._subscriptions.values():
            if subscription.endpoint and subscription.topic in (None, item.topic):
                subscription.endpoint.push(item, subscription.body(item))

    async def pending(self) -> int:
        return sum(subscription.endpoint.pending for subscription in self._active())

    def _active(self) -> list[Any]:
        return [subscription for subscription in self._subscriptions.values() if subscription.endpoint]

    async def drain(self) -> None:
        while not drained(subscription.endpoint for subscription in self._active()):
            await asyncio.sleep(0)


def _problem(kind: type[web.HTTPException], detail: str) -> web.HTTPException:
    return kind(text=json.dumps({"detail": detail}), content_type="application/json")


def _unprocessable(detail: str) -> web.HTTPException:
    return _problem(web.HTTPUnprocessableEntity, detail)


class _Wish(NamedTuple):
    """What a request for a subscription asks for."""

    target: str
    topic: str | None
    payload: Payload


def _wanted(body: bytes) -> _Wish:
    """The subscription that a request asks for; 422 with the reason when it asks for none."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise _unprocessable("The body is not JSON.") from None
    if not isinstance(fields, dict):
        raise _unprocessable("The body is not a JSON object.")
    target, event, payload = fields.get("target_url"), fields.get("event", "*"), fields.get("payload", Payload.FULL)
    if not isinstance(target, str) or not _is_loopback(target):
        raise _unprocessable("target_url has to be an http URL on this machine's loopback address.")
    if event != "*" and not (isinstance(event, str) and TOPIC.fullmatch(event)):
        raise _unprocessable("event has to be a topic, or * for all.")
    if payload not in list(Payload):
        raise _unprocessable("payload has to be full or thin.")
    return _Wish(target, None if event == "*" else event, Payload(payload))


def _is_loopback(target: str) -> bool:
    try:
        parts = urlsplit(target)
        return parts.scheme == "http" and parts.hostname in LOOPBACK and (parts.port or 80) > 0
    except ValueError:
        return False


class RestHooksConsumer(Consumer):
    """The server of one target path for each subscriber, and the client that subscribes."""

    async def open(self, port: int = 0) -> str:
        self._receivers: dict[int, Receiver] = {}
        self._known: dict[int, list[int]] = {}
        self._expected: set[int] = set()
        self._arrivals = dict.fromkeys(self.hosts, 0)
        self._behind: set[int] = set()
        app = web.Application(client_max_size=2**21)
        app.router.add_post("/hooks/{subscriber:[0-9]{1,4}}", self._hook)
        return await self.serve(app, port)

    async def _hook(self, request: web.Request) -> web.Response:
        subscriber, secret = int(request.match_info["subscriber"]), request.headers.get("X-Hook-Secret")
        if secret is not None and subscriber in self._expected:
            new = self._receivers[subscriber] = Receiver(secret, drop_repeats=self.recovers)
            new.remember(map(encode_id, self._known.get(subscriber, [])))
            return web.Response(status=200, headers={"X-Hook-Secret": secret})
        receiver = self._receivers.get(subscriber)
        if receiver is None and subscriber in self._known:
            raise web.HTTPServiceUnavailable(text="About to subscribe again.\n")
        if receiver is None:
            raise web.HTTPGone(text="Nobody is subscribed here.\n")
        body = await request.read()
        receiver.verify(request.headers, body)
        if self.trial.payload is Payload.THIN:
            body = await self._redeem(json.loads(body)["href"])
        self._take(subscriber, body)
        return web.Response(status=204)

    async def _redeem(self, href: str) -> bytes:
        """Fetches what a claim check stands for; 503 makes the producer try again when that fails."""
        try:
            self.ledger.write(Kind.REQUESTED)
            async with self._client.get(self._peer + href) as response:
                if response.status == 200:
                    return await response.read()
        except (ClientError, OSError, TimeoutError):
            pass
        raise web.HTTPServiceUnavailable(text="The event could not be fetched.\n")

    def _take(self, subscriber: int, body: bytes) -> None:
        sequence, last = sequence_of(body), self.last[subscriber]
        self._arrivals[subscriber] += 1
        if self._receivers[subscriber].repeated(encode_id(sequence)):
            self.ledger.repeated(subscriber, sequence, body)
            return
        self.ledger.received(subscriber, sequence, body)
        if last is None or sequence > last:
            self.last[subscriber] = sequence

    def resume(self, received: dict[int, list[int]]) -> None:
        super().resume(received)
        # Until it subscribes again a hook is asked to wait: 410 would end the subscription that goes on.
        self._known = {subscriber: received.get(subscriber, []) for subscriber in self.hosts}
        # It was away, so it looks into the log before it trusts what is delivered.
        self._behind = set(self.hosts) if self.recovers else set()

    async def connect(self, peer: str | None, public: str | None) -> None:
        assert peer is not None
        self._peer = peer
        self._client = await self.client(self.timings.request)
        for subscriber in self.hosts:
            # What is delivered as soon as the hook is confirmed says nothing of what came before it.
            cursor = self.last[subscriber]
            await self._subscribe(subscriber, f"{public}/hooks/{subscriber}")
            if self.recovers:
                self.tasks.start(self._reconcile(subscriber, cursor))

    async def _subscribe(self, subscriber: int, target: str) -> None:
        event = self.trial.workload.interest(subscriber) or "*"
        wish = {"target_url": target, "event": event, "payload": self.trial.payload}
        self._expected.add(subscriber)
        try:
            self.ledger.write(Kind.REQUESTED, subscriber=subscriber)
            async with self._client.post(f"{self._peer}/subscriptions", json=wish) as response:
                if response.status not in (200, 201):
                    raise TrialError(
                        f"Subscribing at {self._peer} was answered {response.status}: {await response.text()}"
                    )
        except (ClientError, OSError, TimeoutError) as error:
            raise TrialError(f"Subscriber {subscriber} could not reach {self._peer} ({error}).") from error
        finally:
            self._expected.discard(subscriber)
        self.up(subscriber)

    async def _reconcile(self, subscriber: int, cursor: int | None) -> None:
        """After a heartbeat without a delivery, fetches what the event log has and was not delivered.

        Once that fails, the cursor stays where the silence began until it succeeds, whatever arrives meanwhile.
        """
        arrivals = self._arrivals[subscriber]
        while True:
            if subscriber not in self._behind:
                await asyncio.sleep(self.timings.heartbeat)
                if self._arrivals[subscriber] != arrivals:
                    cursor, arrivals = self.last[subscriber], self._arrivals[subscriber]
                    continue
            try:
                cursor = await self._fetch_missed(subscriber, cursor)
                self._behind.discard(subscriber)
            except (ClientError, OSError, TimeoutError):
                self._behind.add(subscriber)
                await asyncio.sleep(self.timings.heartbeat)

    async def _fetch_missed(self, subscriber: int, cursor: int | None) -> int | None:
        """Takes all that follows the cursor, page after page; returns the new cursor."""
        while True:
            raws = await self._page(subscriber, cursor)
            if raws is None:
                cursor = self.last[subscriber]
                continue
            for raw in raws:
                self._take(subscriber, raw)
                cursor = max(cursor or 0, sequence_of(raw))
            if len(raws) < PAGE:
                return cursor

    async def _page(self, subscriber: int, cursor: int | None) -> list[bytes] | None:
        """The events after the cursor, up to a page; None when the log no longer knows it.

        That is recorded, and `last` then lies before the oldest event there is.
        """
        topic = self.trial.workload.interest(subscriber)
        fields = {"topic": topic, "after": encode_id(cursor) if cursor is not None else None}
        query = urlencode({key: value for key, value in fields.items() if value is not None})
        self.ledger.write(Kind.REQUESTED, subscriber=subscriber)
        async with self._client.get(f"{self._peer}/events?{query}") as response:
            body = await response.read()
            if not (gap := decode_gap(body)):
                response.raise_for_status()
        if gap:
            self.ledger.write(Kind.GAP, gap[0], subscriber, gap[1])
            self.last[subscriber] = gap[1] - 1 if gap[1] else None
            return None
        return body.splitlines()

    def pending(self, since_ns: int) -> int:
        return len(self._behind)
