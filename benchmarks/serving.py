"""`irpo serve` under load: whether every answer is right, and its speed against ranking offline and a lone call.

    python benchmarks/serving.py            # 64 clients for 60 s; about 100 s in all
    python benchmarks/serving.py --quick    # for 6 s

A server of the embedded model in a process of its own, clients in this one, requests of 2 to 16 documents of 1 to 8
words. Every answer is compared with `Reranker.rank` of its request, computed before. `throughput`: seconds a request
with all clients, against `rank_many` of the same requests, 64 at a time. `alone`: median seconds of a request by one
client, against `Reranker.rank`. Each pair in turns, one thread a model. `mib` is the memory of the server's process
behind each sixth of the load: `--seconds 300` shows where it stays.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from setting import show

from irpo.ranking.reranker import Ranked, Reranker
from irpo.server.answers import relevance

CLOSE = 1e-5  # of two shares, and of scores whose order may differ
ROUNDS = 6  # turns of load and of offline ranking
TOGETHER = 64  # requests that are ranked offline at once
Request = tuple[str, list[str]]


@dataclass
class Answered:
    """What clients were answered."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0  # answers that are not `Reranker.rank`'s
    lost: int = 0  # requests without an answer
    spent: float = 0.0


def requests_of(count: int, seed: int = 0) -> list[Request]:
    """Requests of mixed sizes; no two documents of a request are equal."""
    chance = random.Random(seed)
    words = (Path(__file__).parent / "embedded_words.txt").read_text(encoding="utf-8").split()

    def text() -> str:
        return " ".join(chance.choices(words, k=chance.randint(1, 8)))

    return [(text(), sorted({text() for _ in range(chance.randint(2, 16))} | {"one", "two"})) for _ in range(count)]


def is_right(answer: httpx.Response, rows: Sequence[Ranked]) -> bool:
    """Whether an answer has the documents in the ranker's order, but for those of one score, and its shares."""
    if answer.status_code != 200:
        return False
    shares = {row.index: share for row, share in zip(rows, relevance(rows), strict=True)}
    told = [(row["index"], row["relevance_score"]) for row in answer.json()["results"]]
    ranked = [shares[index] for index, _ in told]
    return (
        len(told) == len({index for index, _ in told}) == len(rows)
        and all(abs(share - shares[index]) < CLOSE for index, share in told)
        and all(one >= other - CLOSE for one, other in itertools.pairwise(ranked))
    )


async def load(
    url: str, clients: int, seconds: float, pool: Sequence[Request], wanted: Sequence[list[Ranked]]
) -> Answered:
    """So many clients that ask again and again, each on a connection of its own, until the time is over."""
    found, turns, begun = Answered(), itertools.count(), 0.0

    async def client(asking: httpx.AsyncClient) -> None:
        while time.perf_counter() - begun < seconds:
            place = next(turns) % len(pool)
            query, documents = pool[place]
            start = time.perf_counter()
            try:
                answer = await asking.post(f"{url}/v1/rerank", json={"query": query, "documents": documents})
            except httpx.HTTPError:
                found.lost += 1
                continue
            found.seconds.append(time.perf_counter() - start)
            found.wrong += not is_right(answer, wanted[place])

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=clients)) as asking:
        begun = time.perf_counter()
        await asyncio.gather(*(client(asking) for _ in range(clients)))
    found.spent = time.perf_counter() - begun
    return found


def offline(ranker: Reranker, seconds: float, pool: Sequence[Request]) -> float:
    """Seconds a request of `rank_many`, TOGETHER requests at a time, for about as long."""
    begun, turn = time.perf_counter(), 0
    while not turn or time.perf_counter() - begun < seconds:
        ranker.rank_many([pool[(turn * TOGETHER + place) % len(pool)] for place in range(TOGETHER)])
        turn += 1
    return (time.perf_counter() - begun) / (turn * TOGETHER)


def alone(ranker: Reranker, url: str, count: int, pool: Sequence[Request]) -> tuple[float, float]:
    """Median seconds of a request over HTTP by one client, and of `Reranker.rank`, in turns."""
    served, called = [], []
    with httpx.Client(timeout=60) as client:
        for place in range(count):
            query, documents = pool[place % len(pool)]
            start = time.perf_counter()
            client.post(f"{url}/v1/rerank", json={"query": query, "documents": documents})
            between = time.perf_counter()
            ranker.rank(query, documents)
            served.append(between - start)
            called.append(time.perf_counter() - between)
    return statistics.median(served), statistics.median(called)


@contextmanager
def server() -> Iterator[tuple[str, psutil.Process]]:
    """`irpo serve` with the embedded model: its URL and its process."""
    words = [sys.executable, "-m", "irpo", "serve", "--model", "embedded", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        url = next(found[1] for line in said if (found := re.search(r"served at (\S+);", line)))
        try:
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def measured(url: str, process: psutil.Process, clients: int, seconds: float, pool: list[Request]) -> dict[str, Any]:
    """One row: what `show` prints of the load."""
    ranker = Reranker.load("embedded")
    wanted = [ranker.rank(*request) for request in pool]
    asyncio.run(load(url, clients, min(2.0, seconds / 4), pool, wanted))  # until its memory is what it needs
    answered, apart, memory = [], [], []
    for _ in range(ROUNDS):
        answered.append(asyncio.run(load(url, clients, seconds / ROUNDS, pool, wanted)))
        apart.append(offline(ranker, seconds / ROUNDS / 2, pool))
        memory.append(round(process.memory_info().rss / 2**20))
    times = [each for part in answered for each in part.seconds]
    pairs = [(part.spent / max(1, len(part.seconds)), other) for part, other in zip(answered, apart, strict=True)]
    served, called = alone(ranker, url, 40 if seconds < 30 else 200, pool)
    return {
        "requests": len(times),
        "wrong": sum(part.wrong for part in answered),
        "lost": sum(part.lost for part in answered),
        "served": statistics.median(one for one, _ in pairs),
        "offline": statistics.median(other for _, other in pairs),
        "p50": statistics.median(times),
        "p99": sorted(times)[int(len(times) * 0.99)],
        "mib": memory,
        "alone": served,
        "call": called,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with server() as (url, process):
        told = measured(
            url, process, given.clients, 6.0 if given.quick else given.seconds, requests_of(100 if given.quick else 500)
        )
    figures = {name: told[name] for name in ("requests", "wrong", "lost", "mib")}
    figures |= {name: round(told[name], 5) for name in ("p50", "p99")}
    case = f"embedded, {given.clients} clients"
    show("serving", f"throughput, {case}", "rank_many", (told["served"], told["offline"]), "s/request", **figures)
    show("serving", "alone, embedded, 1 client", "rank", (told["alone"], told["call"]), "s/request, median")


if __name__ == "__main__":
    main()
