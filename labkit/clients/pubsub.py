"""Pub-Sub: tell the broker which subjects are wanted (NATS). Usage: pubsub.py BROKER SUBJECT."""

import asyncio
import sys

import nats


async def main() -> None:
    client = await nats.connect(sys.argv[1])
    subscription = await client.subscribe(sys.argv[2])
    async for message in subscription.messages:
        print(message.data.decode(), flush=True)


asyncio.run(main())
