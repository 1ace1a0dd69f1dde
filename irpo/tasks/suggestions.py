"""Titles suggested by a language model behind an OpenAI-compatible endpoint, its answers cached on disk.

With every answer in the cache neither the endpoint nor the client library (extra `llm`) is needed, and the same lists
come out again. An endpoint that is lost is asked again for a while; what it did not answer is never made up.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from irpo.chance import fingerprint
from irpo.disk import add_lines
from irpo.files import json_line
from irpo.progress import say
from irpo.rows import need, read_rows, shown
from irpo.types import UserError

PROMPT = """\
Below, someone looks for a movie to watch and a recommender helps. Which movies could the recommender name next?
Answer with {count} movies that were not mentioned yet, the best one first: one a line, as "Title (year)", and nothing \
else.

{context}
"""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask: the base URL, the model's name there, and the JSONL file that keeps the answers.

    The key is taken from the environment variable OPENAI_API_KEY; a local server needs none.
    """

    url: str
    model: str
    cache: Path
    patience: float = 600.0  # seconds from a question's first failure in which it is asked again
    timeout: float = 120.0  # seconds in which an answer must begin, or go on


class Suggester:
    """Asks the endpoint for titles; what was asked before is answered from the cache."""

    def __init__(self, endpoint: Endpoint, count: int = 10) -> None:
        self._endpoint = endpoint
        self._count = count
        self._client: Any = None
        self._answers: dict[str, str] = {}
        if endpoint.cache.exists():
            _cut_torn_answer(endpoint.cache)
            for row in read_rows(endpoint.cache):
                if row.problem:
                    raise UserError(f"{row.where}: {row.problem}")
                self._answers[need(row.value, "key", str)] = need(row.value, "answer", str)

    def suggest(self, context: str) -> list[str]:
        """Titles that the model would recommend after this dialogue, best first; `UserError` where nobody answers."""
        prompt = PROMPT.format(count=self._count, context=context)
        key = fingerprint(json_line([self._endpoint.model, prompt]), 64)
        if key not in self._answers:
            self._keep(key, self._ask(prompt))
        return titles_in(self._answers[key])

    def _keep(self, key: str, answer: str) -> None:
        self._answers[key] = answer
        path = self._endpoint.cache
        path.parent.mkdir(parents=True, exist_ok=True)
        add_lines(path, json_line({"key": key, "model": self._endpoint.model, "answer": answer}) + "\n")

    def _ask(self, prompt: str) -> str:
        """The model's answer, asked for again and again while the endpoint is away; `UserError` where it stays so."""
        try:
            import openai
        except ImportError:
            raise UserError("llm_endpoint needs the openai client library: pip install 'irpo[llm]'") from None
        if self._client is None:
            key, place = os.environ.get("OPENAI_API_KEY") or "none", self._endpoint
            # Its own retries know no limit in time.
            self._client = openai.OpenAI(base_url=place.url, api_key=key, max_retries=0, timeout=place.timeout)
        try:
            return patiently(lambda: self._ask_once(prompt), self._endpoint.patience)
        except Unanswered as error:
            raise UserError(
                f"llm_endpoint: {self._endpoint.url!r} gives no answer: {error}; {len(self._answers)} answer(s) are "
                f"kept in {self._endpoint.cache}, and the same command goes on from there"
            ) from None

    def _ask_once(self, prompt: str) -> str:
        """One question and its answer; `Unanswered` says whether it is worth asking again."""
        import openai

        try:
            reply = self._client.chat.completions.create(
                model=self._endpoint.model, messages=[{"role": "user", "content": prompt}], temperature=0
            )
        except openai.APIStatusError as error:
            passing = error.status_code in _PASSING or error.status_code >= 500
            again = passing and error.code != "insufficient_quota"
            raise Unanswered(_first_line(error), again=again, wait=_asked_to_wait(error.response.headers)) from None
        except openai.OpenAIError as error:
            raise Unanswered(_first_line(error), again=isinstance(error, openai.APIConnectionError)) from None
        except ValueError as error:
            raise Unanswered(f"what it sends is not JSON ({_first_line(error)})", again=True) from None
        try:
            answer = str(reply.choices[0].message.content or "")
        except (AttributeError, IndexError, TypeError):
            raise Unanswered(f"what it sends is no chat completion ({shown(reply)})", again=True) from None
        if not answer.strip():
            raise Unanswered("it sends an empty answer", again=True)
        return answer


# --- asking again -----------------------------------------------------------------------------------------------------

_PASSING = (408, 409, 425, 429)  # and all from 500 on: the server's trouble, or its load
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds
_CHANCE = random.SystemRandom()  # no seed: nothing but the time of a question hangs on it


class Unanswered(Exception):
    """A question that was not answered; `again`: it may be if asked again, after `wait` seconds where that is said."""

    def __init__(self, reason: str, *, again: bool, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


def patiently(ask: Callable[[], str], patience: float) -> str:
    """The answer, asked for again after waits that double, by chance shorter, so that many askers do not meet.

    A server's own word on how long to wait is kept to. `Unanswered` where it is no use, or not within `patience` s.
    """
    began, tries = time.monotonic(), 0
    while True:
        try:
            return ask()
        except Unanswered as error:
            tries += 1
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries - 1)) * _CHANCE.uniform(0.5, 1.0)
            wait = max(wait, error.wait or 0.0)
            spent = time.monotonic() - began
            if not error.again:
                raise
            if spent + wait > patience:
                asked = f", and it asks to wait {error.wait:.0f} s" if error.wait else ""
                raise Unanswered(f"{error} (asked {tries} time(s) in {spent:.0f} s{asked})", again=False) from None
            say(f"llm_endpoint: {error}; asking again in {wait:.1f} s")
        time.sleep(wait)


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a `Retry-After` asks for, as a number or as a date; None where it is neither."""
    given = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _first_line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__
    return f"{text} ({error.__cause__})" if str(error.__cause__ or "") else text


# --- the cache --------------------------------------------------------------------------------------------------------

_OPENING = b'{"key": "'  # of every line of a cache


def _cut_torn_answer(cache: Path) -> None:
    """Cut off a last line that a dying process began, so that what was asked there is asked again; end a whole one."""
    content = cache.read_bytes() if cache.is_file() else b""
    start = content.rfind(b"\n") + 1
    torn = content[start:]
    if not torn or not (torn.startswith(_OPENING) or _OPENING.startswith(torn)):
        return
    try:
        json.loads(torn)
    except ValueError:
        with cache.open("r+b") as file:
            file.truncate(start)
    else:
        with cache.open("ab") as file:
            file.write(b"\n")


def titles_in(answer: str) -> list[str]:
    """The titles of an answer, one a line, without numbers, bullets, quotes and emphasis.

    >>> titles_in('1. **The Long Field (1999)**\\n2) "Tide"\\n- Up\\n\\n1917 (2019)')
    ['The Long Field (1999)', 'Tide', 'Up', '1917 (2019)']
    """
    lines = (re.sub(r"^\s*(?:\d{1,3}[.)]\s+|[-*\u2022]\s+)?", "", line) for line in answer.splitlines())
    titles = (line.strip().strip('*_"\u201c\u201d').strip() for line in lines)
    return [title for title in titles if title]
