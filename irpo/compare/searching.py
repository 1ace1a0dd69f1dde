"""An equal search for every method: the points that are tried, what of a point a method has, and what is chosen.

A search is fair where every method gets the same number of trials at the same points. The points come in blocks, each a
Latin hypercube drawn from a seed: every dimension takes each of its values as equally often as the block allows, and of
some hypercubes the one is taken in which most values of any two dimensions meet. A method takes of a point what it has;
where it has so little that a setting comes twice, it is trained with another seed. What is chosen is the setting with
the best mean on validation lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations

from irpo.chance import order_of
from irpo.compare.suite import Dimension, Entry, Suite, Value
from irpo.config.schema import RunConfig
from irpo.objectives import OBJECTIVES
from irpo.types import UserError

BLOCK = 8
DRAWS = 500  # hypercubes that a block is chosen from
Point = tuple[tuple[str, int], ...]  # of each dimension the number of its value


def points(space: Mapping[str, Dimension], count: int) -> list[Point]:
    """The first points of a search over a space, the same for every method."""
    sizes = tuple((name, len(dimension.values)) for name, dimension in space.items())
    starts = range(0, count, BLOCK)
    return [point for start in starts for point in _block(sizes, start // BLOCK, min(BLOCK, count - start))]


@cache
def _block(sizes: tuple[tuple[str, int], ...], number: int, count: int) -> tuple[Point, ...]:
    """The first points of one of some Latin hypercubes.

    Of a whole block it is the one in which the most pairs of values of two dimensions meet; of a part of one, where the
    hypercube says little, first the one of whose points the most differ and the most values are taken.
    """
    cubes = [_hypercube(sizes, f"{number}/{draw}")[:count] for draw in range(DRAWS)]
    return max(cubes, key=_pairs if count == BLOCK else _apart)


def _apart(points: Sequence[Point]) -> tuple[int, int, int]:
    return len(set(points)), len({value for point in points for value in point}), _pairs(points)


def _hypercube(sizes: tuple[tuple[str, int], ...], key: str) -> tuple[Point, ...]:
    columns = []
    for name, size in sizes:
        order = order_of([f"search/{key}/{name}/{i}" for i in range(BLOCK)])
        columns.append([(name, i % size) for i in order])
    return tuple(zip(*columns, strict=True))


def _pairs(block: Sequence[Point]) -> int:
    return len({pair for point in block for pair in combinations(point, 2)})


@dataclass(frozen=True)
class Setting:
    """What a search tries: the values of the dimensions that a method has, and the keys that they set."""

    values: tuple[tuple[str, str, Value], ...]  # (dimension, key, value)

    def __str__(self) -> str:
        return " ".join(
            f"{name} {value:g}" if isinstance(value, float | int) else f"{name} {value}"
            for name, _, value in self.values
        )

    @property
    def keys(self) -> dict[str, Value]:
        """What is set."""
        return {key: value for _, key, value in self.values}

    @property
    def named(self) -> dict[str, Value]:
        """For tables."""
        return {name: value for name, _, value in self.values}


def setting_at(suite: Suite, method: Entry, config: RunConfig, point: Point) -> Setting:
    """Of a point what a method has; `config` is the method's own, without a setting."""
    assert suite.search is not None  # nosec B101 # tells mypy that it is there
    found = []
    for name, number in point:
        dimension = suite.search.space[name]
        values = method.space.get(name, dimension.values)
        key = next((key for key in dimension.key or (name,) if has(config, key)), None)
        if values is not None and key is not None:
            found.append((name.rpartition(".")[2], key, values[number % len(values)]))
    return Setting(tuple(found))


def has(config: RunConfig, key: str) -> bool:
    """Whether a setting says anything to a run of this configuration.

    An option of the objective does where the objective has it, the anchor's weight where the anchor is not the loss.
    """
    m = config.method
    if key == "method.nll_weight":
        return m.objective is None or not OBJECTIVES.build(m.objective).needs.target
    if key.startswith("method.objective."):
        option = key.removeprefix("method.objective.").partition(".")[0]
        names = {field.name for field in fields(OBJECTIVES.get(str(m.objective["name"])))} if m.objective else set()
        return option in names
    return True


def require_had(suite: Suite, configs: Sequence[RunConfig]) -> None:
    """`UserError` for a dimension that says nothing to any of these runs: it is misspelt, or of a method left out."""
    for name, dimension in suite.search.space.items() if suite.search else ():
        keys = dimension.key or (name,)
        if configs and not any(has(config, key) for config in configs for key in keys):
            raise UserError(f"search.space.{name}: no method of this suite has {' or '.join(keys)}")


def settings_of(suite: Suite, method: Entry, config: RunConfig) -> list[tuple[Setting, int]]:
    """The trials of a method: (setting, seed) each; none where nothing is searched."""
    if suite.search is None or not method.trains:
        return []
    seen: Counter[Setting] = Counter()
    found = []
    for point in points(suite.search.space, method.trials or suite.search.trials):
        setting = setting_at(suite, method, config, point)
        if not setting.values:
            return []
        found.append((setting, suite.search.seed + seen[setting]))
        seen[setting] += 1
    return found


def chosen(tried: Sequence[tuple[Setting, float]]) -> Setting:
    """The setting with the best mean, the first of equals."""
    values: dict[Setting, list[float]] = {}
    for setting, value in tried:
        values.setdefault(setting, []).append(value)
    return max(values, key=lambda setting: sum(values[setting]) / len(values[setting]))
