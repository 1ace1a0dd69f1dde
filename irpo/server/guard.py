"""What stands before every route: an id, a key, a body within its limit, one form of error, and the figures.

It is plain ASGI: a body is read here, whole, before anything behind it begins, so that neither a missing length nor
a slow client gets past the limits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from irpo.server.keys import Keys
from irpo.server.limits import Gone, Limits, Refused
from irpo.server.metrics import Figures
from irpo.server.times import Times

log = logging.getLogger("irpo.server")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEALTH = "/health"  # is answered however many others are
LEFT = 499  # nginx's status for a client that went away; it is counted, and sent to nobody
_PLAIN = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_VALUE = 200  # bytes of a value that is read from JSON, beside those of its text
_DRAINED, _PATIENCE = 16, 2.0  # bodies, and seconds, of what is read of a refused request so that it hears why


def failure(status: int, message: str, id: str) -> tuple[int, bytes]:
    """An error's status and body; clients of Jina's form read `detail`."""
    return status, json.dumps({"message": message, "detail": message, "id": id}).encode()


class Guard:
    """The middleware.

    `routes` are the paths that figures name, and whether a key opens each; others need one, and so does every body. A
    body is read within `times`: one that is not whole when they end hears that the server stops.
    """

    def __init__(
        self, app: App, *, limits: Limits, keys: Keys, figures: Figures, routes: dict[str, bool], times: Times
    ) -> None:
        self._app, self._limits, self._keys, self._figures, self._routes = app, limits, keys, figures, routes
        self._times = times
        self._held = 0  # bytes of bodies that are in the process
        self._at_work = 0  # requests

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, from its id to its line in the figures."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, id = time.perf_counter(), uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = id
        out = _Out(send, id)
        self._at_work += 1
        try:
            if self._at_work > self._limits.at_work and scope["path"] != HEALTH:
                raise Refused(503, f"{self._limits.at_work} requests are at work", {"retry-after": "1"})
            await self._answer(scope, receive, out)
        except Gone:
            out.status = LEFT
        except Refused as refused:
            await out.refuse(refused)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client hears that it was ours, and no more
            log.error(
                "%s: %s\n%s", id, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)).rstrip()
            )
            await out.refuse(Refused(500, "internal error"))
        finally:
            self._at_work -= 1
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._figures.request(route, out.status, time.perf_counter() - start)

    async def _answer(self, scope: Message, receive: Receive, out: _Out) -> None:
        """The answer of what stands behind, once key and body are right; the body and its values are held as long."""
        reads = scope["method"] in ("POST", "PUT", "PATCH")  # what is open to all takes no body
        closed = reads or self._routes.get(scope["path"], True)
        if closed and not self._keys.admits(_header(scope, b"authorization")):
            await self._drain(receive)
            raise Refused(401, "this needs an API key: Authorization: Bearer KEY", {"www-authenticate": "Bearer"})
        if not reads:
            await self._app(scope, receive, out)
            return
        body, parsed = bytearray(), 0
        try:
            await self._read(scope, receive, body)
            parsed = _parsed(body)
            self._held += parsed
            if parsed > self._limits.held:
                raise Refused(413, "the body holds more values than this server has memory for")
            self._require_room()
            await self._app(scope, _replayed(bytes(body), receive), out)
        finally:
            self._held -= len(body) + parsed

    def _require_room(self) -> None:
        if self._held > self._limits.held:
            raise Refused(429, "the requests at work fill this server's memory", {"retry-after": "1"})

    async def _read(self, scope: Message, receive: Receive, body: bytearray) -> None:
        """Append the body's bytes as they come; `Refused` where they are too many or too slow."""
        told = _header(scope, b"content-length")
        if told.isdigit() and int(told) > self._limits.body:
            await self._too_long(receive)
        try:
            async with self._times.within(self._limits.timeout):
                async for chunk in _chunks(receive):
                    self._held += len(chunk)
                    body += chunk
                    if len(body) > self._limits.body:
                        await self._too_long(receive)
                    self._require_room()
        except TimeoutError:
            if self._times.ended:
                await self._drain(receive)
                raise Refused(503, "this server is stopping", {"retry-after": "5"}) from None
            raise Refused(408, f"the body did not come within {self._limits.timeout:g} s") from None

    async def _too_long(self, receive: Receive) -> None:
        await self._drain(receive)
        raise Refused(413, f"the body is longer than {self._limits.body_mib:g} MiB, this server's limit")

    async def _drain(self, receive: Receive) -> None:
        """Read on for a while: a client that is cut off as it sends does not see what it is answered."""
        left = _DRAINED * self._limits.body
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                async for chunk in _chunks(receive):
                    left -= len(chunk)
                    if left < 0:
                        return


class _Out:
    """The way out: it adds headers, remembers the status, and answers a refusal if nothing was answered."""

    def __init__(self, send: Send, id: str) -> None:
        self._send, self._id = send, id
        self.status = 500
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun, self.status = True, message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._id.encode()), *_PLAIN]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """The refusal as JSON; the connection ends with it where a part of the body may still be to come."""
        if self._begun:
            return
        status, body = failure(refused.status, refused.message, self._id)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        headers += [(b"connection", b"close")] if status in (401, 408, 413, 429, 503) else []
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _parsed(body: bytearray) -> int:
    """Bytes that the values of a body take once it is read, as a rule too many: texts have commas, too.

    >>> _parsed(bytearray(b'{"documents": ["Heat", "Alien"]}'))
    600
    """
    return _VALUE * sum(map(body.count, (b"[", b"{", b",")))


def _header(scope: Message, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _chunks(receive: Receive) -> Any:
    """The body's parts; `Gone` where the client leaves in its middle."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body once, and then what the server says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
