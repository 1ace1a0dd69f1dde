"""Requests that wait to be ranked, and the one thread that ranks them, several of like length at once."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from irpo.server.limits import Refused
from irpo.types import NoAnswer

if TYPE_CHECKING:
    from irpo.ranking.reranker import Ranked

log = logging.getLogger("irpo.server")

# Rankings of several requests for the ranker of a name, in their order.
Work = Callable[[str, Sequence[tuple[str, Sequence[str]]]], Sequence[Any]]
Seen = Callable[[int], None]  # is told how many requests a batch has
_RECENT = 0.2  # weight of the last batch in the pace


@dataclass(eq=False)
class Job:
    """One request that is to be ranked; made in the event loop that waits for its answer."""

    ranker: str
    query: str
    texts: Sequence[str]
    tokens: int
    answer: asyncio.Future[list[Ranked]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def together(waiting: Sequence[Job], room: int) -> list[Job]:
    """The oldest job, and of those for the same ranker the likest in length, as many as fit into `room` tokens.

    Each is counted at the longest of them, for so they are padded.
    """
    first = waiting[0]
    same = [job for job in waiting if job.ranker == first.ranker]
    chosen: list[Job] = []
    longest = 0
    for job in sorted(same, key=lambda job: abs(job.tokens - first.tokens)):
        longest = max(longest, job.tokens)
        if chosen and longest * (len(chosen) + 1) > room:
            break
        chosen.append(job)
    return chosen


class Queue:
    """A bounded queue and its worker. Jobs come from one event loop; they are ranked in one thread."""

    def __init__(self, work: Work, *, places: int, room: int, seen: Seen = lambda _: None) -> None:
        self._work, self._places, self._room, self._seen = work, places, room, seen
        self._waiting: list[Job] = []
        self.coming = 0  # places that are held for jobs on their way
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.0  # seconds a token
        self._thread = threading.Thread(target=self._run, name="irpo-ranking", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether places are given."""
        return self._thread.is_alive() and not self._closed

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one job that is put inside; it is ranked though the queue is closed meanwhile.

        `Refused` with 429 where none is left, with 503 where the queue is closed.
        """
        with self._changed:
            self._require_place()
            self.coming += 1
        try:
            yield
        finally:
            with self._changed:
                self.coming -= 1
                self._changed.notify()

    def _require_place(self) -> None:
        if not self.alive:
            raise Refused(503, "this server is stopping", {"retry-after": "5"})
        if len(self._waiting) + self.coming >= self._places:
            told = f"{self._places} requests are waiting; there is no place for another"
            raise Refused(429, told, {"retry-after": str(self.wait())})

    def put(self, job: Job) -> None:
        """A job more, by who holds a place."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Its place is another's; what is being ranked is ranked to its end, for nobody."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def wait(self) -> int:
        """Seconds until what waits now is ranked, from 1 to 60, as the last batches took."""
        return min(60, max(1, math.ceil(self._pace * sum(job.tokens for job in self._waiting))))

    def close(self) -> None:
        """No place more; what waits, and what has a place, is ranked."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def ended(self, seconds: float) -> bool:
        """Whether the thread of a queue that is closed ends in so many seconds: it does between two batches."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and (self.coming or not self._closed):
                    self._changed.wait()
                if not self._waiting:
                    return
                jobs = together(self._waiting, self._room)
                taken = set(map(id, jobs))
                self._waiting = [job for job in self._waiting if id(job) not in taken]
            start = time.perf_counter()
            found = self._ranked(jobs)
            spent = (time.perf_counter() - start) / max(1, sum(job.tokens for job in jobs))
            self._pace = spent if not self._pace else (1 - _RECENT) * self._pace + _RECENT * spent
            self._seen(len(jobs))
            try:
                jobs[0].answer.get_loop().call_soon_threadsafe(_settle, found)
            except RuntimeError:  # the loop is closed: nobody waits
                log.info("%d rankings came too late", len(found))

    def _ranked(self, jobs: Sequence[Job]) -> list[tuple[Job, Any]]:
        """Each job's ranking or error; where they fail together each is tried alone, so that one fails no other.

        Where nobody answers, none is tried again: each would wait as long.
        """
        try:
            found = self._work(jobs[0].ranker, [(job.query, job.texts) for job in jobs])
            return list(zip(jobs, found, strict=True))
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever a request does to the model
            if len(jobs) == 1 or isinstance(error, NoAnswer):
                return [(job, error) for job in jobs]
        return [pair for job in jobs for pair in self._ranked([job])]


def _settle(found: Sequence[tuple[Job, Any]]) -> None:
    for job, outcome in found:
        if job.answer.done():  # its client went away, or its time is up
            continue
        if isinstance(outcome, Exception):
            job.answer.set_exception(outcome)
        else:
            job.answer.set_result(outcome)
