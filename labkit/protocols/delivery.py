"""Signed POSTs to an endpoint, one queue for each, as Standard Webhooks 1.0 describes them.

At-most-once: one attempt per event. At-least-once: exponential backoff with jitter, `Retry-After` honoured,
in order, until it succeeds, the endpoint is gone (410) or the attempts are used up. Every failure is recorded.
Source: Standard Webhooks 1.0, "Webhook metadata", "Signature scheme", "Deliverability and reliability".
"""

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError, ClientSession, web
from standardwebhooks import Webhook, WebhookVerificationError

from labkit.event import encode_id
from labkit.ledger import Kind, Ledger
from labkit.protocols.base import Backoff
from labkit.trial import Trial
from labkit.workload import Scheduled

REMEMBERED = 10_000
"""Ids a receiver remembers, to drop the repeats that retries bring."""

IN_FLIGHT = 64
"""Deliveries an endpoint may have queued and still count as drained."""

QUEUE_LIMIT = 10_000
"""The bounded queue of an endpoint: with so many deliveries waiting, further ones are rejected."""

SAVE_EVERY = 0.05
"""Seconds between two looks at how far the endpoints of a durable producer have come."""


class Endpoint:
    """The producer's side of one subscription: a queue and the task that empties it, one POST at a time.

    `ended_with` is the sequence number of the last delivery that succeeded or was given up.
    """

    def __init__(
        self,
        trial: Trial,
        ledger: Ledger,
        client: ClientSession,
        *,
        subscriber: int,
        url: str,
        secret: str,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._timings, self._ledger, self._client, self._gone = trial.timings, ledger, client, gone
        self._attempts = trial.timings.attempts if trial.recovers else 1
        self._backoff = Backoff(trial, subscriber)
        self._webhook = Webhook(secret)
        self._queue: deque[tuple[Scheduled, bytes]] = deque()
        self._filled = asyncio.Event()
        self.subscriber = subscriber
        self.url = url
        self.ended_with = -1
        self._busy = 0
        self._ended = False

    @property
    def pending(self) -> int:
        """Deliveries queued or under way."""
        return len(self._queue) + self._busy

    def push(self, item: Scheduled, body: bytes) -> None:
        """Queues one delivery of an event; an endpoint that is gone has it rejected at once."""
        if self._ended:
            self._ledger.write(Kind.REJECTED, item.sequence, self.subscriber, 410)
            return
        if len(self._queue) == QUEUE_LIMIT:
            self._ledger.write(Kind.OVERFLOWED, item.sequence, self.subscriber, QUEUE_LIMIT)
            self._ledger.write(Kind.REJECTED, item.sequence, self.subscriber, 0)
            return
        self._queue.append((item, body))
        self._filled.set()

    def rekey(self, secret: str) -> None:
        """Signs with another secret from the next attempt on."""
        self._webhook = Webhook(secret)

    async def run(self) -> None:
        """Delivers the queue for as long as the endpoint wants it."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._queue:
                item, body = self._queue.popleft()
                self._busy = 1
                gone = await self._deliver(item.sequence, body)
                self._busy = 0
                self.ended_with = item.sequence
                if gone:
                    self._end()
                    return

    def stop(self) -> None:
        """Delivers nothing more; what is queued or to be tried again is no longer wanted."""
        self._ended = True
        self._queue.clear()

    def _end(self) -> None:
        for item, _ in self._queue:
            self._ledger.write(Kind.REJECTED, item.sequence, self.subscriber, 410)
        self.stop()
        self._gone()

    async def _deliver(self, sequence: int, body: bytes) -> bool:
        """Tries one delivery; True when the endpoint answered that it is gone for good."""
        event_id, text = encode_id(sequence), body.decode()
        for attempt in range(1, self._attempts + 1):
            status, wait = await self._post(sequence, event_id, text, body)
            if 200 <= status < 300:
                self._backoff.reset()
                return False
            self._ledger.write(Kind.FAILED, sequence, self.subscriber, status)
            if status == 410 or attempt == self._attempts:
                break
            await asyncio.sleep(max(wait, self._backoff.next()))
            if self._ended:
                return False
        self._ledger.write(Kind.REJECTED, sequence, self.subscriber, status)
        return status == 410

    async def _post(self, sequence: int, event_id: str, text: str, body: bytes) -> tuple[int, float]:
        """One attempt: (status, seconds the receiver asks to wait); status 0 when there was no answer."""
        self._ledger.write(Kind.REQUESTED, sequence, self.subscriber)
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(event_id, now, text),
        }
        try:
            async with self._client.post(self.url, data=body, headers=headers, allow_redirects=False) as response:
                after = response.headers.get("Retry-After", "")
                wait = int(after) if response.status in (429, 503) and after.isascii() and after.isdigit() else 0
                return response.status, min(wait, self._timings.request)
        except (ClientError, OSError, TimeoutError):
            return 0, 0.0


class Receiver:
    """The consumer's side of one subscription: verifies the signature and, if asked to, drops repeats by id."""

    def __init__(self, secret: str, *, drop_repeats: bool) -> None:
        self._webhook = Webhook(secret)
        self._drop_repeats = drop_repeats
        self._seen: OrderedDict[str, None] = OrderedDict()

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """The id of a genuine delivery; HTTPUnauthorized when the signature, id or time is not as it should be."""
        timestamp = headers.get("webhook-timestamp", "")
        try:
            if not (timestamp.isascii() and timestamp.isdigit()):
                raise WebhookVerificationError("not a Unix time")
            self._webhook.verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError, binascii.Error):
            # The library lets malformed base64, UTF-8 and header shapes out as other kinds of ValueError.
            raise web.HTTPUnauthorized(text="The signature does not fit this body, id and time.\n") from None
        return headers["webhook-id"]

    def remember(self, event_ids: Iterable[str]) -> None:
        """Knows these ids from now on."""
        for event_id in event_ids:
            self.repeated(event_id)

    def repeated(self, event_id: str) -> bool:
        """Whether this id was here before; remembers it."""
        if not self._drop_repeats:
            return False
        if event_id in self._seen:
            return True
        self._seen[event_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False


class Table:
    """A producer's own small database: rows in a JSON file that outlives its process, replaced whole at each save."""

    def __init__(self, ledger: Ledger) -> None:
        self._path = ledger.path.with_name("endpoints.json")

    def load(self) -> list[dict[str, Any]]:
        """The rows as last saved; none where nothing was."""
        return list(json.loads(self._path.read_text())) if self._path.exists() else []

    def save(self, rows: list[dict[str, Any]]) -> None:
        """Puts these in the place of all rows."""
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(rows))
        new.replace(self._path)


def derived_secret(trial: Trial, subscriber: int) -> str:
    """The secret that both sides of a plain webhook were given beforehand: the standard's `whsec_` and base64."""
    key = hashlib.sha256(f"{trial.uid} {subscriber}".encode()).digest()
    return "whsec_" + base64.b64encode(key).decode()


def drained(endpoints: Iterable[Endpoint]) -> bool:
    """Whether no endpoint has more queued than it would in an unhurried load."""
    return all(endpoint.pending <= IN_FLIGHT for endpoint in endpoints)
