"""Who may ask: every request passes here before anything else sees it.

Any page that a browser shows can send requests to a server on the same machine. So the name in
`Host` must be one of ours, which stops DNS rebinding; the browser must have opened the address
with the token in it, which other users of the machine do not know; and only our own page may
change anything.
"""

import secrets
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CLOSED = "Open the address that `colorjax web` printed: it holds a token that this one lacks."


class Guard:
    """ASGI middleware that answers for the application whatever it must not see."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str]):
        """Guard an application.

        Args:
            app: the application behind.
            token: what the address that is opened must hold, once; a cookie holds it from then on.
            hosts: values of `Host` that are ours, with the port, compared exactly.
        """
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self.answer(scope) or self.app
            await answer(scope, receive, _with_headers(send))
        # No websocket is served; without an answer the server closes it.

    def answer(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that must not pass; None where it may."""
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        if len(names) != 1 or names[0] not in self.hosts:
            return PlainTextResponse("This server has another name.", 421)
        if scope["method"] not in ("GET", "HEAD") and not _from_own_page(headers, names[0]):
            return PlainTextResponse("Only the page of this server may change anything.", 403)
        cookie = f"colorjax-{names[0].rpartition(':')[2]}"  # cookies do not tell ports apart
        if scope["path"] == "/" and scope["method"] == "GET":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if self._is_token(given):
                opened = RedirectResponse("/", 303)  # so that the token leaves the address bar
                opened.set_cookie(cookie, self.token, httponly=True, samesite="strict")
                return opened
        if not self._is_token(cookie_parser(headers.get("cookie", "")).get(cookie, "")):
            return PlainTextResponse(_CLOSED, 403)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())


def _from_own_page(headers: Headers, host: str) -> bool:
    """Whether a browser says that our own page sends this; old ones name the origin only."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    return site == "same-origin" if site is not None else origin == f"http://{host}"


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return wrapped
