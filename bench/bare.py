"""The floor: for each protocol the shortest honest program on the same libraries, with no protocol code of labkit's.

    python bench/bare.py PROTOCOL {producer|consumer} COUNT RATE SUBSCRIBERS SIZE POLL

A pair of them offers what labkit offers: the same encoded events, one process for each side, uvloop where there is one.
The producer publishes COUNT events at RATE a second, paced as labkit paces them, or flat out where that is 0; POLL is
the pause between polls.
Each side says where it listens (or nothing) in one line on standard output, and is told where the other side is in one
line on standard input. The producer then prints when it started; the consumer notes id, time and CRC-32 of every
arrival and, when it has all, writes ids and times as pairs of 64-bit integers.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import chain
from zlib import crc32

import nats
from aiohttp import ClientSession, web
from nats.aio.msg import Msg
from standardwebhooks import Webhook
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from labkit.node import run
from labkit.pacing import paced
from labkit.workload import Workload

HOST = "127.0.0.1"
ID = slice(27, 35)
"""Where the id stands in an event's bytes."""

LIMIT = 30.0
PAGE = 1000
UNSENT = 64 * 1024

SECRET = "whsec_" + b64encode(b"known to both sides beforehand").decode()

Publish = Callable[[bytes], Awaitable[None]]
Note = Callable[[bytes], None]


def say(line: str) -> None:
    """Tells the parent."""
    print(line, flush=True)


async def hear() -> str:
    """What the parent tells; nothing once it is gone."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


async def serve_http(method: str, path: str, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
    """Serves one route; returns the server's URL."""
    app = web.Application()
    app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    return f"http://{HOST}:{runner.addresses[0][1]}"


async def websocket_producer(tasks: asyncio.TaskGroup) -> Publish:
    connections: set[ServerConnection] = set()

    async def subscription(connection: ServerConnection) -> None:
        connections.add(connection)
        await connection.wait_closed()

    server = await serve(subscription, HOST, 0, compression=None)
    say(f"ws://{HOST}:{server.sockets[0].getsockname()[1]}")
    await hear()

    async def publish(raw: bytes) -> None:
        broadcast(connections, raw, text=True)
        while any(connection.transport.get_write_buffer_size() > UNSENT for connection in connections):
            await asyncio.sleep(0)

    return publish


async def websocket_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    peer = await hear()

    async def read(connection: connect) -> None:
        async with connection as stream:
            up.release()
            while True:
                note(await stream.recv(decode=False))

    up = asyncio.Semaphore(0)
    for _ in range(subscribers):
        tasks.create_task(read(connect(peer, compression=None, proxy=None)))
        await up.acquire()
    say("")


async def sse_producer(tasks: asyncio.TaskGroup) -> Publish:
    streams: list[web.StreamResponse] = []

    async def subscription(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b":\n\n")
        streams.append(stream)
        await asyncio.Event().wait()
        return stream

    say(await serve_http("GET", "/events", subscription))
    await hear()

    async def publish(raw: bytes) -> None:
        block = b"data: " + raw + b"\n\n"
        for stream in streams:
            await stream.write(block)

    return publish


async def sse_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    peer, client, up = await hear(), ClientSession(), asyncio.Semaphore(0)

    async def read() -> None:
        async with client.get(peer + "/events", timeout=None) as response:
            up.release()
            rest = b""
            async for chunk in response.content.iter_any():
                *blocks, rest = (rest + chunk).split(b"\n\n")
                for block in blocks:
                    if block.startswith(b"data: "):
                        note(block[6:])

    for _ in range(subscribers):
        tasks.create_task(read())
        await up.acquire()
    say("")


async def deliver(client: ClientSession, url: str, secret: str, queue: "asyncio.Queue[bytes]") -> None:
    """One endpoint: signed POSTs, one at a time, in order."""
    webhook = Webhook(secret)
    while True:
        raw = await queue.get()
        event_id, now = raw[ID].decode(), datetime.now(UTC)
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": webhook.sign(event_id, now, raw.decode()),
        }
        async with client.post(url, data=raw, headers=headers) as response:
            response.raise_for_status()


def to_all(queues: "list[asyncio.Queue[bytes]]") -> Publish:
    """Publishing as queueing for every endpoint."""

    async def publish(raw: bytes) -> None:
        for queue in queues:
            await queue.put(raw)

    return publish


async def serve_hooks(note: Note, webhooks: list[Webhook]) -> str:
    """Serves a path for each webhook; returns the server's URL."""

    async def hook(request: web.Request) -> web.Response:
        body = await request.read()
        webhooks[int(request.match_info["subscriber"])].verify(body, dict(request.headers), json_parse=False)
        note(body)
        return web.Response(status=204)

    return await serve_http("POST", "/hooks/{subscriber}", hook)


async def webhook_producer(tasks: asyncio.TaskGroup) -> Publish:
    say("")
    client, urls = ClientSession(), json.loads(await hear())
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue(64) for _ in urls]
    for url, queue in zip(urls, queues, strict=True):
        tasks.create_task(deliver(client, url, SECRET, queue))
    return to_all(queues)


async def webhook_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    await hear()
    url = await serve_hooks(note, [Webhook(SECRET)] * subscribers)
    say(json.dumps([f"{url}/hooks/{subscriber}" for subscriber in range(subscribers)]))


async def resthooks_producer(tasks: asyncio.TaskGroup) -> Publish:
    client, queues = ClientSession(), list[asyncio.Queue[bytes]]()

    async def subscribe(request: web.Request) -> web.Response:
        target, secret = (await request.json())["target_url"], "whsec_" + b64encode(secrets.token_bytes(24)).decode()
        queues.append(asyncio.Queue(64))
        tasks.create_task(deliver(client, target, secret, queues[-1]))
        return web.json_response({"secret": secret}, status=201)

    say(await serve_http("POST", "/subscriptions", subscribe))
    await hear()
    return to_all(queues)


async def resthooks_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    webhooks: list[Webhook] = []
    peer, url = await hear(), await serve_hooks(note, webhooks)
    async with ClientSession() as client:
        for subscriber in range(subscribers):
            wish = {"target_url": f"{url}/hooks/{subscriber}"}
            async with client.post(peer + "/subscriptions", json=wish) as response:
                webhooks.append(Webhook((await response.json())["secret"]))
    say("")


async def pubsub_producer(tasks: asyncio.TaskGroup) -> Publish:
    say("")
    client = await nats.connect(await hear())

    async def publish(raw: bytes) -> None:
        await client.publish("events", raw)

    return publish


async def pubsub_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    peer = await hear()

    async def receive(message: Msg) -> None:
        note(message.data)

    for _ in range(subscribers):
        client = await nats.connect(peer)
        await client.subscribe("events", cb=receive)
        await client.flush()
    say("")


async def polling_producer(tasks: asyncio.TaskGroup) -> Publish:
    log: list[bytes] = []
    news = asyncio.Event()

    async def after(request: web.Request) -> web.Response:
        cursor, held = int(request.query["after"]), "Prefer" in request.headers
        while held and cursor == len(log):
            await news.wait()
        return web.Response(body=b"\n".join(log[cursor : cursor + PAGE]))

    say(await serve_http("GET", "/events", after))
    await hear()

    async def publish(raw: bytes) -> None:
        log.append(raw)
        news.set()
        news.clear()

    return publish


async def polling_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int, held: bool = False) -> None:
    peer, client, loop = await hear(), ClientSession(), asyncio.get_running_loop()
    interval, headers = (0.0, {"Prefer": "wait=10"}) if held else (float(sys.argv[7]), {})

    async def poll(due: float) -> None:
        cursor = 0
        while True:
            async with client.get(f"{peer}/events?after={cursor}", headers=headers) as response:
                lines = (await response.read()).splitlines()
            for raw in lines:
                note(raw)
            cursor += len(lines)
            due += interval
            await asyncio.sleep(max(0.0, due - loop.time()))

    for subscriber in range(subscribers):
        tasks.create_task(poll(loop.time() + interval * subscriber / subscribers))
    say("")


async def longpolling_consumer(tasks: asyncio.TaskGroup, note: Note, subscribers: int) -> None:
    await polling_consumer(tasks, note, subscribers, held=True)


PRODUCERS = {
    "websocket": websocket_producer,
    "webhook": webhook_producer,
    "resthooks": resthooks_producer,
    "pubsub": pubsub_producer,
    "sse": sse_producer,
    "polling": polling_producer,
    "longpolling": polling_producer,
}
CONSUMERS: dict[str, Callable[[asyncio.TaskGroup, Note, int], Awaitable[None]]] = {
    "websocket": websocket_consumer,
    "webhook": webhook_consumer,
    "resthooks": resthooks_consumer,
    "pubsub": pubsub_consumer,
    "sse": sse_consumer,
    "polling": polling_consumer,
    "longpolling": longpolling_consumer,
}


async def produce(protocol: str, count: int, rate: int, size: int) -> None:
    """Warms up, publishes, and says when it started."""
    workload = Workload(rate=rate or count, duration=count / (rate or count), size=size)
    schedule = workload.schedule()
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        publish = await PRODUCERS[protocol](tasks)
        for item in workload.warmup():
            await publish(item.raw)
            await asyncio.sleep(0.01)
        start = time.monotonic_ns()
        if rate:
            async for item in paced(schedule, start):
                await publish(item.raw)
        else:
            for item in schedule:
                await publish(item.raw)
                await asyncio.sleep(0)
        say(str(start))
        await hear()
        os._exit(0)


async def consume(protocol: str, count: int, subscribers: int) -> None:
    """Notes every arrival, and says them once all events of the load, and of the warm-up, are there."""
    arrivals: list[tuple[int, int]] = []
    checks: list[int] = []
    total, full = (count + Workload().first) * subscribers, asyncio.Event()

    def note(raw: bytes) -> None:
        arrivals.append((int(raw[ID]), time.monotonic_ns()))
        checks.append(crc32(raw))
        if len(arrivals) == total:
            full.set()

    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        await CONSUMERS[protocol](tasks, note, subscribers)
        await full.wait()
        sys.stdout.buffer.write(array("q", chain.from_iterable(arrivals)).tobytes())
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, side = sys.argv[1:3]
    events, per_second, audience, length = map(int, sys.argv[3:7])
    run(produce(name, events, per_second, length) if side == "producer" else consume(name, events, audience))
