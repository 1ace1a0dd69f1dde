"""The studies' tables in markdown, made from the lines alone (`study_found` says how intervals and tests are made)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from study_cases import (
    CURVES,
    LABELS,
    MAIN,
    MEASURE,
    PUBLISHED,
    RATES,
    Lines,
    Piece,
    Protocol,
    as_published,
    cases,
    chosen,
    reached,
    trials,
)
from study_found import Found, as_cells, markdown, short, verdicts

BASE = "base model"
MODES = ("score", "constrain", "generate")
NAMES = {"auto": "strength `auto`", "1": "strength 1"}


def tables(done: Lines, protocol: Protocol) -> dict[str, str]:
    """Every table that there are lines for, by its name."""
    read = Reader(done, protocol)
    made = {
        "search": read.search(),
        "methods": read.methods("auto"),
        "methods-1": read.methods("1"),
        "modes": read.modes(),
        "tests": read.tests("auto"),
        "tests-1": read.tests("1"),
        "lists": read.lists(),
        "early": read.early(),
        "labels": read.labels(),
        "adapter": read.adapter(),
    }
    return {name: text for name, text in made.items() if text}


def report(done: Lines, protocol: Protocol) -> str:
    """All of them below each other."""
    return "\n".join(f"## {name}\n\n{text}" for name, text in tables(done, protocol).items())


@dataclass(frozen=True)
class Reader:
    """What the lines say."""

    done: Lines
    protocol: Protocol

    def found(self, name: str, pieces: Sequence[Piece], mode: str, by: str) -> Found | None:
        """The rows of a case's pieces in a mode, at strength `auto` or "1"; None: there is none.

        A piece whose loss was not finite has none.
        """
        lines = [self.done[piece.key] for piece in pieces if piece.key in self.done]
        return self._rows(name, lines, mode, by)

    def base(self, mode: str) -> list[Found]:
        """The untrained model, where it was measured."""
        line = self.done.get("base/text")
        found = line and self._rows(BASE, [{**line, "auto": "1"}], mode, "1")
        return [found] if found else []

    def _rows(self, name: str, lines: Sequence[Mapping[str, Any]], mode: str, by: str) -> Found | None:
        rows = [
            row
            for line in lines
            for row in line.get("rows", ())
            if row["mode"] == mode and row["strength"] == (line["auto"] if by == "auto" else by)
        ]
        if not rows or "base/text" not in self.done:  # whose line counts the lists of each wish
            return None
        return Found(name, tuple(rows), self.done["base/text"]["wishes" if mode == "score" else "wishes_read"])

    def finals(self, name: str, mode: str, by: str) -> Found | None:
        """A case with every seed at the setting that was chosen at strength `auto` or "1", and at that strength."""
        setting = chosen(cases()[name], self.protocol, self.done, by)
        if setting is None:
            return None
        seeds = range(self.protocol.seeds)
        pieces = [Piece("final", name, setting, seed, self.protocol.updates) for seed in seeds]
        return self.found(name, pieces, mode, by)

    def all(self, by: str) -> Iterator[Found]:
        """By score, every case that was measured."""
        for name in cases():
            if found := self.finals(name, "score", by):
                yield found

    def search(self) -> str:
        """What was chosen at either strength, and the best that the search saw at each learning rate."""
        rows = []
        for name, case in cases().items():
            setting, plain = (chosen(case, self.protocol, self.done, by) for by in ("auto", "1"))
            if setting is None:
                continue
            tried = trials(case, self.protocol)
            best = [[reached(self.done[x.key], "auto") for x in tried if x.setting.rate == rate] for rate in RATES]
            told = [str(setting), "the same" if plain == setting else str(plain)]
            rows.append([name, *told, *(short(max(values)) if values else "" for values in best)])
        return markdown(["", *(f"chosen at {NAMES[by]}" for by in NAMES), *(f"rate {r:g}" for r in RATES)], rows)

    def methods(self, by: str) -> str:
        """Every method that was measured, best first, and what the tests say of it against SFT."""
        found = sorted([*self.all(by), *self.base("score")], key=lambda x: -x.mean)
        pairs = [(x, sft) for sft in found if sft.name == "sft" for x in found if x is not sft and self._whole(x)]
        against = {x.name: told for (x, _), told in zip(pairs, verdicts(pairs), strict=True)}
        rows = [self._method(x, by, against.get(x.name)) for x in found]
        header = ["", "NDCG@10 by score", "@1", "@5", "strength, by seed", "constrained", "free", "named", "whole"]
        return markdown([*header, "against SFT", "seeds"], rows)

    def _whole(self, x: Found) -> bool:
        """Whether every seed is there, without which nothing is said to be better or worse."""
        return x.name == BASE or len(x.rows) == self.protocol.seeds

    def _method(self, x: Found, by: str, against: tuple[float, float, str] | None) -> list[str]:
        if x.name == BASE:
            decoded = [next(iter(self.base(mode)), None) for mode in MODES[1:]]
        else:
            decoded = [self.finals(x.name, mode, by) for mode in MODES[1:]]
        free = decoded[1]
        answers = _answers(free, "generate")
        strengths = " ".join(row["strength"] for row in x.rows)
        cells = [d.cell() if d else "" for d in decoded]
        return [x.name, x.cell(), x.cut("1"), x.cut("5"), strengths, *cells, *answers, _told(against), str(len(x.rows))]

    def modes(self) -> str:
        """Every mode in all that was measured of it, at strength 1 and, for seeds where that is another, at `auto`."""
        rows = []
        for name, case in cases().items():
            setting = chosen(case, self.protocol, self.done)
            keys = [f"final/{name}/{setting}/{seed}" for seed in range(self.protocol.seeds)]
            lines = [self.done[key] for key in keys if key in self.done]
            others = [line for line in lines if line.get("auto", "1") != "1"]
            for mode in MODES:
                for by, some in (("1", lines), ("auto", others)):
                    if x := self._rows(name, some, mode, by):
                        cuts = [x.cut(k) for k in ("1", "5", "10")]
                        cost = [f"{x.of(what):.1f}" for what in ("ms_per_list", "passes")]
                        rows.append([name, mode, NAMES[by], *cuts, *_answers(x, mode), *cost])
        header = ["", "mode", "", "NDCG@1", "@5", "@10", "named", "whole", "ms a list", "passes a list"]
        return markdown(header, rows)

    def tests(self, by: str) -> str:
        """The main methods in pairs, the better mean first."""
        found = [
            x
            for name in (*MAIN, *MEASURE, *map(as_published, PUBLISHED))
            if name in cases() and (x := self.finals(name, "score", by))
        ]
        found = sorted(filter(self._whole, [*found, *self.base("score")]), key=lambda x: -x.mean)
        pairs = list(combinations(found, 2))
        rows = [[a.name, b.name, *as_cells(test)] for (a, b), test in zip(pairs, verdicts(pairs), strict=True)]
        return markdown(["", "against", "NDCG@10", "p, Holm", ""], rows)

    def lists(self) -> str:
        """NDCG@10 by score at strength `auto` and 1, by training lists and updates."""
        rows = self._points("lists", lambda piece: (str(piece.lists), str(piece.updates)))
        return markdown(["lists", "updates", "", *MAIN], rows)

    def early(self) -> str:
        """The same after a few updates, by learning rate."""
        rows = self._points("early", lambda piece: (str(piece.updates), f"{piece.setting.rate:g}"))
        return markdown(["updates", "rate", "", *MAIN], rows)

    def _points(self, group: str, point: Callable[[Piece], tuple[str, str]]) -> list[list[str]]:
        """Rows of the main methods at each point of a curve, at strength `auto` and 1."""
        points: dict[tuple[str, str], dict[str, list[Piece]]] = {}
        for name in MAIN:
            setting = chosen(cases()[name], self.protocol, self.done)
            for piece in CURVES[group]([(name, setting)] if setting else [], self.protocol):
                points.setdefault(point(piece), {}).setdefault(name, []).append(piece)
        rows = []
        for at, by_name in points.items():
            for by in ("auto", "1"):
                cells = [self.found(name, by_name.get(name, []), "score", by) for name in MAIN]
                if any(cells):
                    rows.append([*at, NAMES[by], *(x.cell() if x else "" for x in cells)])
        return rows

    def labels(self) -> str:
        """NDCG@10 by score where less is known of the labels in training and validation."""
        rows = []
        for labels in (None, *LABELS):
            for by in ("auto", "1"):
                cells = [self._labelled(name, labels, by) for name in MAIN]
                if any(cells):
                    rows.append([labels or "all", NAMES[by], *(x.cell() if x else "" for x in cells)])
        return markdown(["labels", "", *MAIN], rows)

    def _labelled(self, name: str, labels: str | None, by: str) -> Found | None:
        setting = chosen(cases()[name], self.protocol, self.done)
        if setting is None:
            return None
        kind, seeds = ("labels" if labels else "final"), range(self.protocol.curve_seeds)
        pieces = [Piece(kind, name, setting, seed, self.protocol.updates, labels=labels) for seed in seeds]
        return self.found(name, pieces, "score", by)

    def adapter(self) -> str:
        """Strength by logits and by the adapter's scale, each at its best value on validation lists, the same seeds."""
        rows = []
        for name in map(as_published, PUBLISHED):
            setting = chosen(cases()[name], self.protocol, self.done)
            if setting is None:
                continue
            for kind in ("final", "adapter"):
                seeds = range(self.protocol.curve_seeds)
                pieces = [Piece(kind, name, setting, seed, self.protocol.updates) for seed in seeds]
                rows += self._by(name, kind, [self.done[piece.key] for piece in pieces if piece.key in self.done])
        return markdown(["", "by", "strength, by seed", *MODES, "named", "ms a list, constrained"], rows)

    def _by(self, name: str, kind: str, lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        how = "logits" if kind == "final" else "adapter"
        lines = [
            line | {"auto": line["auto_adapter"]} if kind == "adapter" else line for line in lines if "auto" in line
        ]
        found = [self._rows(name, lines, mode, "auto") for mode in MODES]
        score, constrain, free = found
        if score is None or constrain is None:
            return []
        strengths = " ".join(row["strength"] for row in score.rows)
        named = f"{100 * free.of('coverage'):.0f} %" if free else ""
        cells = [x.cell() if x else "" for x in found]
        return [[name, how, strengths, *cells, named, f"{constrain.of('ms_per_list'):.1f}"]]


def _answers(x: Found | None, mode: str) -> list[str]:
    """Share of the candidates that free lists name, and of these lists that are permutations."""
    return [f"{100 * x.of(what):.0f} %" if x and mode == "generate" else "" for what in ("coverage", "exact")]


def _told(test: tuple[float, float, str] | None) -> str:
    return "" if test is None else " ".join(as_cells(test))
