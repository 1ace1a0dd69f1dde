"""Decoding: free text, and rankings that can be nothing but a permutation of the candidates."""

from irpo.generation.decoding import Sampling, answer_tokens, constrained_ranking, generate_text, sample_text
from irpo.generation.walk import Walk

__all__ = ["Sampling", "Walk", "answer_tokens", "constrained_ranking", "generate_text", "sample_text"]
