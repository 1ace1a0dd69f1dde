"""The routes of a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from irpo import __version__
from irpo.ranking.decoding import TOKENS_TOGETHER
from irpo.ranking.engines import Engine
from irpo.ranking.reranker import Ranked
from irpo.server import pages
from irpo.server.answers import rerank_answer, tei_answer
from irpo.server.asked import Asked, Counter, asked, is_short, require_few, require_within
from irpo.server.guard import Guard, failure
from irpo.server.keys import Keys
from irpo.server.limits import Gone, Limits, Refused
from irpo.server.metrics import CONTENT_TYPE, Figures
from irpo.server.mistakes import sentence
from irpo.server.queue import Job, Queue
from irpo.server.rankers import Rankers, Served
from irpo.server.schema import EitherRequest, Failure, RerankRequest, RerankResponse, State, TeiResult
from irpo.server.times import Times
from irpo.types import NoAnswer, TooLong, UserError

T = TypeVar("T")

log = logging.getLogger("irpo.server")

# Whether a key opens it, where the server has keys.
ROUTES = {
    "/": False,
    "/docs": False,
    "/health": False,
    "/metrics": True,
    "/openapi.json": False,
    "/ready": False,
    "/rerank": True,
    "/v1/rerank": True,
    "/v2/rerank": True,
}
ABOUT = """Ranks documents for a query with a listwise reranker: the model sees all documents of a request at once.

`relevance_score` is a document's share among the documents of its request: it orders them, and is no measure across
requests. Requests wait in a bounded queue and are ranked together; the answer to each is that of ranking it alone.
"""
_FAILURES = {
    400: "The body is no JSON.",
    404: "There is no ranker of the name in `model`; the message names those there are.",
    408: "The body did not come in time.",
    413: "The body is too long or holds too many values, or texts do not fit and may not be cut.",
    422: "The request is not as described here, or beyond a limit; the message says which, and of which document.",
    429: "No place is left in the queue; `Retry-After` says when to come again.",
    500: "An error of the server's own; its log has the `id`.",
    503: "The server is stopping, or the one that runs its model does not answer.",
    504: "The request could not be ranked in time.",
}


@dataclass
class Desk:
    """Where requests are taken: counted, queued, and waited for as long as their clients wait."""

    rankers: Rankers
    limits: Limits
    figures: Figures
    queue: Queue
    counter: Counter
    bodies: Times = field(default_factory=Times)  # of bodies that are read
    rankings: Times = field(default_factory=Times)  # of requests that are ranked
    abandoned: int = 0  # requests that were taken and not ranked when the server ended

    @classmethod
    def of(cls, rankers: Rankers, limits: Limits) -> Desk:
        """A desk with a queue of its own."""
        first, figures = rankers.served[0].reranker, Figures()
        device = getattr(getattr(first.model, "device", None), "type", "cpu")
        device = "cuda" if isinstance(first.model, Engine) else device
        # Small batches: while one is ranked, those before it are answered and those behind it arrive.
        room = TOKENS_TOGETHER.get(device, TOKENS_TOGETHER["cpu"]) // 8
        queue = Queue(rankers.rank, places=limits.queue, room=room, seen=figures.batch)
        figures.watch(lambda: len(queue))
        return cls(rankers, limits, figures, queue, Counter(first.tokenizer, limits))

    def close(self) -> None:
        """No request more; those that were taken are ranked."""
        self.queue.close()
        self.bodies.end()

    async def ranked(self, request: Request, given: Asked) -> tuple[Served, Asked, Sequence[Ranked]]:
        """The ranking, by whom, and the request with its tokens; `Refused`, or `Gone` with the client."""
        served = self.rankers.find(given.model)
        require_within(given, self.limits)
        try:
            async with self.rankings.within(self.limits.timeout):
                counted, rows = await _while_here(request, self._found(served.name, given))
        except TimeoutError:
            raise self._too_late() from None
        except NoAnswer:
            told = "the server that runs the model does not answer"
            log.warning("%s: %s", request.state.id, told)
            raise Refused(503, told, {"retry-after": "5"}) from None
        except UserError as error:
            log.warning("%s: cannot be ranked: %s", request.state.id, type(error).__name__)
            most = served.reranker.builder.max_tokens
            long = f"{len(given.texts)} {given.field} do not fit this model's prompt of {most} tokens; send fewer"
            told = long if isinstance(error, TooLong) else "this model cannot rank these texts"
            raise Refused(422, told) from None
        self.figures.ranked(len(rows), counted.tokens)
        return served, counted, rows

    def _too_late(self) -> Refused:
        if not self.rankings.ended:
            return Refused(504, f"the request could not be ranked within {self.limits.timeout:g} s")
        self.abandoned += 1
        return Refused(503, "this server stopped before the request was ranked")

    async def _counted(self, given: Asked) -> Asked:
        """The request with its tokens."""
        if is_short((given.query, *given.texts)):
            return self.counter.counted(given)
        return await asyncio.get_running_loop().run_in_executor(self.counter.thread, self.counter.counted, given)

    async def _found(self, name: str, given: Asked) -> tuple[Asked, Sequence[Ranked]]:
        """The request with its tokens, and what the queue finds; one that is cancelled frees its place at once."""
        with self.queue.place():
            counted = await self._counted(given)
            job = Job(name, counted.query, counted.texts, counted.tokens)
            self.queue.put(job)
        try:
            return counted, await job.answer
        finally:
            if job.answer.cancelled():
                self.queue.leave(job)


async def _while_here(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's outcome; `Gone` where the client leaves first, and the work is cancelled, as where time is up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(rankers: Rankers, limits: Limits | None = None, keys: Keys | None = None) -> FastAPI:
    """The application; `app.state.desk` is its desk."""
    keys, desk = keys or Keys(), Desk.of(rankers, limits or Limits())

    app = FastAPI(
        title="irpo",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would send a client wherever its Host says
        exception_handlers={RequestValidationError: _invalid, HTTPException: _http},
    )
    app.state.desk = desk
    _add_ranking(app, desk, keys)
    _add_state(app, desk, keys)
    _add_pages(app, rankers, keys)
    app.add_middleware(Guard, limits=desk.limits, keys=keys, figures=desk.figures, routes=ROUTES, times=desk.bodies)
    return app


def _closed(keys: Keys) -> dict[str, Any]:
    """What a route that a key opens says of that."""
    if not keys:
        return {}
    return {"dependencies": [Depends(HTTPBearer(auto_error=False))], "responses": {401: _said("A key is missing.")}}


def _said(description: str) -> dict[str, Any]:
    return {"model": Failure, "description": description}


def _add_ranking(app: FastAPI, desk: Desk, keys: Keys) -> None:
    closed = _closed(keys)
    failures = {status: _said(text) for status, text in _FAILURES.items()} | closed.pop("responses", {})

    async def few(request: Request) -> None:
        with suppress(ValueError, RecursionError):  # what is no JSON hears so elsewhere
            require_few(await request.json(), desk.limits)  # read once: the request keeps it

    needs = [Depends(few), *closed.pop("dependencies", [])]
    how: dict[str, Any] = {"methods": ["POST"], "responses": failures, "tags": ["ranking"], "dependencies": needs}
    how["response_model_exclude_unset"] = True  # clients look whether "document" is there, not whether it is null

    async def reranked(version: str, request: Request, body: RerankRequest) -> RerankResponse:
        served, counted, rows = await desk.ranked(request, asked(body))
        return rerank_answer(request.state.id, served.name, version, body, counted, rows)

    async def v1(request: Request, body: RerankRequest) -> RerankResponse:
        return await reranked("1", request, body)

    async def v2(request: Request, body: RerankRequest) -> RerankResponse:
        return await reranked("2", request, body)

    async def either(request: Request, body: Annotated[EitherRequest, Body()]) -> RerankResponse | list[TeiResult]:
        if isinstance(body, RerankRequest):
            return await reranked("1", request, body)
        served, _, rows = await desk.ranked(request, asked(body))
        return tei_answer(body, rows, served.reranker.builder.max_tokens)

    app.add_api_route("/v1/rerank", v1, summary="Rank, in the form of Cohere's v1 and of Jina", **how)
    app.add_api_route("/v2/rerank", v2, summary="Rank, in the form of Cohere's v2", **how)
    app.add_api_route("/rerank", either, summary="Rank, in Jina's form, or with `texts` in TEI's", **how)


def _add_state(app: FastAPI, desk: Desk, keys: Keys) -> None:
    async def health() -> State:
        return State(status="ok")

    async def ready() -> State:
        if not desk.queue.alive:
            raise Refused(503, "this server is stopping")
        return State(status="ready")

    async def metrics() -> Response:
        return Response(desk.figures.text(), media_type=CONTENT_TYPE)

    stopping = {503: _said("They are not.")}
    app.add_api_route("/health", health, summary="Whether the process answers", tags=["state"])
    app.add_api_route("/ready", ready, summary="Whether requests are taken", tags=["state"], responses=stopping)
    told: dict[str, Any] = {"summary": "Figures for Prometheus", "tags": ["state"], **_closed(keys)}
    app.add_api_route("/metrics", metrics, response_class=PlainTextResponse, **told)


def _add_pages(app: FastAPI, rankers: Rankers, keys: Keys) -> None:
    async def page() -> HTMLResponse:
        return HTMLResponse(pages.ranking(rankers.names, closed=bool(keys)), headers=pages.headers("page"))

    async def docs() -> HTMLResponse:
        return HTMLResponse(pages.documentation(app.openapi()), headers=pages.headers("docs"))

    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)


def _failed(request: Request, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    status, body = failure(status, message, request.state.id)
    return Response(body, status, dict(headers or {}), "application/json")


async def _http(request: Request, error: Any) -> Response:
    """What the framework refuses: no such path, no such method, a body that is no JSON."""
    said = {404: "there is no such path", 405: "this path has another method", 400: "the body is no JSON"}
    return _failed(request, error.status_code, said.get(error.status_code, "it cannot be answered"), error.headers)


async def _invalid(request: Request, error: Any) -> Response:
    """What does not fit the schema: the first mistake by its place; what stood there is not repeated."""
    return _failed(request, 422, sentence(error.errors()))
