"""Rankers of ours in the forms of other packages; a module here is imported where its package is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import AfterValidator, Field


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the imports of a package: where it is not installed, the error says how it is."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'irpo[{extra}]'", name=error.name
        ) from None


def _require_loaded(reranker: Any) -> Any:
    from irpo.ranking.reranker import Reranker

    if not isinstance(reranker, Reranker):
        raise ValueError(f"give a loaded ranker: irpo.Reranker.load({reranker!r})")
    return reranker


# Fields of a pydantic component. A ranker is Any to pydantic, which else would look for a schema of the model within.
Loaded = Annotated[Any, AfterValidator(_require_loaded), Field(exclude=True, repr=False)]
TopN = Annotated[int | None, Field(ge=1)]  # None: all
