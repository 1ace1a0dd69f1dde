"""Decoding: free text, sampled answers, and rankings that can be nothing but a permutation of the candidates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irpo.ranking.decoding import (
        Drawn,
        Sampling,
        answer_tokens,
        constrained_ranking,
        generate_text,
        in_batches,
        sample_answers,
        sample_text,
    )
    from irpo.ranking.drawing import draw_whole, path_of
    from irpo.ranking.sampling import SAMPLERS, Sampler, WholeSampler
    from irpo.ranking.walk import Walk

__all__ = [
    "SAMPLERS",
    "Drawn",
    "Sampler",
    "Sampling",
    "Walk",
    "WholeSampler",
    "answer_tokens",
    "constrained_ranking",
    "draw_whole",
    "generate_text",
    "in_batches",
    "path_of",
    "sample_answers",
    "sample_text",
]

# Imported at first use: a mode's name, its options and documents are checked before torch is loaded.
_LAZY = {
    **dict.fromkeys(("draw_whole", "path_of"), "drawing"),
    **dict.fromkeys(("SAMPLERS", "Sampler", "WholeSampler"), "sampling"),
    "Walk": "walk",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'irpo.ranking' has no attribute {name!r}")
    return getattr(import_module(f"irpo.ranking.{_LAZY.get(name, 'decoding')}"), name)
