"""A vLLM server's interface over a naive model: every field that is sent is checked, and nothing else is accepted.

Transcribed from vLLM 0.33.0: `entrypoints/openai/completion/protocol.py` (CompletionRequest, its validators, the
response), `entrypoints/openai/completion/serving.py`, `entrypoints/generate/base/serving.py`, `sampling_params.py`
(ranges), `entrypoints/openai/models/serving.py`, `entrypoints/serve/engine/protocol.py`,
`entrypoints/serve/lora/protocol.py`, `entrypoints/serve/instrumentator/basic.py`. vLLM passes over a field that it does
not know; here that is a mistake.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from vllm_naive import Naive

INT64 = 2**63
MAX_LOGPROB_TOKEN_IDS = 128
# What a model's generation_config.json makes of fields that are not said; a naive model knows none of it.
DEFAULTS = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.2}
DEFAULTS |= {"presence_penalty": 0.3, "frequency_penalty": 0.3}
NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
NEUTRAL |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}

Id = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """No field but those that there are; 1.0 is no whole number, "1" no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class CompletionRequest(Strict):
    """`POST /v1/completions`: every field of vLLM's."""

    model: str | None = None
    prompt: list[Id] | list[list[Id]] | str | list[str] | None = None
    echo: bool | None = False
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Annotated[int, Field(ge=-1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    n: Annotated[int, Field(ge=1)] = 1
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stop: str | list[str] | None = []
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    suffix: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: str | None = None
    use_beam_search: bool = False
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    watermarking: bool | None = None
    length_penalty: float = 1.0
    stop_token_ids: list[Id] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0)] = 0
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    allowed_token_ids: list[Id] | None = None
    prompt_logprobs: Annotated[int, Field(ge=-1)] | None = None
    logprob_token_ids: Annotated[list[Id], Field(max_length=MAX_LOGPROB_TOKEN_IDS)] | None = None
    bad_words: list[str] = []
    prompt_embeds: bytes | list[bytes] | None = None
    add_special_tokens: bool = True
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    priority: int = 0
    request_id: str = ""
    session_id: str | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    return_weight_versions: bool = False
    routed_experts_prompt_start: Annotated[int, Field(ge=0)] = 0
    return_token_offsets: bool | None = False
    mm_payload: Literal["tensors", "none"] = "tensors"
    return_mm_kwargs: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    repetition_detection: dict[str, Any] | None = None
    thinking_token_budget: int | None = None
    stream_interval: Annotated[int, Field(ge=1)] | None = None


class LoadLoRAAdapterRequest(Strict):
    """`POST /v1/load_lora_adapter`."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class Wrong(Exception):
    """An answer that is an error: its state and what it says."""


@dataclass
class StandIn:
    """A server of one base model, as it was started."""

    naive: Naive
    name: str  # --served-model-name, else the folder
    max_model_len: int = 2048
    runtime_lora: bool = False  # VLLM_ALLOW_RUNTIME_LORA_UPDATING
    version: str = "0.33.0"
    raw_logits: bool = False  # --logprobs-mode raw_logits
    ignores: frozenset[str] = frozenset()  # fields that an older one does not know
    busy: int = 0  # answers of 503 that come first
    key: str | None = None  # --api-key
    root: str | None = None  # the folder or hub id that it says it serves, else the model's own
    adapters: dict[str, str] = field(default_factory=dict)  # --lora-modules
    asked: list[CompletionRequest] = field(default_factory=list)
    url: str = ""

    def load(self, name: str, folder: str | Path) -> None:
        """As --lora-modules name=folder."""
        self.naive.add(name, folder)
        self.adapters[name] = str(folder)

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What comes back; `Wrong` for an error."""
        if self.busy:
            self.busy -= 1
            raise Wrong(503, "the engine is starting")
        if (method, path) == ("GET", "/version"):
            return {"version": self.version}
        if (method, path) == ("GET", "/v1/models"):
            return {"object": "list", "data": self._cards()}
        if (method, path) == ("POST", "/v1/load_lora_adapter") and self.runtime_lora:
            given = LoadLoRAAdapterRequest.model_validate(body)
            if not (Path(given.lora_path) / "adapter_config.json").is_file():
                raise Wrong(404, f"No adapter found for {given.lora_path}")
            self.load(given.lora_name, given.lora_path)
            return f"Success: LoRA adapter '{given.lora_name}' added successfully."
        if (method, path) == ("POST", "/v1/completions"):
            return self._complete(body)
        raise Wrong(404, "Not Found")

    def _cards(self) -> list[dict[str, Any]]:
        common = {"object": "model", "created": 0, "owned_by": "vllm", "permission": []}
        base = {
            "id": self.name,
            "root": self.root or self.naive.folder,
            "parent": None,
            "max_model_len": self.max_model_len,
        }
        lora = [
            {"id": name, "root": folder, "parent": self.name, "max_model_len": None}
            for name, folder in self.adapters.items()
        ]
        return [common | card for card in (base, *lora)]

    def _complete(self, body: Any) -> dict[str, Any]:
        given = CompletionRequest.model_validate({k: v for k, v in body.items() if k not in self.ignores})
        self._check(given)
        self.asked.append(given)
        adapter = None if given.model == self.name else given.model
        ids: Any = given.prompt
        room = self.max_model_len - len(ids)
        sampled = self.naive.write(
            ids,
            adapter,
            limit=min(given.max_tokens or 16, room),
            temperature=given.temperature or 0.0,
            seed=given.seed,
            stop=given.stop_token_ids or [],
        )
        choice = {
            "index": 0,
            "text": "never read",
            "logprobs": self._logprobs(given, ids, adapter, sampled[0]),
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": sampled if given.return_token_ids else None,
            "prompt_logprobs": self._of_prompt(given, ids, adapter),
            "prompt_token_ids": ids if given.return_token_ids else None,
            "routed_experts": None,
            "weight_versions": None,
        }
        usage = {"prompt_tokens": len(ids), "total_tokens": len(ids) + len(sampled), "completion_tokens": len(sampled)}
        common = {"id": "cmpl-1", "object": "text_completion", "created": 0, "model": given.model}
        return common | {"choices": [choice], "usage": usage}

    def _check(self, given: CompletionRequest) -> None:
        """What vLLM refuses, and what this stand-in does not compute."""
        if given.model not in {self.name, *self.adapters}:
            raise Wrong(404, f"The model `{given.model}` does not exist.")
        if not isinstance(given.prompt, list) or not given.prompt or not isinstance(given.prompt[0], int):
            raise Wrong(400, "the stand-in takes one prompt of token ids")
        if given.logprob_token_ids and given.logprobs is None:
            raise Wrong(400, "when using `logprob_token_ids`, `logprobs` must be set.")
        tokens = [*given.prompt, *(given.stop_token_ids or []), *(given.logprob_token_ids or [])]
        if max(tokens) >= self.naive.vocabulary:
            raise Wrong(400, "out-of-vocab token ids")
        if len(given.prompt) > self.max_model_len - 1:
            raise Wrong(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        effective = {name: getattr(given, name) for name in NEUTRAL}
        effective = {k: DEFAULTS[k] if value is None else value for k, value in effective.items()}
        if effective != NEUTRAL or given.temperature is None:
            raise Wrong(400, f"the server's defaults would have a say: {effective}")
        if given.n != 1 or given.stream or given.add_special_tokens or given.echo:
            raise Wrong(400, "the stand-in gives one whole answer to one prompt as it is")

    def _row(self, ids: list[int], adapter: str | None) -> Any:
        return self.naive.logits(ids, adapter) if self.raw_logits else self.naive.logprobs(ids, adapter)

    def _logprobs(
        self, given: CompletionRequest, ids: list[int], adapter: str | None, sampled: int
    ) -> dict[str, Any] | None:
        """Of the first token of an answer alone, which is all that is asked for."""
        if given.logprobs is None:
            return None
        row = self._row(ids, adapter)[-1]
        named = given.logprob_token_ids or row.topk(given.logprobs).indices.tolist()
        values = {f"token_id:{t}": max(float(row[t]), -9999.0) for t in dict.fromkeys([sampled, *named])}
        if not given.return_tokens_as_token_ids:
            values = {f"text {i}": value for i, value in enumerate(values.values())}
        first = next(iter(values))
        return {"text_offset": [0], "token_logprobs": [values[first]], "tokens": [first], "top_logprobs": [values]}

    def _of_prompt(self, given: CompletionRequest, ids: list[int], adapter: str | None) -> list[Any] | None:
        if given.prompt_logprobs is None:
            return None
        rows = self._row(ids, adapter)
        told = [{str(t): float(rows[at, t])} for at, t in enumerate(ids[1:])]
        for at, known in enumerate(told):
            known.update({str(t): float(rows[at, t]) for t in rows[at].topk(given.prompt_logprobs).indices.tolist()})
        logprob = {"rank": 1, "decoded_token": "never read"}
        return [None, *({t: logprob | {"logprob": value} for t, value in known.items()} for known in told)]


@contextmanager
def serving(server: StandIn) -> Iterator[str]:
    """The stand-in on loopback; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _reply(self, method: str) -> None:
            length = int(self.headers.get("Content-Length", 0))
            told: Any
            try:
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    raise Wrong(401, "Unauthorized")
                if method == "POST" and self.headers.get("Content-Type") != "application/json":
                    raise Wrong(415, "Unsupported Media Type: Only 'application/json' is allowed")
                body = json.loads(self.rfile.read(length)) if length else None
                state, told = 200, server.answer(method, self.path, body)
            except Wrong as error:
                state, message = error.args
                told = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": state}}
            except ValidationError as error:
                wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
                state, told = 400, {"error": {"message": wrong, "type": "BadRequestError", "param": None, "code": 400}}
            text = told.encode() if isinstance(told, str) else json.dumps(told).encode()
            self.send_response(state)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

    class Patient(ThreadingHTTPServer):
        request_queue_size = 128  # of connections at once

    httpd = Patient(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        yield server.url
    finally:
        httpd.shutdown()
        httpd.server_close()
