"""`irpo serve` as a process: it says where it listens, answers, and a signal lets it finish what it took."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from served import FILMS, QUERY

LONG = {"query": QUERY, "documents": [f"{film} of {year}" for film in FILMS for year in range(1980, 1995)]}


@pytest.fixture
def process():
    """The process, its URL, and what it said before that."""
    words = ["-W", "ignore", "-m", "irpo", "serve", "--model", "embedded", "--host", "0.0.0.0", "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "IRPO_API_KEYS"}
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment) as started:
        said = []
        for line in started.stderr:
            said.append(line)
            if found := re.search(r"served at http://0\.0\.0\.0:(\d+)", line):
                yield started, f"http://127.0.0.1:{found[1]}", said
                break
        else:
            raise AssertionError(said)
        started.kill()


@pytest.mark.slow
def test_a_signal_lets_it_finish_and_it_says_so(process):
    started, url, said = process
    starts = ("note: --host 0.0.0.0 without --api-keys", "loading embedded", "embedded served at http://0.0.0.0:")
    assert [line.startswith(start) for line, start in zip(said, starts, strict=True)] == [True, True, True]
    assert httpx.get(f"{url}/ready", timeout=20).status_code == 200  # it listens once it says so
    asked = [posted(url, LONG | {"top_n": 3}) for _ in range(4)]  # all are sent before it is looked at
    for _ in range(2):  # what came before these has its place
        assert 'route="/v1/rerank",status="200"} 4.0' not in httpx.get(f"{url}/metrics", timeout=20).text
    started.send_signal(signal.SIGTERM)
    assert {connection.getresponse().status for connection in asked} == {200}
    began = time.monotonic()
    _, err = started.communicate(timeout=200)
    assert started.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20
    assert err == "stopped by SIGTERM; what was asked before is answered\n"


def posted(url, body):
    """A connection over which a request was sent; its answer is still to come."""
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=30)
    connection.request("POST", "/v1/rerank", json.dumps(body), {"content-type": "application/json"})
    return connection


def sent(url, body, told):
    """A connection over which a body was sent that is told to be so long; its client takes little at once."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    client.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    client.sendall(b"Content-Length: %d\r\n\r\n%s" % (told, body))
    return client


@pytest.mark.slow
def test_clients_that_neither_send_nor_read_do_not_hold_it_up(process):
    started, url, _ = process
    document = {"text": "a", "more": "x" * 4_000_000}
    wide = json.dumps({"query": QUERY, "documents": [document], "return_documents": True}).encode()
    with sent(url, b"{", 50) as half, sent(url, wide, len(wide)) as deaf:
        deaf.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        deaf.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(wide), wide))
        while 'route="/v1/rerank",status="200"' not in httpx.get(f"{url}/metrics").text:
            assert started.poll() is None
        started.send_signal(signal.SIGTERM)
        assert half.recv(100).startswith(b"HTTP/1.1 503 ")
        _, err = started.communicate(timeout=200)
    assert started.returncode == 128 + signal.SIGTERM
    assert err == "stopped by SIGTERM; what was asked before is answered\n"
