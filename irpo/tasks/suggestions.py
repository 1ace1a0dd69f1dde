"""Titles suggested by a language model behind an OpenAI-compatible endpoint, its answers cached on disk.

With every answer in the cache neither the endpoint nor the client library (extra `llm`) is needed, and the same lists
come out again.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.chance import fingerprint
from irpo.files import json_line
from irpo.rows import need, read_rows
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
        line = json_line({"key": key, "model": self._endpoint.model, "answer": answer}) + "\n"
        with path.open("ab") as file:
            file.write(line.encode("utf-8", "backslashreplace"))

    def _ask(self, prompt: str) -> str:
        try:
            import openai
        except ImportError:
            raise UserError("llm_endpoint needs the openai client library: pip install 'irpo[llm]'") from None
        if self._client is None:
            key = os.environ.get("OPENAI_API_KEY") or "none"
            self._client = openai.OpenAI(base_url=self._endpoint.url, api_key=key, max_retries=2, timeout=120)
        try:
            reply = self._client.chat.completions.create(
                model=self._endpoint.model, messages=[{"role": "user", "content": prompt}], temperature=0
            )
        except openai.OpenAIError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"llm_endpoint: {self._endpoint.url!r} gives no answer: {reason}") from None
        return str(reply.choices[0].message.content or "") if reply.choices else ""


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
