"""Hard negatives: from lists, or pairs of query and answer, to lists that are worth training on.

A negative is a text that a search finds for a query and that nobody calls relevant. Some of those are relevant all the
same. Kept out are texts that say the same as a relevant one, that are relevant for the same query elsewhere, and that
score within a margin of the relevant one (sentence-transformers' `relative_margin`; NV-Retriever, arXiv 2407.15831).
Training lists never hold what evaluation lists show, unless these are what a first stage found in a shared corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irpo.mine.first_stage import FirstStage
from irpo.mine.mining import Mining
from irpo.types import UnknownName, UserError

__all__ = ["FirstStage", "Mining", "mining_of"]


def mining_of(
    spec: Mapping[str, Any], pairs: str | None, run: str | None, options: Mapping[str, Any]
) -> Mining | FirstStage:
    """The mining that was asked for; `UserError` where words do not go together."""
    if "name" not in spec if pairs is None else spec:
        raise UserError("give --task (and --data), or --pairs for rows of query and relevant text: one of the two")
    if run is not None and pairs is not None:
        raise UserError("--run is of lists, whose ids it knows; give --task and --data")
    made = Mining if run is None else FirstStage
    if unknown := [key for key in options if key not in made.__dataclass_fields__]:
        allowed = "by, model, negatives, margin, corpus, seed" if run is None else "top_k, corpus, seed"
        raise UnknownName(f"--{unknown[0].replace('_', '-')} does not go with {_of(run)}; it takes {allowed}")
    if pairs is not None:
        return Mining(data=pairs, **options)
    rest = {key: value for key, value in spec.items() if key not in ("name", "data")}
    given = {"task": spec["name"], "data": str(spec.get("data", "")), "options": rest, **options}
    return Mining(**given) if run is None else FirstStage(run=run, **given)


def _of(run: str | None) -> str:
    return "--run" if run is not None else "a search without --run"
