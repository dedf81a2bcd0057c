"""Web origins: which pages may talk to a server (WHATWG Fetch, section 3.3: the CORS protocol).

A request that names another origin than the one admitted is refused, and so is one without, by which a browser fetches
for another site's page; a program's is answered as ever. It keeps nobody out who can write a header.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

EXPLAINED = 600
"""Seconds for which a page need not ask again what it may send."""

REFUSED = "Only pages of {} may connect.\n"

ELSEWHERE = ("cross-site", "same-site")
"""What a browser says of a request for a page of another origin (W3C Fetch Metadata, section 2.3); a program none."""


def foreign(headers: Mapping[str, str], origin: str) -> bool:
    """Whether a request is one for a page of another origin, or came by a name that is neither this machine's nor the
    origin's (DNS rebinding); a notebook server that passes a request on leaves the name it was asked by."""
    strange = headers["Origin"] != origin if "Origin" in headers else headers.get("Sec-Fetch-Site") in ELSEWHERE
    return strange or not _known(headers.get("Host", ""), origin)


def _known(host: str, origin: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("", "localhost", urlsplit(origin).hostname) or ip_address(name).is_loopback
    except ValueError:
        return False


def admit(app: web.Application, origin: str, headers: str = "If-None-Match, Prefer") -> None:
    """Lets pages of one origin, and of no other, send these headers to an application and read its answers."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if foreign(request.headers, origin):
            return web.Response(status=403, text=REFUSED.format(origin))
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            allowed = {"Access-Control-Allow-Headers": headers, "Access-Control-Max-Age": str(EXPLAINED)}
            return web.Response(status=204, headers=allowed)
        return await handler(request)

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Vary"] = "Origin"
        if request.headers.get("Origin") == origin:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "ETag"

    app.middlewares.append(check)
    app.on_response_prepare.append(sign)
