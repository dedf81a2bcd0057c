"""REST Hooks: listen on PORT, subscribe a URL that leads there, echo the secret that comes, check each signature.

Usage: resthooks.py SERVER PORT URL.
"""

import asyncio
import sys

from aiohttp import ClientSession, web
from standardwebhooks import Webhook, WebhookVerificationError

server, port, url = sys.argv[1:]
keys: list[Webhook] = []


async def receive(request: web.BaseRequest) -> web.Response:
    body, secret = await request.read(), request.headers.get("X-Hook-Secret")
    if secret and not keys:
        keys.append(Webhook(secret))
        return web.Response(headers={"X-Hook-Secret": secret})
    try:
        keys[0].verify(body, dict(request.headers))
    except (IndexError, WebhookVerificationError, ValueError):
        return web.Response(status=401)
    print(body.decode(), flush=True)
    return web.Response(status=204)


async def main() -> None:
    runner = web.ServerRunner(web.Server(receive))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    async with ClientSession(raise_for_status=True) as http:
        await http.post(f"{server}/subscriptions", json={"target_url": url})
    await asyncio.Event().wait()


asyncio.run(main())
