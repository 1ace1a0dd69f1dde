"""The reference's log-probabilities, computed once and kept on disk for every method and seed that asks for them.

A folder a model, `<model>/`, of shards (`irpo.training.tables`) with a table (I, K) a list. The model's key is a hash
of its weights as they are held (quantized or not) and its configuration; a list's is a hash of what the model is fed
and what is read from it, so that a changed template, candidate or scorer is another list. What is computed is on disk
within a minute: a process that dies goes on where it was. A file `<model>.safetensors`, which earlier versions kept, is
not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irpo.disk import NoRoom
from irpo.files import atomic_file
from irpo.processes import gather, share
from irpo.progress import say
from irpo.scoring.batching import collate
from irpo.scoring.forward import score_batch
from irpo.scoring.layout import Layout, Length, Scorer, in_budget, lay_out
from irpo.scoring.models import causal_lm
from irpo.scoring.sharding import whole, within_each
from irpo.scoring.tokens import EncodedList
from irpo.training.method import Method
from irpo.training.room import smaller
from irpo.training.stream import Stream
from irpo.training.tables import Shelf, Writer, writing
from irpo.types import UserError

Tables = dict[str, Tensor]
Known = Callable[[Sequence[EncodedList]], Mapping[str, Tensor]]  # the tables (I, K) of lists by their ids
_CHUNK = 2**26  # bytes hashed at once
_DONE = ".complete"  # ending of a file that says which shards hold the tables of a whole stream


@dataclass(frozen=True)
class Scoring:
    """How lists are scored: all that decides a table, the model aside; and in what portions."""

    scorer: Scorer
    length: Length
    pad_id: int
    tokens_per_batch: int

    def keyed(self, items: Sequence[EncodedList]) -> tuple[list[Layout], list[str]]:
        """The lists laid out, and their keys."""
        layouts = lay_out(items, self.scorer)
        return layouts, [list_key(layout, self.length) for layout in layouts]

    def pairs(
        self, model: Any, items: Sequence[EncodedList], layouts: Sequence[Layout]
    ) -> Iterator[tuple[int, Tensor]]:
        """Each list's place and table (I, K), float32, on the CPU; batch by batch, so in no order.

        Where memory runs out, what is left goes on in smaller batches; no other process hears of it.
        """
        tokens, done = self.tokens_per_batch, set[int]()
        while left := [i for i in range(len(layouts)) if i not in done]:
            for group in in_budget([layouts[i] for i in left], tokens):
                chosen = [left[k] for k in group]
                tables = self._tables(model, [items[i] for i in chosen], [layouts[i] for i in chosen])
                if tables is None:
                    tokens = smaller(tokens, alone=len(chosen) == 1)
                    break
                yield from zip(chosen, tables, strict=True)
                done.update(chosen)

    def _tables(self, model: Any, items: Sequence[EncodedList], layouts: Sequence[Layout]) -> list[Tensor] | None:
        """The tables of one batch; None where memory ran out."""
        with suppress(torch.OutOfMemoryError):
            batch = collate(items, layouts, pad_id=self.pad_id).to(causal_lm(model).device)
            rows = score_batch(model, batch, length=self.length).table.cpu()
            return [row[: of.ranks, : of.size].clone() for row, of in zip(rows, layouts, strict=True)]
        return None


@torch.no_grad()
def reference_tables(  # noqa: PLR0913 - a model, its lists and how they are scored
    model: Any,
    items: Sequence[EncodedList],
    scorer: Scorer,
    *,
    length: Length,
    pad_id: int,
    tokens_per_batch: int,
    cache: Path | None,
) -> Tables:
    """The model's scores (I, K) of every list, by the list's id, in float32; from the cache as far as it has them.

    `cache` is the folder of the files, None to keep nothing.
    """
    scoring = Scoring(scorer, length, pad_id, tokens_per_batch)
    layouts, keys = scoring.keyed(items)
    shelf = None if cache is None else Shelf(cache / model_key(model))
    held = [None] * len(keys) if shelf is None else shelf.tables(keys)
    # What one process lacks is computed by all: their folders need not be one.
    missing = sorted({i for each in gather([[i for i, table in enumerate(held) if table is None]]) for i in each})
    mine = share(missing)

    def scored() -> list[tuple[str, Tensor]]:
        pairs = []
        with _kept(shelf) as keep:
            for place, table in scoring.pairs(model, [items[i] for i in mine], [layouts[i] for i in mine]):
                pairs.append((keys[mine[place]], table))
                keep(pairs[-1:])
        return pairs

    made = dict(gather(within_each(model, scored)))
    if shelf is not None:
        say(
            f"reference: {len(items) - len(missing)} of {len(items)} lists from {shelf.folder}, {len(missing)} computed"
        )
    known = {key: table for key, table in zip(keys, held, strict=True) if table is not None} | made
    return {item.id: known[key] for item, key in zip(items, keys, strict=True)}


@contextmanager
def _kept(shelf: Shelf | None) -> Iterator[Callable[[Sequence[tuple[str, Tensor]]], None]]:
    """What keeps tables on disk; from the first that cannot be written on, said so, they are kept in memory alone."""
    works = shelf is not None
    writer = Writer(shelf.folder) if shelf is not None else None

    def attempt(step: Callable[[], None]) -> None:
        nonlocal works
        if works:
            try:
                step()
            except (OSError, NoRoom) as error:
                works = False
                say(f"reference: not kept on disk: {error}")

    try:
        yield lambda pairs: attempt(lambda: writer.add(pairs) if writer else None)
    finally:
        if writer is not None:
            attempt(writer.flush)


def references_of(
    model: Any, train: Sequence[EncodedList] | Stream, method: Method, pad_id: int, tokens: int, cache: Path | None
) -> Known:
    """The model's scores of the lists that a method trains on, in batches of as many tokens as memory holds."""
    length, scorer = method.length, method.scorer
    if not isinstance(train, Stream):
        tables = reference_tables(
            model, train, scorer, length=length, pad_id=pad_id, tokens_per_batch=tokens, cache=cache
        )
        return lambda _: tables
    if cache is None:
        raise UserError("a precomputed reference of lists on disk needs a folder to be kept in")
    told, scoring = json.dumps([train.told, repr(scorer), length]), Scoring(scorer, length, pad_id, tokens)
    return stored_references(model, train.chunks, scoring, told=told, cache=cache)


@torch.no_grad()
def stored_references(
    model: Any,
    chunks: Callable[[], Iterable[Sequence[EncodedList]]],
    scoring: Scoring,
    *,
    told: str,
    cache: Path,
) -> Known:
    """The model's scores of more lists than memory holds: computed as far as the cache lacks them, and read from there.

    `chunks` gives all lists, some at a time, the same in every process; `told` is a text that says which they are, so
    that they need not be gone through again. `UserError` where the folder cannot be written.
    """
    folder = cache / model_key(model)
    mark = folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}{_DONE}"
    shelf = Shelf(folder)
    if not all(gather([_is_complete(mark, shelf)])):
        try:
            _fill(model, chunks(), scoring, shelf)
            shelf = Shelf(folder)
            with atomic_file(mark) as file:
                file.write(json.dumps([path.name for path in shelf.shards]))
        except OSError as error:
            raise UserError(f"{error.filename or folder}: the reference's scores cannot be written ({error})") from None
    say(f"reference: read from {folder}")

    def known(items: Sequence[EncodedList]) -> Tables:
        _, keys = scoring.keyed(items)
        found = {item.id: table for item, table in zip(items, shelf.tables(keys), strict=True) if table is not None}
        if lacking := next((item.id for item in items if item.id not in found), None):
            raise UserError(
                f"{folder}: the reference's scores of list {lacking!r} are not there; on several machines $IRPO_CACHE "
                "must be a folder that they share"
            )
        return found

    return known


def _is_complete(mark: Path, shelf: Shelf) -> bool:
    """Whether the shards that once held all tables are all there, and sound."""
    try:
        needed = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return set(needed) <= {path.name for path in shelf.shards}


def _fill(model: Any, chunks: Iterable[Sequence[EncodedList]], scoring: Scoring, shelf: Shelf) -> None:
    """Compute this process's share of what the shelf lacks, and write it; returns when all have."""

    def filled() -> tuple[int, int]:
        lists = computed = 0
        with writing(shelf.folder) as writer:
            for chunk in chunks:
                mine = share(chunk)  # of all lists: what is lacking, processes may see differently
                layouts, keys = scoring.keyed(mine)
                lacking = [i for i, there in enumerate(shelf.has(keys)) if not there]
                for place, table in scoring.pairs(model, [mine[i] for i in lacking], [layouts[i] for i in lacking]):
                    writer.add([(keys[lacking[place]], table)])
                lists, computed = lists + len(mine), computed + len(lacking)
        return lists, computed

    every, made = (sum(each) for each in zip(*gather([within_each(model, filled)]), strict=True))
    say(_account(every, made, shelf))


def _account(lists: int, computed: int, shelf: Shelf) -> str:
    return f"reference: {lists - computed} of {lists} lists from {shelf.folder}, {computed} computed"


def list_key(layout: Layout, length: Length) -> str:
    """32 hex digits of everything that a list's scores depend on, the model aside."""
    told: list[Any] = [layout.ids, layout.positions, layout.branches, layout.reads, layout.size, layout.ranks, length]
    if layout.among:
        told.append(layout.among)
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def model_key(model: Any) -> str:
    """32 hex digits of a model's weights, configuration and precision; an adapter that changes nothing is left out."""
    inner = causal_lm(model)
    told = inner.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        told.pop(name, None)
    device = inner.device.type
    told["computed"] = [
        device,
        str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "as it is",
    ]
    state = inner.state_dict()
    adapter = [name for name in state if ".lora_" in name]
    idle = all(not state[name].any() for name in adapter if ".lora_B." in name)
    if not idle:
        told["adapter"] = _use_of_adapter(inner)
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=16)
    for name in sorted(set(state) - set(adapter) if idle else state, key=_plain):
        tensor = whole(state[name].detach())
        digest.update(f"{_plain(name)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _CHUNK):
            digest.update(flat[start : start + _CHUNK].cpu().numpy().data)
    return digest.hexdigest()


def _use_of_adapter(inner: Any) -> list[Any]:
    """What an adapter's weights do not say of each layer: which are on, and by what they are scaled (alpha / r)."""
    layers = [(name, module) for name, module in inner.named_modules() if "_disable_adapters" in vars(module)]
    return [
        (name, module.disable_adapters, list(module.active_adapters), getattr(module, "scaling", None))
        for name, module in layers
    ]


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")
