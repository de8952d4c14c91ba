"""Access control: checks of the host name and of the origin, and a token."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address may hold the token
    "Cross-Origin-Resource-Policy": "same-origin",
}

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16  # characters

# Allowed without the token: the health check, the page's code, and read-only share links (which contain a secret).
OPEN_PATHS = ("/health",)
OPEN_FOLDERS = ("/web/", "/watch/", "/ws/watch/")

COOKIE_AGE = 30 * 24 * 3600  # seconds


def is_loopback(host: str) -> bool:
    """Whether a server that listens at ``host`` is reachable only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A random token that cannot be guessed."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Access:
    """Where a server listens and who may use it.

    ``host``: the address to listen at. ``token``: visitors must present it once; None admits everyone who can reach the
    server, and is allowed only for loopback addresses. ``names``: further accepted host names, such as a proxy's.
    Numeric addresses are always accepted, since only a *name* can be pointed here by an attacker's DNS (rebinding).
    """

    host: str = "127.0.0.1"
    token: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"{self.host} can be reached from other machines; a token is needed there")
        if self.token is not None and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii()):
            raise ValueError(f"the token has {len(self.token)} characters; give {SHORTEST_TOKEN} or more, plain ones")

    def serves(self, name: str) -> bool:
        """Whether this host name (without port and brackets) is accepted in requests."""
        if name in LOOPBACK or name in (each.lower() for each in self.names):
            return True
        if is_loopback(self.host):
            return False
        return _is_number(name) or name == self.host.lower() or name == socket.gethostname().lower()

    @property
    def cookie(self) -> str:
        """The cookie's name, derived from the token, since browsers share cookies among the ports of a host."""
        assert self.token is not None
        return "motionstream-" + hashlib.sha256(self.token.encode()).hexdigest()[:12]


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Middleware that checks every request, and sets safe headers.

    The ``Host`` header must be a name of this server. WebSockets and modifying requests must come from a page of the
    same host (or from no page: tools send no Origin). A token, if required, is accepted as ``Authorization: Bearer``,
    as the cookie, or once as ``?token=`` in an address, which sets the cookie and redirects to the address without it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await (self.app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The response that refuses the request, or None if it may be served."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self.access.serves(_name(host)):
            return _refused(scope, 403, "this server is not known by that name; start it with --name to allow it")
        origin = headers.get("origin")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and origin is not None and origin.partition("://")[2].lower() != host:
            return _refused(scope, 403, "requests from another site's page are not served")
        if self.access.token is None or _is_open(scope["path"]) or self._shown(headers):
            return None
        return self._check_address(scope)

    def _shown(self, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        return (kind.lower() == "bearer" and self._is_token(bearer)) or self._is_token(
            # Not by Python's SimpleCookie, which stops at unusual cookies that other programs on the host may set.
            cookie_parser(headers.get("cookie", "")).get(self.access.cookie, "")
        )

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.access.token or "").encode()) and bool(given)

    def _check_address(self, scope: Scope) -> Response | None:
        """Check the token in an address: a WebSocket is admitted directly, a page is redirected with a cookie."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not self._is_token(dict(query).get("token", "")):
            return _refused(scope, 401, "a token is needed; open the whole address that motionstream printed")
        if scope["type"] == "websocket":
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Exactly one slash: two would redirect to another host.
        answer = RedirectResponse("/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else ""), 303)
        assert self.access.token is not None
        answer.set_cookie(self.access.cookie, self.access.token, COOKIE_AGE, httponly=True, samesite="lax")
        return answer


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _name(host: str) -> str:
    """``[::1]:8000`` → ``::1``, ``localhost:8000`` → ``localhost``."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _refused(scope: Scope, status: int, message: str) -> Response:
    wants: Sequence[str] = Headers(scope=scope).get("accept", "").split(",")
    if "text/html" in wants:  # a browser
        return PlainTextResponse(message[0].upper() + message[1:] + ".", status)
    return JSONResponse({"detail": message}, status)
