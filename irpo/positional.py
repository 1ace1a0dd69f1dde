"""Positional metrics: how much the item at each rank of the target list weighs (IRPO, arXiv 2504.15477, appendix B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from irpo.registry import Registry
from irpo.types import UserError


class PositionalMetric(Protocol):
    """Weights of the items of a list.

    It may say which labels it can use: `min_label`, below which nothing has weight, and `max_label`.
    """

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        """w (B, K) from labels (B, K; 0 on padding) and 1-based ranks in the target order (B, K), of the same dtype."""
        ...


MOST = 64.0  # a label above it would have a gain next to which float32 forgets all others

POSITIONAL_METRICS: Registry[PositionalMetric] = Registry("positional metric")


def gain(relevance: Tensor) -> Tensor:
    """2^y - 1 (Burges et al. 2005), exact 0 at y = 0."""
    return torch.exp2(relevance) - 1


def discount(rank: Tensor) -> Tensor:
    """Logarithmic discount 1 / log2(1 + r) of a 1-based rank (Jarvelin & Kekalainen 2002).

    >>> discount(torch.tensor([1.0, 3.0]))
    tensor([1.0000, 0.5000])
    """
    return 1 / torch.log2(1 + rank)


@POSITIONAL_METRICS.register("ndcg")
@dataclass(frozen=True)
class NDCG:
    """(2^y - 1) / log2(1 + i) at rank i."""

    max_label: ClassVar[float] = MOST

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        return gain(relevance) * discount(rank)


@POSITIONAL_METRICS.register("map")
@dataclass(frozen=True)
class MAP:
    """(2^y - 1) / number of items with y >= 1, at every rank."""

    max_label: ClassVar[float] = MOST

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        relevant = (relevance >= 1).sum(-1, keepdim=True).clamp(min=1)
        return gain(relevance) / relevant


@POSITIONAL_METRICS.register("mrr")
@dataclass(frozen=True)
class MRR:
    """1 / i where y >= 1."""

    min_label: ClassVar[float] = 1.0

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        return (relevance >= self.min_label) / rank


@POSITIONAL_METRICS.register("precision")
@dataclass(frozen=True)
class Precision:
    """1 where y >= 1 and i <= k."""

    min_label: ClassVar[float] = 1.0

    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"positional metric 'precision': k = {self.k}; a cut-off is a whole number >= 1")

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        return ((relevance >= self.min_label) & (rank <= self.k)).to(relevance.dtype)


@POSITIONAL_METRICS.register("edcg")
@dataclass(frozen=True)
class EDCG:
    """(2^y - 1) / exp(lam * i) at rank i."""

    max_label: ClassVar[float] = MOST

    lam: float = 0.5

    def __post_init__(self) -> None:
        if self.lam < 0:
            raise UserError(f"positional metric 'edcg': lam = {self.lam}; a decay is a number >= 0")

    def __call__(self, relevance: Tensor, rank: Tensor) -> Tensor:
        return gain(relevance) * torch.exp(-self.lam * rank)
