"""The process of a server: a socket, uvicorn in the main thread, and an end in which everybody is answered."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from irpo import stopping
from irpo.progress import say
from irpo.server.app import Desk
from irpo.server.limits import Limits

_LOOK = 0.1  # seconds between two looks whether the server is told to stop
_LAST = 0.2  # seconds that the last answers have to be sent, and then the ranking thread to end

# Its parser holds a head, and what follows a body, to a size, and reads no request before the last is answered, as
# httptools' does not; that it is slower is nothing beside a ranking.
_Protocol: Any = H11Protocol


class _Connection(_Protocol):
    """uvicorn's, which closes where a head does not come in time, or an answer is not taken: uvicorn waits for ever."""

    def __init__(self, *args: Any, head: float, answer: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head, self._answer = head, answer  # seconds
        self._late: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        _cancel(self._untaken)
        if self.transport.get_write_buffer_size():
            self._untaken = self.loop.call_later(self._answer, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._late)
        _cancel(self._untaken)

    def send_400_response(self, msg: str) -> None:
        """Only where nothing is answered yet: h11 has no second answer to a request."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _look(self) -> None:
        """A request whose head is whole has a cycle that is not complete."""
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._late)
            self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(self._head, self.transport.close)

    def _give_up(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class _Server(uvicorn.Server):
    """uvicorn's, which leaves the signals to `irpo.stopping`, and tells when it listens."""

    def __init__(self, config: uvicorn.Config, listens: Callable[[], None]) -> None:
        super().__init__(config)
        self._listens = listens

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens()


def server_of(app: Any, limits: Limits, listens: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server for the app. What is asked when it is told to stop has `limits.stop` seconds to be answered, or hears
    503; `listens` is called once connections are taken."""
    config = uvicorn.Config(
        app,
        http=partial(_Connection, head=limits.head, answer=limits.timeout),
        h11_max_incomplete_event_size=int(limits.head_kib * 1024),
        ws="none",
        log_level=logging.ERROR,
        access_log=False,  # a path may hold what is nobody's business
        server_header=False,
        lifespan="off",
    )
    return _Server(config, listens)


async def serve_until(server: uvicorn.Server, bound: socket.socket, desk: Desk) -> None:
    """Serve until `should_exit` is set; then no request is taken, and those that are here are answered."""
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        while not serving.done() and not server.should_exit:
            server.should_exit = bool(stopping.asked())
            await asyncio.wait((serving,), timeout=_LOOK)
        desk.close()
        await asyncio.wait((serving,), timeout=desk.limits.stop)
        desk.rankings.end()
        await asyncio.wait((serving,), timeout=_LAST)
        for connection in list(server.server_state.connections):  # of clients that do not read
            connection.transport.abort()
    finally:
        await serving


def run(app: Any, bound: socket.socket, told: str) -> None:
    """Serve until a signal says stop, which is then raised as everywhere: `stopping.Stopped`.

    A ranking that outlasts the end is left in its middle, and the process ends there: its thread cannot be stopped.
    """
    desk: Desk = app.state.desk
    server = server_of(app, desk.limits, lambda: say(told))
    with stopping.telling(lambda: _stands(desk)), stopping.later():
        asyncio.run(serve_until(server, bound, desk))
        if stopping.asked() and not desk.queue.ended(_LAST):
            stopping.leave()


def _stands(desk: Desk) -> str:
    """What became of the requests that were here at the end."""
    if left := desk.abandoned:
        return f"{left} requests were not ranked within {desk.limits.stop:g} s and heard 503"
    return "what was asked before is answered"
