"""What validation lists choose: the strength of a run's scores, and the temperature that makes them probabilities.

A run keeps its choice in `strength.json`, from which `Reranker.load` takes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from irpo.config.schema import RunConfig
from irpo.measures import ndcg
from irpo.progress import BEST
from irpo.ranking.modes import by_score
from irpo.runs import CHOICE, chooses, run_config
from irpo.runs.exported import fetched, is_exported
from irpo.runs.key import read_json
from irpo.scoring.strength import PLAIN, Strength, StrengthBy, named
from irpo.types import UserError

COLDEST, HOTTEST = 1e-4, 1e4  # temperatures, in the scores' unit, beyond which nothing is sought


def strength_value(word: str | float) -> float:
    """A strength as users write it, a number above 0 or `reward`.

    >>> strength_value("1.5"), strength_value("reward")
    (1.5, inf)
    """
    if word == "reward":
        return math.inf
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise UserError(f"strength {word!r}: give a number above 0, or 'reward'; a run's own choice is the default")
    return value


def spelt(strength: Strength) -> str:
    """A strength in full, as reports have it.

    >>> spelt(Strength()), spelt(Strength(5, "adapter")), spelt(Strength(math.inf))
    ('1', '5 by adapter', 'reward by logits')
    """
    return named(strength.value) if strength.plain else f"{named(strength.value)} by {strength.by}"


@dataclass(frozen=True)
class Choice:
    """How a run ranks, and what that was chosen from."""

    strength: Strength = PLAIN
    temperature: float | None = None  # softmax(score / temperature) over a list; None: no probabilities
    curve: Mapping[float, float] = field(default_factory=dict)  # mean measure by strength; one of them: not chosen
    measure: str = BEST
    lists: int = 0  # that it was measured on
    groups: int = 0  # of these lists that share nothing with each other

    def __str__(self) -> str:
        said = f"strength: {spelt(self.strength)}"
        if len(self.curve) > 1:
            ends = {"policy": self.curve.get(1), "reward": self.curve.get(math.inf)}
            compared = ", ".join(f"{name} {mean:.4f}" for name, mean in ends.items() if mean is not None)
            said += (
                f", the best of {len(self.curve)} on {self.lists} validation list(s) in {self.groups} group(s): "
                f"{self.measure} {self.curve[self.strength.value]:.4f} ({compared})"
            )
        return said + ("" if self.temperature is None else f"; temperature {self.temperature:.4g}")

    def as_dict(self) -> dict[str, Any]:
        """As `strength.json` has it."""
        return {
            "strength": _written(self.strength.value),
            "by": self.strength.by,
            "temperature": self.temperature,
            "measure": self.measure,
            "lists": self.lists,
            "groups": self.groups,
            "policy": self.curve.get(1),
            "reward": self.curve.get(math.inf),
            "curve": {named(value): mean for value, mean in self.curve.items()},
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Choice:
        """What `as_dict` told; `KeyError`, `TypeError` or `ValueError` where it is something else."""
        by: StrengthBy = told["by"]
        temperature = None if told["temperature"] is None else float(told["temperature"])
        if by not in get_args(StrengthBy) or not (temperature is None or 0 < temperature < math.inf):
            raise ValueError(f"by {by!r}, temperature {temperature}")
        return cls(
            Strength(strength_value(told["strength"]), by),
            temperature,
            {strength_value(word): float(mean) for word, mean in told["curve"].items()},
            *(str(told["measure"]), int(told["lists"]), int(told["groups"])),
        )


def _written(value: float) -> float | str:
    return named(value) if math.isinf(value) else value


def choice_of_run(folder: str | Path, config: RunConfig) -> Choice:
    """A run's own choice; `UserError` where it should have made one and its file is not there, or damaged."""
    if not chooses(config):
        return Choice()
    try:
        return Choice.of(read_json(Path(folder) / CHOICE))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{folder}: '{CHOICE}', the run's choice of a strength, is missing or damaged; use train --resume"
        ) from None


def choice_of(name: str) -> Choice:
    """The own choice of a run or of an exported ranker; the policy's scores for any other model."""
    config, folder = run_config(name), fetched(name)
    if config is not None:
        return choice_of_run(name, config)
    if not is_exported(folder):
        return Choice()
    try:
        return Choice.of(read_json(Path(folder) / CHOICE))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{folder}: '{CHOICE}', its strength, is damaged; export the ranker anew") from None


def strengthened(choice: Choice, value: float | str | None, by: StrengthBy | None) -> Choice:
    """The choice with another strength, if any is given; without its temperature, which was fitted to other scores."""
    old = choice.strength
    new = Strength(old.value if value is None else strength_value(value), by or old.by)
    if new == old or (new.plain and old.plain):
        return choice
    return Choice(new)


def ndcg_of(
    scores: Tensor, relevance: Sequence[float], k: int, key: object = "", missed: Sequence[float] = ()
) -> float:
    """NDCG@k of a list ranked by score, equal scores in the order that `irpo evaluate` and `irpo rank` put them in."""
    return ndcg(by_score(scores.tolist(), key)[0].order, relevance, k, missed=missed)


def best_of(curve: Mapping[float, float]) -> float:
    """The strength of the highest mean; of several the one nearest 1, by their ratio, the smaller of two as near.

    >>> best_of({0.5: 0.7, 1: 0.8, 3: 0.9, math.inf: 0.9})
    3
    """
    return min(curve, key=lambda value: (-curve[value], abs(math.log(value)), value))


def fitted_temperature(scores: Sequence[Tensor], relevant: Sequence[Sequence[bool]]) -> float | None:
    """The T under which softmax(s / T) over a list is likeliest, None where no T in 1e-4 to 1e4 is or no list tells.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599): it maximises the sum over lists of sum_j q_j log
    softmax(s / T)_j, the target q the relevant candidates' share, 1 / their number for each and 0 for the others. In
    1 / T that is concave; its slope sum_j (q_j - softmax(s / T)_j) s_j is brought to 0 by halving the interval. A list
    without a relevant candidate, with equal scores alone, or with one that is no number, tells nothing; where scores
    part the relevant candidates wholly from the others, or have them behind, the likeliest T is 0 or has no end.
    """
    pairs = zip(scores, (torch.tensor(list(row), dtype=torch.float64) for row in relevant), strict=True)
    # From the highest score on, so that what is lost in rounding a probability to 1 is multiplied by 0.
    told = [
        (s.double() - s.max(), y / y.sum()) for s, y in pairs if y.any() and s.isfinite().all() and s.min() < s.max()
    ]
    if not told:
        return None
    table = pad_sequence([s for s, _ in told], batch_first=True, padding_value=-math.inf)
    target = pad_sequence([q for _, q in told], batch_first=True)
    finite = torch.where(table.isfinite(), table, 0.0)

    def too_cold(temperature: float) -> bool:
        return bool(((target - torch.softmax(table / temperature, -1)) * finite).sum() < 0)

    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(math.exp(middle)) else (low, middle)
    ends = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp((low + high) / 2) if ends[0] < low and high < ends[1] else None


def probabilities(scores: Sequence[float], temperature: float) -> list[float]:
    """softmax(score / temperature) of one list, which sums to 1; in the order of the scores."""
    found: list[float] = torch.softmax(torch.tensor(scores, dtype=torch.float64) / temperature, -1).tolist()
    return found
