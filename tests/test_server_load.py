"""A share of `benchmarks/serving.py`: no answer is wrong under load, none is lost, and the memory stays."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from served import running

from irpo.ranking.reranker import Reranker
from irpo.server.app import create_app
from irpo.server.rankers import load_rankers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from serving import is_right, load, requests_of

POOL = requests_of(24)


@pytest.fixture(scope="module")
def wanted():
    ranker = Reranker.load("embedded")
    return [ranker.rank(*request) for request in POOL]


@pytest.mark.slow
def test_no_answer_is_wrong_or_lost_under_load(wanted):
    with running(create_app(load_rankers("embedded", {}))) as here:
        asyncio.run(load(here.url, 64, 0.5, POOL, wanted))
        before = psutil.Process().memory_info().rss
        found = asyncio.run(load(here.url, 64, 3, POOL, wanted))
        figures = httpx.get(f"{here.url}/metrics").text
    assert (found.wrong, found.lost) == (0, 0)
    assert len(found.seconds) >= 64
    assert psutil.Process().memory_info().rss < before + 64 * 2**20
    requests, batches = (re.search(rf"irpo_batch_requests_{what} (\S+)", figures)[1] for what in ("sum", "count"))
    assert float(requests) > 2 * float(batches)


def test_an_answer_that_is_wrong_is_seen(wanted):
    rows = wanted[0]
    told = [{"index": row.index, "relevance_score": 0.5} for row in rows]
    assert not is_right(httpx.Response(200, json={"results": told}), rows)
    assert not is_right(httpx.Response(429, json={"message": "full"}), rows)
