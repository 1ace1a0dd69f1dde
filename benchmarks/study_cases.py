"""What the studies try: every offline objective, the settings of the search, and the pieces of each group in order.

A search is fair where every case gets the same number of trials at the same points. A block of eight points takes each
learning rate and each beta twice, alpha 0 and 1 four times, and each anchor two or three times: a Latin hypercube,
drawn from a seed, in which most values of any two dimensions meet. A case takes of a point what it has; where it has so
little that a setting comes twice, it is trained with another seed. What is chosen is the setting with the best mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import combinations
from typing import Any

from irpo.chance import order_of
from irpo.config.schema import RunConfig, load_config
from irpo.objectives import OBJECTIVES
from irpo.scorers import SCORERS
from irpo.training.job import method_of

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
BETAS = (0.03, 0.1, 0.3, 1.0)
ALPHAS = (1.0, 0.0)
ANCHORS = (0.0, 0.1, 1.0)
PER_TOKEN = 10  # SimPO's score is a mean over tokens, a few to a title: its beta is so many times as large
BLOCK = 8
DRAWS = 500  # hypercubes that a block is chosen from
SEARCH_SEED = 1000  # of training in the search; the final runs have the seeds 0, 1, ...
MAIN = ("sft", "dpo", "sdpo", "lipo_lambda", "irpo")
MEASURE = ("pl_rank", "approx_ndcg")
EARLY = (4, 8, 16)  # updates
LABELS = ("pair", "binary", "flip10", "flip30")
PUBLISHED = ("dpo", "sdpo", "lipo_lambda", "irpo")  # searched over rate and beta alone, too: alpha 1, no anchor
GROUPS = ("main", "measure", "published", "adapter", "policy", "others", "scorers", "lists", "early", "labels")

Lines = Mapping[str, Mapping[str, Any]]  # the finished pieces by their key


@dataclass(frozen=True)
class Protocol:
    """What all pieces share, and how many there are."""

    train_lists: int = 2048
    validation_lists: int = 120
    eval_lists: int = 480
    read_lists: int = 96  # of these, those that are decoded too
    candidates: int = 10
    updates: int = 48
    lists_per_update: int = 8
    trials: int = 8  # of each case
    seeds: int = 5  # of what the search chose
    curve_seeds: int = 3

    def shared(self) -> dict[str, int]:
        """What a line's figures depend on; those of another kind are other results."""
        return {name: value for name, value in vars(self).items() if name not in ("trials", "seeds", "curve_seeds")}

    @property
    def overrides(self) -> list[str]:
        """The protocol as settings of a run."""
        return [
            f"task.train_lists={round(1.5 * self.train_lists)}",  # some are set aside to validate
            f"task.eval_lists={self.eval_lists}",
            f"task.candidates={self.candidates}",
            f"training.max_validation_lists={self.validation_lists}",
            f"training.lists_per_update={self.lists_per_update}",
            "training.warmup_fraction=0.1",
            "training.patience=null",
        ]


QUICK = Protocol(64, 8, 8, 4, 4, updates=2, lists_per_update=4, trials=2, seeds=2, curve_seeds=1)


@dataclass(frozen=True)
class Setting:
    """What the search chooses; None is what a case does not have."""

    rate: float
    beta: float | None = None
    alpha: float | None = None
    anchor: float | None = None

    def __str__(self) -> str:
        return " ".join(f"{name} {value:g}" for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class Case:
    """An objective with a scorer; `method` is its file in configs/methods."""

    name: str
    method: str
    overrides: tuple[str, ...] = ()
    published: bool = False  # whether alpha and anchor stay at the method's own, 1 and 0

    @property
    def objective(self) -> str:
        """Its name in the registry."""
        return str(_plain(self).method.title)

    def has(self) -> Setting:
        """The dimensions that it has, each at 1."""
        return _has(self)

    def at(self, point: Setting) -> Setting:
        """Of a point what this case has."""
        has = vars(self.has())
        return Setting(**{name: value if has[name] is not None else None for name, value in vars(point).items()})

    def config(self, setting: Setting, protocol: Protocol, seed: int, updates: int) -> RunConfig:
        """The run's configuration."""
        given = [f"training.learning_rate={setting.rate}", f"method.nll_weight={setting.anchor or 0.0}"]
        if setting.beta is not None:
            name, scale = "beta" if "beta" in _options(self) else "tau", PER_TOKEN if self.method == "simpo" else 1
            given.append(f"method.objective.{name}={setting.beta * scale:g}")
        if setting.alpha is not None:
            given.append(f"method.objective.reference_weight={setting.alpha:g}")
            given += ["method.reference=adapters_off"] if setting.alpha else []
        config = _loaded(self, (*protocol.overrides, *given, f"training.updates={updates}", f"seed={seed}"))
        method = method_of(config)
        if not method.objective.needs.reference:
            return config
        kind = "adapters_off" if method.draws_walks else "precomputed"
        return config.model_copy(update={"method": config.method.model_copy(update={"reference": kind})})


def _options(case: Case) -> set[str]:
    return {field.name for field in fields(OBJECTIVES.get(case.objective))}


@cache
def _has(case: Case) -> Setting:
    target = method_of(_plain(case)).objective.needs.target
    return Setting(
        1.0,
        1.0 if _options(case) & {"beta", "tau"} else None,
        1.0 if "reference_weight" in _options(case) and not case.published else None,
        None if target or case.published else 1.0,  # the likelihood of the target list is its loss already
    )


@cache
def _plain(case: Case) -> RunConfig:
    return _loaded(case, ())


def _loaded(case: Case, overrides: Sequence[str]) -> RunConfig:
    return load_config([f"methods/{case.method}.yaml", "quickstart.yaml"], [*case.overrides, *overrides])


@cache
def cases() -> dict[str, Case]:
    """All of them by name: every offline objective with the scorer `independent`, four as published and with others."""
    own = {"point_sigmoid": ("method.objective.max_label=3",)}
    offline = sorted(name for name in OBJECTIVES if name != "reinforce" and not OBJECTIVES.build(name).needs.teacher)
    found = [Case(name, name, own.get(name, ())) for name in [*offline, "sft_positives"]]
    for name in ("irpo", "dpo", "sdpo", "lipo_lambda"):
        for scorer in sorted(name for name in SCORERS if name not in ("independent", "yes_no")):
            style = SCORERS.build(scorer).style or "text"
            found.append(Case(f"{name}, {scorer}", name, (f"method.scorer={scorer}", f"prompt.style={style}")))
    found += [Case(as_published(name), name, published=True) for name in PUBLISHED]
    return {case.name: case for case in found}


def as_published(name: str) -> str:
    """The case of a method with the reference and without an anchor, as its paper has it."""
    return f"{name} as published"


def points(count: int) -> list[Setting]:
    """The first points of the search, the same for every case."""
    blocks = (count + BLOCK - 1) // BLOCK
    return [point for number in range(blocks) for point in _block(number)][:count]


@cache
def _block(number: int) -> tuple[Setting, ...]:
    """Of some Latin hypercubes the one in which the most pairs of values of two dimensions meet."""
    return max((_hypercube(f"{number}/{draw}") for draw in range(DRAWS)), key=_pairs)


def _hypercube(key: str) -> tuple[Setting, ...]:
    columns = []
    for name, values in (("rate", RATES), ("beta", BETAS), ("alpha", ALPHAS), ("anchor", ANCHORS)):
        order = order_of([f"search/{key}/{name}/{i}" for i in range(BLOCK)])
        columns.append([values[i % len(values)] for i in order])
    return tuple(Setting(*row) for row in zip(*columns, strict=True))


def _pairs(block: Sequence[Setting]) -> int:
    return len({pair for point in block for pair in combinations(vars(point).items(), 2)})


@dataclass(frozen=True)
class Piece:
    """One run of the studies: what is trained, on what, and what it is for."""

    kind: str  # "trial", "final", "lists", "labels", "adapter"
    case: str
    setting: Setting
    seed: int
    updates: int
    lists: int | None = None  # training lists, drawn by the seed; None: all
    labels: str | None = None  # what is done to them; None: nothing

    @property
    def key(self) -> str:
        """Its name among the results."""
        more = f"/{self.lists}x{self.updates}" if self.lists else f"/{self.labels}" if self.labels else ""
        return f"{self.kind}/{self.case}{more}/{self.setting}/{self.seed}"


def trials(case: Case, protocol: Protocol) -> list[Piece]:
    """The search of a case."""
    seen: Counter[Setting] = Counter()
    found = []
    for setting in map(case.at, points(protocol.trials)):
        found.append(Piece("trial", case.name, setting, SEARCH_SEED + seen[setting], protocol.updates))
        seen[setting] += 1
    return found


def chosen(case: Case, protocol: Protocol, done: Lines, by: str = "auto") -> Setting | None:
    """The setting with the best mean NDCG@10 on validation lists, at strength `auto` or "1"; None: trials are left."""
    values: dict[Setting, list[float]] = {}
    for piece in trials(case, protocol):
        if piece.key not in done:
            return None
        values.setdefault(piece.setting, []).append(reached(done[piece.key], by))
    return max(values, key=lambda setting: sum(values[setting]) / len(values[setting]))


def reached(line: Mapping[str, Any], by: str) -> float:
    """A piece's NDCG@10 on validation lists at strength `auto` or "1"; 0 where its loss was not finite."""
    return 0.0 if "diverged" in line else float(line["curve"][line["auto"] if by == "auto" else by])


def pieces(group: str, protocol: Protocol, done: Lines) -> Iterator[Piece]:
    """A group's pieces in the order of what they say, those left out whose setting is not yet chosen."""
    names = _searched(group)
    if group in ("main", "measure", "published", "others", "scorers"):
        for name in names:
            yield from trials(cases()[name], protocol)
    settings = {name: chosen(cases()[name], protocol, done, "1" if group == "policy" else "auto") for name in names}
    ready = [(name, setting) for name, setting in settings.items() if setting is not None]
    if group in CURVES:
        yield from CURVES[group](ready, protocol)
        return
    what: Sequence[str | None] = LABELS if group == "labels" else (None,)
    seeds = protocol.curve_seeds if group in ("labels", "adapter") else protocol.seeds
    kind = group if group in ("labels", "adapter") else "final"
    for seed in range(seeds):
        for labels in what:
            for name, setting in ready:
                yield Piece(kind, name, setting, seed, protocol.updates, labels=labels)


def _searched(group: str) -> list[str]:
    """The cases of a group."""
    first, published = [*MAIN, *MEASURE], [as_published(name) for name in PUBLISHED]
    named = {
        "measure": [*MEASURE],
        "published": published,
        "adapter": published,
        "policy": [*first, *published],
        "others": [name for name in cases() if name not in [*first, *published] and ", " not in name],
        "scorers": [name for name in cases() if ", " in name],
    }
    return named.get(group, [*MAIN])


def curve_pieces(ready: Sequence[tuple[str, Setting]], protocol: Protocol) -> Iterator[Piece]:
    """By lists, at the protocol's updates (or one pass, where that is more); by updates, on all the lists."""
    own, each, most = protocol.updates, protocol.lists_per_update, protocol.train_lists
    sizes = [2**n for n in range(5, 20) if 2**n <= most]
    grid = [(size, max(own, size // each)) for size in sizes] + [(most, size // each) for size in sizes]
    for seed in range(protocol.curve_seeds):
        for lists, updates in dict.fromkeys(grid):
            for name, setting in ready:
                yield Piece("lists", name, setting, seed, updates, lists)


def early_pieces(ready: Sequence[tuple[str, Setting]], protocol: Protocol) -> Iterator[Piece]:
    """After a few updates on all the lists, at each learning rate that is not too high for all, and else as chosen."""
    for seed in range(protocol.curve_seeds):
        for updates in EARLY:
            for rate in RATES[:-1]:
                for name, setting in ready:
                    yield Piece("lists", name, replace(setting, rate=rate), seed, updates, protocol.train_lists)


CURVES = {"lists": curve_pieces, "early": early_pieces}  # by group
