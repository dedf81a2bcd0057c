"""Webhook: tell the server a URL that leads to PORT here, listen, check each signature (Standard Webhooks).

Usage: webhook.py SERVER PORT URL.
"""

import sys

from aiohttp import ClientSession, web
from standardwebhooks import Webhook, WebhookVerificationError

server, port, url = sys.argv[1:]
keys: list[Webhook] = []


async def register(_: web.Application) -> None:
    async with ClientSession() as http, http.post(f"{server}/endpoints", json={"url": url}) as answer:
        keys.append(Webhook((await answer.json())["secret"]))


async def receive(request: web.Request) -> web.Response:
    body = await request.read()
    try:
        keys[0].verify(body, dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return web.Response(status=401)
    print(body.decode(), flush=True)
    return web.Response(status=204)


app = web.Application()
app.on_startup.append(register)
app.router.add_post("/", receive)
web.run_app(app, host="127.0.0.1", port=int(port), print=None)
