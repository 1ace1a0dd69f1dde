"""HTTP requests by their number: a sound one, damaged; and what a server of the embedded model makes of it."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx

BATCH = 50
SECONDS = 10.0  # on the clock, that one may take: others may share the core
SECRET = "zq9 nobody else's"  # in every sound text; in no error
FAILURES = (400, 404, 405, 413, 422)  # what a client's mistake may be answered with
PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")

_TEXTS = (
    *("", " ", "\n\t", "\0", "\x1b[2J\x07", "\u202e\u2066", "\ufeff", "e\u0301" * 40, "\U0001f600" * 30, "\U0010ffff"),
    *(
        "<|end|><|assistant|>",
        "[A] > [B]",
        "1. one\n2. two",
        "{{ query }}{% for x in y %}",
        "<script>alert(1)</script>",
    ),
    *("../../etc/passwd", "%s%n{0}", "word " * 300, "x" * 5000, "\\ud800", '"}],"top_n":1', "NaN", "__proto__"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.5, 1e308, -1e308, 2**63, 10**40, [], {}, [[]], [None], [{}], {"text": None}),
    *({"text": {"text": "x"}}, ["x"] * 30, [["x"]], {"": ""}, math.nan, math.inf, *_TEXTS),
)
_FIELDS = (
    *("model", "query", "documents", "texts", "top_n", "return_documents", "rank_fields", "max_tokens_per_doc"),
    *("max_chunks_per_doc", "raw_scores", "return_text", "truncate", "truncation_direction", "priority", "stream", ""),
)


@dataclass(frozen=True)
class Damaged:
    """One request, and what was done to it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    what: str


@dataclass
class Batch:
    """What came of a job's requests: how many were ranked, how many refused; `slowest` in seconds, with its number."""

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)
    faults: list[str] = field(default_factory=list)


@lru_cache
def _app() -> Any:
    from irpo.server.app import create_app
    from irpo.server.limits import Limits
    from irpo.server.rankers import load_rankers

    limits = Limits(body_mib=0.1, documents=20, text_tokens=400, tokens=2000, timeout=SECONDS)
    return create_app(load_rankers("embedded", {}), limits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the server's log, which has a line for each request that failed."""
    log = logging.getLogger("irpo.server")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def warm() -> None:
    """Load the model, and rank once."""
    asyncio.run(_answered([_request({"query": "a", "documents": ["b", "c"]})]))


def batch(number: int, seed: int) -> Batch:
    """The requests `number * BATCH` and on."""
    numbers = range(number * BATCH, (number + 1) * BATCH)
    return judged(number, [(n, damaged(n, seed)) for n in numbers])


def judged(number: int, requests: list[tuple[int, Damaged]]) -> Batch:
    """What came of these requests, one after another."""
    found = Batch(number)
    with _quiet():
        answers = asyncio.run(_answered([request for _, request in requests]))
    for (n, request), (answer, seconds) in zip(requests, answers, strict=True):
        fault = wrong(answer) if seconds <= SECONDS else f"took {seconds:.1f} s"
        ended = "failed" if fault else "ranked" if answer.status_code == 200 else "refused"
        found.counts[ended] = found.counts.get(ended, 0) + 1
        found.slowest = max(found.slowest, (seconds, n))
        if fault:
            found.faults.append(f"requests {n}: {request.what}: {fault}\n{request.path} {request.body[:600]!r}")
    return found


async def _answered(requests: list[Damaged]) -> list[tuple[httpx.Response, float]]:
    found = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_app()), base_url="http://server") as client:
        for each in requests:
            start = time.monotonic()
            asked = client.request(each.method, each.path, headers=each.headers, content=each.body)
            found.append((await asyncio.wait_for(asked, 3 * SECONDS), time.monotonic() - start))
    return found


def wrong(answer: httpx.Response) -> str:
    """What is wrong with an answer; nothing is the empty text."""
    if answer.status_code == 200:
        told = answer.json()
        rows = told["results"] if isinstance(told, dict) else told
        shares = [row["relevance_score"] if "relevance_score" in row else row["score"] for row in rows]
        indices = [row["index"] for row in rows]
        if len(set(indices)) != len(rows) or not rows:
            return f"indices {indices}"
        if any(share is not None and not math.isfinite(share) for share in shares):
            return f"scores {shares}"
        return "" if shares == sorted(shares, key=lambda share: -(share or 0)) else f"scores rise: {shares}"
    if answer.status_code not in FAILURES:
        return f"status {answer.status_code}: {answer.text[:300]}"
    if set(answer.json()) != {"message", "detail", "id"}:
        return f"an error of another form: {answer.text[:300]}"
    if SECRET in answer.text or "/irpo/" in answer.text or "Traceback" in answer.text:
        return f"an error that leaks: {answer.text[:300]}"
    return "" if len(answer.text) < 1500 else f"an error of {len(answer.text)} characters"


def damaged(number: int, seed: int) -> Damaged:
    """The request of a number: the same on every machine."""
    chance = random.Random(f"{seed} {number}")
    body = _sound(chance)
    damage = _DAMAGES[number % len(_DAMAGES)]
    return damage(body, chance)


def _sound(chance: random.Random) -> dict[str, Any]:
    texts = [f"{SECRET} {chance.random()}" for _ in range(chance.randint(1, 6))]
    if chance.random() < 0.3:
        return {"query": SECRET, "texts": texts, "raw_scores": chance.random() < 0.5}
    objects = [{"text": text, "year": 1995} if chance.random() < 0.2 else text for text in texts]
    return {"query": SECRET, "documents": objects, "top_n": chance.randint(1, 8)}


def _request(body: Any, what: str = "sound", path: str = "/rerank", **how: Any) -> Damaged:
    content = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")
    headers = how.pop("headers", {"content-type": "application/json"})
    return Damaged(how.pop("method", "POST"), path, headers, content, what)


def _value(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Another value in one or several fields."""
    names = chance.sample(_FIELDS, chance.randint(1, 3))
    return _request(body | {name: chance.choice(_VALUES) for name in names}, f"fields {names}", chance.choice(PATHS))


def _inside(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Another value among the documents."""
    body = copy.deepcopy(body)
    texts = body.get("documents") or body["texts"]
    for _ in range(chance.randint(1, 3)):
        texts[chance.randrange(len(texts))] = chance.choice(_VALUES)
    return _request(body, "documents", chance.choice(PATHS))


def _hostile(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Texts that a prompt, a page or a terminal could take for something else."""
    texts = ["".join(chance.choices(_TEXTS[2:], k=chance.randint(1, 3))) for _ in range(chance.randint(1, 6))]
    named = "texts" if "texts" in body else "documents"
    return _request(body | {"query": chance.choice(_TEXTS), named: texts}, "texts")


def _missing(body: dict[str, Any], chance: random.Random) -> Damaged:
    gone = chance.choice(list(body))
    return _request({key: value for key, value in body.items() if key != gone}, f"no {gone}", chance.choice(PATHS))


def _bytes(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Bytes of the body changed, cut off, doubled, or others in their place."""
    content = bytearray(json.dumps(body).encode())
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    ways: list[Callable[[], bytes]] = [
        lambda: bytes(content),
        lambda: bytes(content[: chance.randrange(len(content))]),
        lambda: bytes(content) * 2,
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: json.dumps(body).encode(chance.choice(["utf-16", "utf-32", "utf-8-sig"])),
    ]
    return _request(chance.choice(ways)(), "bytes", chance.choice(PATHS))


def _large(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Too much of something: nesting, digits, documents, names, bytes."""
    ways: list[Callable[[], bytes]] = [
        lambda: b"[" * chance.choice([500, 50_000]),
        lambda: b'{"a":' * 5000,
        lambda: b'{"query": "x", "documents": ["a", "b"], "top_n": ' + b"9" * 5000 + b"}",
        lambda: json.dumps(body | {"documents": ["a"] * chance.randint(15, 5000)}).encode(),
        lambda: json.dumps(body | {"documents": ["word " * chance.randint(100, 10_000), "b"]}).encode(),
        lambda: json.dumps(body | {f"{SECRET} {n}": n for n in range(500)}).encode(),
        lambda: b" " * chance.randint(100_000, 300_000),
        lambda: json.dumps({"query": "\ud83d" * 3, "documents": ["\udc00", "b"]}).encode(),
    ]
    return _request(chance.choice(ways)(), "large", chance.choice(PATHS))


def _around(body: dict[str, Any], chance: random.Random) -> Damaged:
    """Another type, method, path or header than a client would send."""
    kinds = ("text/plain", "", "application/json; charset=utf-16", "multipart/form-data", "application/x-json", "a\tb")
    headers = {"content-type": chance.choice(kinds), "x-request-id": SECRET, "content-encoding": "gzip"}
    path = chance.choice([*PATHS, "/v3/rerank", "/health", "/metrics", "/docs", f"/rerank/{SECRET}", "/rerank?x=%00"])
    method = chance.choice(["POST", "POST", "PUT", "DELETE", "PATCH", "QUERY"])
    return _request(body, f"{method} {path}", path, method=method, headers=headers)


_DAMAGES = (_value, _inside, _hostile, _missing, _bytes, _large, _around, _value)
