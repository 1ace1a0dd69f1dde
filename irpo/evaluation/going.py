"""What an evaluation has ranked so far, beside its results, so that one that was killed goes on where it was.

    OUT/.going/<key>.<process>.jsonl    a line for each batch that a mode has finished

The key says everything that a ranking depends on: the weights as they are held, every list as the model is shown it,
the mode, scorer, strength, and the versions of what computes. A list is ranked in the batch in which an undisturbed
evaluation has it, so that the results are the same to the last bit.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import platform
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irpo.disk import NoRoom, add_lines
from irpo.evaluation.results import KINDS, kind_of
from irpo.files import sha256_of
from irpo.processes import gather, rank
from irpo.progress import say
from irpo.ranking import in_batches
from irpo.ranking.modes import RANKING_MODES, ParsedAnswer, RankedList, Ranker, RankingMode
from irpo.scoring.tokens import EncodedList, prompted
from irpo.types import Missing, Problem, Ranking, RankingExample, Repeated

GOING = ".going"
_TOGETHER = 64  # lists whose parts are asked about together: what a kill loses at most


def ranked_so_far(folder: Path) -> str:
    """What the next evaluation takes from its folder, in words for a user whose evaluation is told to end."""
    return "the same command goes on from what is ranked" if folder.is_dir() else "nothing is ranked yet"


@dataclass
class Kept:
    """The lists that a mode has ranked in this evaluation, on disk batch by batch."""

    path: Path  # this process's own file
    known: dict[str, RankedList] = field(default_factory=dict)  # by the list's id
    seconds: float = 0.0  # that earlier processes took for them
    full: bool = False  # whether there was no room for more

    def add(self, lists: Sequence[RankedList], seconds: float) -> None:
        """A batch that is done; where the disk has no room for it the evaluation goes on, and the user is told once."""
        self.known |= {x.id: x for x in lists}
        if self.full:
            return
        line = json.dumps({"seconds": seconds, "lists": [_told(x) for x in lists]})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            add_lines(self.path, "\n" + line)  # behind a line that another process died within
        except (NoRoom, OSError) as error:
            if getattr(error, "errno", None) == errno.ENAMETOOLONG:  # no result could be written there either
                raise
            self.full = True
            say(f"note: {error}; what follows would have to be ranked again if this evaluation were killed")


@dataclass(frozen=True)
class Going:
    """An evaluation under way: its folder, and what it depends on."""

    folder: Path
    ranker: Ranker
    items: dict[str, EncodedList]  # the lists as the model is shown them, by id; without `whole` of two candidates
    key: str
    whole: bool = True  # whether any mode shows lists whole

    @classmethod
    def of(cls, folder: Path, ranker: Ranker, examples: Sequence[RankingExample], *, whole: bool = True) -> Going:
        """That of all the examples, whichever of them this process ranks.

        Lists that no mode shows `whole` may be longer than any prompt: two candidates stand for how such a list is put.
        """
        asked = examples if whole else [replace(e, candidates=e.candidates[:2]) for e in examples]
        items = {e.id: x.tokens for e, x in zip(examples, prompted(ranker.builder, asked, labels=False), strict=True)}
        shown = [[e.id, e.query, [(c.id, c.text) for c in e.candidates]] for e in examples]
        told = [*_of_all(weights_digest(ranker.model)), repr(shown), repr(list(items.values())), repr(ranker.scorer)]
        told += [_source(ranker.scorer), ranker.builder.style, repr(ranker.strength), ranker.length, str(ranker.seed)]
        told += [ranker.builder.labels, str(ranker.builder.max_tokens), ranker.builder.template.source]
        told += [str(ranker.lists_per_batch), version("irpo"), version("torch"), version("transformers")]
        told += [str(ranker.model.device.type), platform.machine()]
        return cls(folder, ranker, items, _digest(told), whole)

    def kept(self, mode: RankingMode) -> Kept:
        """What a mode has ranked, of all processes."""
        key = _digest([self.key, repr(mode), *_sources(mode)])
        kept = Kept(self.folder / f"{key}.{rank()}.jsonl")
        for path in sorted(self.folder.glob(f"{key}.*.jsonl")):
            spent = 0.0
            for lists, seconds in _batches_in(path):
                if new := {x.id: x for x in lists if x.id not in kept.known and x.id in self.items}:
                    kept.known |= new
                    spent += seconds
            kept.seconds = max(kept.seconds, spent)  # processes work at the same time
        if kept.known:
            name = RANKING_MODES.described(mode)
            say(f"going on: {len(kept.known)} of {len(self.items)} lists of mode {name} were ranked before")
        return kept

    def ranked(self, mode: RankingMode, kept: Kept, examples: Sequence[RankingExample]) -> list[RankedList]:
        """The examples' rankings, in their order, each batch on disk as it is done; batches are those of one call."""
        batches = self._batches(mode, examples)
        alone = replace(self.ranker, watch=lambda inner, _: inner)
        for chosen in self.ranker.watch(batches, RANKING_MODES.described(mode)):
            left = [examples[i] for i in chosen if examples[i].id not in kept.known]
            if left:
                began = time.perf_counter()
                kept.add(mode(alone, left), time.perf_counter() - began)
        return [kept.known[e.id] for e in examples]

    def _batches(self, mode: RankingMode, examples: Sequence[RankingExample]) -> list[list[int]]:
        """The lists that a mode is given at once; one that asks about parts of lists makes its own batches of these."""
        if getattr(mode, "in_parts", False):
            most = max(_TOGETHER, self.ranker.lists_per_batch or 0)
            return [list(range(start, min(start + most, len(examples)))) for start in range(0, len(examples), most)]
        sizes = [self.items[e.id] for e in examples]
        return in_batches(sizes, self.ranker.model.device, self.ranker.lists_per_batch)


@torch.no_grad()
def weights_digest(model: Any) -> str:
    """Hex digits of all weights as they are held, and of how they are computed with.

    Of each tensor its name, shape, type and a checksum; a hash of every byte would take longer than small evaluations.
    """
    told = [str(getattr(model.config, "_attn_implementation", "")), repr(model.config.to_dict())]
    state = model.state_dict().items()
    told += [f"{name} {tensor.dtype} {tuple(tensor.shape)} {_checksum(tensor)}" for name, tensor in state]
    return _digest(told)


def _of_all(digest: str) -> list[str]:
    """The digests of all processes, each once: those that hold the same weights have the same."""
    return sorted(set(gather([digest])))


def _checksum(tensor: Any) -> int:
    """Of a tensor's bytes, the same every time on one kind of device."""
    here = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # this process's part of sharded weights
    flat: Tensor = here.detach().contiguous().reshape(-1)
    if flat.device.type == "cpu":
        return zlib.crc32(flat.view(torch.uint8).numpy().data)
    return _weighed(flat)


def _weighed(flat: Tensor) -> int:
    """The sum of a flat tensor's words, each times its place in rounds of `_ROUND`: another order gives another sum.

    Exact in whole numbers (modulo 2**64), which does not depend on the order in which a GPU adds up.
    """
    words = flat.view(_WORDS[flat.element_size()])
    # By parts, which take little memory beside the weights; each counts by its number as well.
    parts = enumerate(torch.split(words, _ROUND * 256), start=1)
    return sum(number * int((part.to(torch.int64) * _places(part)).sum()) for number, part in parts) % 2**64


def _places(part: Tensor) -> Tensor:
    return torch.arange(len(part), device=part.device) % _ROUND + 1


_ROUND = 65_521  # a prime: rows of a matrix are seldom a multiple of it
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def _digest(told: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(told)).encode()).hexdigest()[:24]


def _sources(mode: RankingMode) -> list[str]:
    """The digests of the files of a mode and of those that it asks about parts of a list."""
    inner = getattr(mode, "by", None)
    return [_source(mode), *([] if inner is None else _sources(inner))]


def _source(plugin: Any) -> str:
    """The digest of the file that a plug-in is written in."""
    try:
        return sha256_of(Path(inspect.getfile(type(plugin))))
    except (OSError, TypeError):  # made in a session, without a file
        return ""


def _batches_in(path: Path) -> list[tuple[list[RankedList], float]]:
    """The batches of a file; a line that a process died within is none."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            told = json.loads(line)
            found.append(([_read(one) for one in told["lists"]], float(told["seconds"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _told(ranked: RankedList) -> dict[str, Any]:
    """A ranked list in JSON: every field as it is, floats to the last bit."""
    told = {key: value for key, value in vars(ranked).items() if key not in ("ranking", "answer")}
    told |= {"order": ranked.ranking.order, "left": sorted(ranked.left)}
    if (answer := ranked.answer) is not None:
        problems = [(kind_of(p), p.index if isinstance(p, (Missing, Repeated)) else p.text) for p in answer.problems]
        told["answer"] = {"text": answer.text, "order": answer.ranking.order, "problems": problems}
    return told


def _read(told: dict[str, Any]) -> RankedList:
    """A list as `_told` wrote it."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    fields["left"] = frozenset(fields["left"])
    ranking, answer = Ranking(tuple(fields.pop("order"))), fields.pop("answer", None)
    if answer is not None:
        problems: tuple[Problem, ...] = tuple(KINDS[kind](what) for kind, what in answer["problems"])
        answer = ParsedAnswer(answer["text"], Ranking(tuple(answer["order"])), problems)
    return RankedList(ranking=ranking, answer=answer, **fields)
