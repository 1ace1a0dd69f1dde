"""The reference's log-probabilities, computed once and kept on disk for every method and seed that asks for them.

One file a model, `<model>.safetensors`: a table (I, K) a list. The model's key is a hash of its
weights as they are held (quantized or not) and its configuration; a list's is a hash of what the model is fed and what
is read from it, so that a changed template, candidate or scorer is another list. A file that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from irpo.disk import NoRoom
from irpo.files import atomic_path
from irpo.processes import gather, is_first, share
from irpo.progress import say
from irpo.scoring.batching import collate
from irpo.scoring.forward import score_batch
from irpo.scoring.layout import Layout, Length, Scorer, in_budget, lay_out
from irpo.scoring.models import causal_lm
from irpo.scoring.sharding import whole, within_each
from irpo.scoring.tokens import EncodedList

Tables = dict[str, Tensor]
_CHUNK = 2**26  # bytes hashed at once


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
    layouts = lay_out(items, scorer)
    keys = [list_key(layout, length) for layout in layouts]
    path = None if cache is None else cache / f"{model_key(model)}.safetensors"
    known = {} if path is None else _read(path)
    missing = [i for i, key in enumerate(keys) if key not in known]
    device = causal_lm(model).device
    mine = share(missing)

    def scored() -> list[tuple[str, Tensor]]:
        pairs = []
        for group in in_budget([layouts[i] for i in mine], tokens_per_batch):
            chosen = [mine[k] for k in group]
            batch = collate([items[i] for i in chosen], [layouts[i] for i in chosen], pad_id=pad_id)
            table = score_batch(model, batch.to(device), length=length).table.cpu()
            for i, scores in zip(chosen, table, strict=True):
                pairs.append((keys[i], scores[: layouts[i].ranks, : layouts[i].size].clone()))
        return pairs

    made = dict(gather(within_each(model, scored)))
    if path is not None:
        say(f"reference: {len(items) - len(missing)} of {len(items)} lists from {path}, {len(missing)} computed")
        if made and is_first():
            _write(path, known | made)
    tables = known | made
    return {item.id: tables[key] for item, key in zip(items, keys, strict=True)}


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


def _read(path: Path) -> Tables:
    """The tables of a file; {} where there is none, and, said so, where it is damaged."""
    if not path.is_file():
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            tables = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            given = (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError, ValueError) as error:
        say(f"reference: {path} is damaged and made anew ({' '.join(str(error).split())[:120]})")
        return {}
    if given != _digest(tables):
        say(f"reference: {path} is damaged and made anew (its digest does not fit)")
        return {}
    return tables


def _write(path: Path, tables: Tables) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file(tables, str(temporary), metadata={"digest": _digest(tables)})
    except (OSError, NoRoom) as error:
        say(f"reference: not kept on disk: {error}")


def _digest(tables: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(tables):
        digest.update(key.encode() + tables[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
