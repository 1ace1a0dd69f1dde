"""A running vLLM server (`vllm serve`), asked over its OpenAI-compatible interface in plain token ids."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from irpo.ranking.vllm.asking import Adapter, Question, Writing, require_logprobs
from irpo.scoring.tokens import Tokens
from irpo.types import NoAnswer, UserError

KEY = "VLLM_API_KEY"  # the environment variable that holds the server's key, where it has one
TOGETHER = 64  # requests under way
TRIES, PATIENCE = 6, 180.0  # of a request; seconds to wait for its answer
PASSING = (408, 429, 500, 502, 503, 504)  # states that may pass
_AWAY = (429, 502, 503, 504)  # of them those that no request is the cause of

# A server's defaults are those of the model's generation_config.json: a temperature, a penalty. All are said.
_NEUTRAL: dict[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "add_special_tokens": False,
    "stream": False,
    "n": 1,
}


@dataclass(frozen=True)
class Card:
    """A model as the server's list has it."""

    id: str
    root: str | None
    parent: str | None  # of an adapter its base
    max_model_len: int | None


@dataclass(frozen=True)
class Server:
    """A server that holds the base model, as `irpo.ranking.vllm.asking.Served`."""

    url: str
    base: str  # the name under which it serves the base model
    version: str
    room: int

    @property
    def about(self) -> str:
        return f"vllm {self.version}, a server (dtype and quantization as it was started)"

    def complete(
        self, prompts: Sequence[Tokens], how: Sequence[Writing], adapter: Adapter | None
    ) -> list[tuple[int, ...]]:
        bodies = []
        for prompt, one in zip(prompts, how, strict=True):
            seed = {} if one.seed is None else {"seed": one.seed}
            stop = {"stop_token_ids": list(one.stop), "return_token_ids": True}  # nosec B105 # a switch
            bodies.append(self._body(prompt, adapter, one.limit, one.temperature) | seed | stop)
        choices = self._choices(bodies)
        with self._understood():
            return [tuple(choice["token_ids"]) for choice in choices]

    def prompt_logprobs(self, texts: Sequence[Tokens], adapter: Adapter | None) -> list[list[float]]:
        bodies = [self._body(text, adapter) | {"prompt_logprobs": 0} for text in texts]
        choices, spoken = self._choices(bodies), []
        with self._understood():
            for text, choice in zip(texts, choices, strict=True):
                told = choice["prompt_logprobs"][1:]  # of the first token nothing is known
                spoken.append([float(at[str(token)]["logprob"]) for token, at in zip(text[1:], told, strict=True)])
                require_logprobs(spoken[-1])
        return spoken

    def next_logprobs(self, questions: Sequence[Question], adapter: Adapter | None) -> list[list[float]]:
        named = {"logprobs": 1, "return_tokens_as_token_ids": True}  # nosec B105 # a switch
        bodies = [self._body(q.prefix, adapter) | named | {"logprob_token_ids": list(q.tokens)} for q in questions]
        choices, told = self._choices(bodies), []
        with self._understood():
            for question, choice in zip(questions, choices, strict=True):
                first = choice["logprobs"]["top_logprobs"][0]
                require_logprobs(list(first.values()))
                told.append([float(first[f"token_id:{token}"]) for token in question.tokens])
        return told

    def require_adapter(self, adapter: Adapter) -> None:
        """The adapter under its name on the server, loaded where it is not; `UserError` that says how to start it."""
        if any(card.id == adapter.name for card in cards(self.url)):
            return
        asked = {"lora_name": adapter.name, "lora_path": str(adapter.folder.resolve())}
        try:
            _asked(self.url, "/v1/load_lora_adapter", asked)
        except Refused as error:
            raise UserError(
                f"--engine-url {self.url}: the server does not serve this adapter ({error.reason}); start it with "
                f"--enable-lora --max-lora-rank {adapter.rank} --lora-modules {adapter.name}={adapter.folder}, or with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 where it can read that folder"
            ) from None

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """An answer without what was asked for is an older server's, which passes over words that it does not know."""
        try:
            yield
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"--engine-url {self.url}: vllm {self.version} does not give what is asked of it ({error!r}); "
                "it takes a server of 0.33 or later"
            ) from None

    def _body(
        self, prompt: Tokens, adapter: Adapter | None, limit: int = 1, temperature: float = 0.0
    ) -> dict[str, Any]:
        model = self.base if adapter is None else adapter.name
        return {"model": model, "prompt": list(prompt), "max_tokens": limit, "temperature": temperature} | _NEUTRAL

    def _choices(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The one choice of each request, many of them under way at a time."""
        pool = ThreadPoolExecutor(TOGETHER)
        try:
            waiting = [pool.submit(self._choice, body) for body in bodies]
            return [answer.result() for answer in waiting]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            (choice,) = _asked(self.url, "/v1/completions", body)["choices"]
        except Refused as error:
            wrong = NoAnswer if error.status in _AWAY else UserError
            raise wrong(f"--engine-url {self.url}: the vLLM server refuses a request: {error.reason}") from None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"--engine-url {self.url}: this is no answer of a vLLM server: {error!r}") from None
        found: dict[str, Any] = choice
        return found


class Refused(Exception):
    """A server that answers, and says no."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def connect(url: str, names: Sequence[str], least: int) -> Server:
    """The server at a URL; `UserError` where none answers, where it serves another model, or one with too little room.

    `names` are what the base model may be called; `least` the tokens that prompt and answer may have.
    """
    place = url.rstrip("/").removesuffix("/v1")
    if not urlsplit(place).hostname:
        raise UserError(f"--engine-url {url!r}: write http://HOST:PORT of a vLLM server")
    served = [card for card in cards(place, tries=2) if card.parent is None]
    own = next((card for card in served if {card.id, card.root} & set(names)), None)
    if own is None:
        there = ", ".join(sorted({name for card in served for name in (card.id, card.root) if name})) or "nothing"
        raise UserError(f"--engine-url {url}: the server serves {there}; the model is {names[0]!r}: start it with that")
    room = own.max_model_len or least
    if room < least:
        raise UserError(
            f"--engine-url {url}: the server's max_model_len is {room}, prompt and answer take up to {least} tokens: "
            f"start it with --max-model-len {least} or more, or give fewer --max-tokens"
        )
    try:
        version = str(_asked(place, "/version", tries=2)["version"])
    except (Refused, KeyError, TypeError):
        raise UserError(f"--engine-url {url}: the server does not say its version; is it vLLM?") from None
    return Server(place, own.id, version, room)


def cards(url: str, tries: int = TRIES) -> list[Card]:
    """What the server serves."""
    try:
        found = _asked(url, "/v1/models", tries=tries)["data"]
        return [Card(card["id"], card.get("root"), card.get("parent"), card.get("max_model_len")) for card in found]
    except Refused as error:
        hint = f"; it wants its key in {KEY}" if error.status in (401, 403) else ""
        raise UserError(f"--engine-url {url}: {error.status} {error.reason}{hint}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--engine-url {url}: this is no list of models of a vLLM server") from None


def _asked(url: str, path: str, body: dict[str, Any] | None = None, tries: int = TRIES) -> Any:
    """The server's answer, tried again with growing pauses where what is in the way may pass.

    `Refused` where it says no; `NoAnswer` where it cannot be reached.
    """
    for attempt in range(1, tries + 1):
        try:
            return _once(url + path, body)
        except HTTPError as error:
            if error.code not in PASSING or attempt == tries:
                raise Refused(error.code, _reason(error)) from None
        except (URLError, HTTPException, OSError) as error:
            if attempt == tries:
                why = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
                raise NoAnswer(
                    f"--engine-url {url}: no vLLM server answers there ({why}), tried {tries} times"
                ) from None
        time.sleep(min(30.0, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0))  # nosec B311 # jitter
    raise ValueError(f"tries is {tries}; give at least 1")


def _once(address: str, body: dict[str, Any] | None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(address, data, headers), timeout=PATIENCE) as answer:  # nosec B310 # http(s) alone
        told = answer.read()
    return json.loads(told) if told.startswith((b"{", b"[")) else told.decode("utf-8", "replace")


def _reason(error: HTTPError) -> str:
    """What the server says is wrong, in one line."""
    text = error.read().decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]["message"]
    return " ".join(str(text).split())[:300] or error.reason
