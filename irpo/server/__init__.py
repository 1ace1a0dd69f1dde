"""A ranker behind HTTP: requests of Cohere's, Jina's and TEI's form, ranked together.

    schema      what is asked and answered, as pydantic models: the routes' OpenAPI
    limits      how much one request and all together may hold
    times       time limits that end at once when the server does
    addresses   where a server listens
    adapters    several runs' adapters on one base model
    rankers     who ranks, by name
    asked       what a request asks for in our words: its limits, its tokens
    queue       requests that wait, and the one thread that ranks them in batches
    answers     a ranking as each form has it
    keys        API keys
    mistakes    what is wrong with a body, in one sentence
    metrics     figures for Prometheus
    pages       the page where a person ranks, and what the routes take
    guard       what stands before every route: ids, keys, body limit, errors, figures
    app         the routes
    running     the process: a socket, uvicorn, the graceful stop

Documents and queries are never logged, and no answer holds a path, a stack or the text of an error that we did not
write.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo.types import UserError

if TYPE_CHECKING:
    import socket

    from irpo.registry import Spec
    from irpo.server.keys import Keys
    from irpo.server.limits import Limits


def require_packages() -> None:
    """`UserError` where the packages that serve are not installed."""
    if missing := [name for name in ("fastapi", "prometheus_client", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"irpo serve needs {', '.join(missing)}: pip install 'irpo[serve]'")


def serve(  # noqa: PLR0913 - what the command says of a server
    model: str,
    adapters: Mapping[str, Path],
    bound: socket.socket,
    *,
    mode: Spec,
    limits: Limits,
    keys: Keys,
    loaded: Mapping[str, Any],
) -> None:
    """Load the model and serve it at the bound socket, until a signal; `loaded` are options of `Reranker.load`."""
    from irpo.server.addresses import address_of
    from irpo.server.app import create_app
    from irpo.server.rankers import load_rankers
    from irpo.server.running import run

    rankers = load_rankers(model, adapters, mode, **loaded)
    app = create_app(rankers, limits, keys)
    run(app, bound, f"{', '.join(rankers.names)} served at {address_of(bound)}; Ctrl-C ends it")
