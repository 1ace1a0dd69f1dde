"""Time limits that end at once when a server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Times:
    """Blocks of one event loop that have so many seconds each, until `end` leaves none to any of them."""

    def __init__(self) -> None:
        self.ended = False
        self._running: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """`TimeoutError` where the block waits for longer."""
        async with asyncio.timeout(0 if self.ended else seconds) as limit:
            self._running.add(limit)
            try:
                yield
            finally:
                self._running.remove(limit)

    def end(self) -> None:
        """Time is up for all blocks, those to come among them."""
        self.ended = True
        for limit in self._running:
            if not limit.expired():
                limit.reschedule(0)
