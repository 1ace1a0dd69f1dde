"""An LLM's endpoint that is lost: asked again for a while, then one line; what it answered is kept, nothing made up."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from email.utils import formatdate

import pytest

from irpo.disk import NoRoom
from irpo.tasks import suggestions
from irpo.tasks.suggestions import Endpoint, Suggester, Unanswered, patiently
from irpo.types import UserError

pytest.importorskip("openai", reason="the endpoint needs the extra llm")

GOOD = json.dumps({"choices": [{"message": {"role": "assistant", "content": "1. Alien (1979)\n2. Heat (1995)"}}]})
WORDS = json.dumps("1. Alien (1979)\n2. Heat (1995)")
TITLES = ["Alien (1979)", "Heat (1995)"]


class Server(http.server.ThreadingHTTPServer):
    """Plays one step of its script a request, then answers well; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked = list(script), []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        step = self.server.script.pop(0) if self.server.script else (200, GOOD)
        if step == "hang":
            threading.Event().wait(4)  # not time.sleep, which the fixture shortens
        elif step == "drop":  # dies in the middle of an answer
            self._send(200, GOOD[:20], length=len(GOOD))
        else:
            self._send(*step)
        if isinstance(step, str):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, code, body, *, length=None, **headers):
        self.send_response(code)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(length or len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body.encode())
        self.wfile.flush()


@pytest.fixture
def quick(monkeypatch):
    """Waits of milliseconds instead of seconds; gives those that were asked for."""
    waits, sleep = [], time.sleep
    monkeypatch.setattr(suggestions.time, "sleep", lambda seconds: waits.append(seconds) or sleep(seconds / 1000))
    monkeypatch.setenv("NO_PROXY", "*")
    return waits


def suggester(server, cache, **told):
    return Suggester(Endpoint(server.url, "m", cache, **{"timeout": 1.5, **told}))


LOST = {
    "a dropped answer": ("drop",),
    "500 three times": ((500, "{}"),) * 3,
    "503 and a page": ((503, "<html>"),),
    "no answer in time": ("hang",),
    "broken JSON": ((200, '{"choices": ['),),
    "no words": tuple((200, GOOD.replace(WORDS, blank)) for blank in ('""', "null", '" \\n"')),
    "another JSON": ((200, "[]"), (200, "null"), (200, '{"choices": []}'), (200, '{"choices": "no"}')),
}


@pytest.mark.parametrize("what", LOST)
def test_a_lost_endpoint_is_asked_again(tmp_path, quick, what, capsys):
    server = Server(*LOST[what])
    assert suggester(server, tmp_path / "c.jsonl").suggest("hello") == TITLES
    failures = len(LOST[what])
    assert len(server.asked) == failures + 1
    assert all(asked == server.asked[0] for asked in server.asked)
    assert [0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(quick)] == [True] * failures, "they double, with jitter"
    assert capsys.readouterr().err.count("asking again in") == failures
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 1, "no failure is kept as an answer"


def test_a_refused_connection_ends_in_one_line_and_the_next_call_goes_on(tmp_path, quick):
    """The server dies between two questions, and comes back at another port."""
    server = Server()
    cache = tmp_path / "c.jsonl"
    asking = suggester(server, cache, patience=0.05)
    assert asking.suggest("one") == TITLES
    server.shutdown()
    server.server_close()
    said = r"gives no answer: Connection error .*refused.* \(asked \d time.* 1 answer\(s\) are kept in "
    with pytest.raises(UserError, match=said) as error:
        asking.suggest("two")
    assert "\n" not in str(error.value)
    again = Server()
    asking = suggester(again, cache)
    assert [asking.suggest(context) for context in ("one", "two")] == [TITLES, TITLES]
    assert len(again.asked) == 1, "what was answered is not asked again"


@pytest.mark.parametrize(("code", "word"), [(401, "401"), (403, "403"), (404, "404"), (400, "400")])
def test_what_no_repetition_mends_is_not_repeated(tmp_path, quick, code, word):
    server = Server((code, '{"error": {"message": "no such key"}}'))
    with pytest.raises(UserError, match=f"gives no answer: .*{word}.*; 0 answer"):
        suggester(server, tmp_path / "c.jsonl").suggest("hello")
    assert (len(server.asked), quick) == (1, [])
    assert not (tmp_path / "c.jsonl").exists()


def test_a_spent_quota_is_not_waited_for(tmp_path, quick):
    server = Server((429, '{"error": {"message": "no money", "code": "insufficient_quota"}}'))
    with pytest.raises(UserError, match="no money"):
        suggester(server, tmp_path / "c.jsonl").suggest("hello")
    assert len(server.asked) == 1


def test_retry_after_is_kept_to(tmp_path, quick, monkeypatch):
    send = Handler._send

    def refusing(self, code, body, **given):
        send(self, code, body, **given, **({"Retry_After": self.server.after.pop(0)} if self.server.after else {}))

    monkeypatch.setattr(Handler, "_send", refusing)
    server = Server(*((429, '{"error": {"message": "slow down"}}'),) * 3)
    server.after = ["7", formatdate(time.time() + 30, usegmt=True), "soon"]
    assert suggester(server, tmp_path / "c.jsonl").suggest("hello") == TITLES
    assert quick[0] == 7
    assert 27 < quick[1] <= 30
    assert 2 <= quick[2] <= 4, "what is no time is not kept to"
    server.script, server.after = [(429, "{}")], ["3600"]
    with pytest.raises(UserError, match=r"asked 1 time.s. in 0 s, and it asks to wait 3600 s"):
        suggester(server, tmp_path / "c.jsonl").suggest("another")


def test_patience_ends(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(suggestions.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(suggestions.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def never():
        raise Unanswered("nobody there", again=True)

    with pytest.raises(Unanswered, match=r"nobody there \(asked \d+ time\(s\) in \d+ s\)") as error:
        patiently(never, 600)
    assert 540 <= now[0] <= 600
    assert not error.value.again


def test_an_answer_that_cannot_be_kept_is_said(tmp_path, quick, monkeypatch):
    def full(path, text):
        raise NoRoom(path, 28, needed=len(text))

    monkeypatch.setattr(suggestions, "add_lines", full)
    with pytest.raises(UserError, match=r"c.jsonl: the disk is full: 1 kB needed, "):
        suggester(Server(), tmp_path / "c.jsonl").suggest("hello")


def test_an_empty_answer_is_not_kept(tmp_path, quick):
    server = Server(*[(200, GOOD.replace(WORDS, '""'))] * 9)
    with pytest.raises(UserError, match="it sends an empty answer"):
        suggester(server, tmp_path / "c.jsonl", patience=0).suggest("hello")
    assert suggester(Server(), tmp_path / "c.jsonl").suggest("hello") == TITLES
