"""Decoding: free text, sampled answers, and rankings that can be nothing but a permutation of the candidates."""

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
