"""From a run, a folder or a hub id to an engine of vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo.progress import say
from irpo.prompting.prompts import PromptBuilder, positions
from irpo.ranking.decoding import ends_of
from irpo.ranking.vllm.asking import Adapter, Served
from irpo.ranking.vllm.engine import VllmEngine
from irpo.ranking.vllm.library import Loading, loaded
from irpo.ranking.vllm.server import connect
from irpo.runs import ADAPTER, FULL, load_options, model_below, run_config
from irpo.runs.exported import fetched
from irpo.scoring.models import LoadOptions, hub_config
from irpo.scoring.names import resolve
from irpo.types import UserError

if TYPE_CHECKING:
    from irpo.config.schema import RankerConfig
    from irpo.ranking.engines import Vllm


def open_engine(name: str, config: RankerConfig | None, builder: PromptBuilder, options: Vllm) -> VllmEngine:
    """vLLM with the weights of a run, a folder or a hub id, for prompts of this builder."""
    if builder.attention == "block":
        raise UserError("prompt.attention 'block' needs masks that vLLM does not take: take --engine transformers")
    base, adapter = weights_of(name)
    place, revision = resolve(base)
    own = hub_config(base)
    how = load_options(config) if config else LoadOptions()
    if options.url is None:
        # A free answer may be half as long again as a complete one, and begin with a sentence (`answer_limit`).
        wanted = builder.max_tokens + builder.max_tokens // 2 + 64
        served = _in_process(options, base, adapter, how, min(wanted, positions(own) or wanted))
    else:
        served = _at_server(options.url, base, adapter, how, builder.max_tokens)
    ends = ends_of(builder.tokenizer, _generation(place, revision, own))
    return VllmEngine(served, builder.tokenizer, own, frozenset(ends), adapter)


def weights_of(name: str) -> tuple[str, Adapter | None]:
    """The folder or hub id of a name's whole weights, and the adapter on them.

    `UserError` where there is no such folder: a run on a run with an adapter, which is merged as it is loaded.
    """
    below, folder = model_below(name), Path(fetched(name))
    if below is None:
        return fetched(name), None
    if (folder / FULL).is_dir():
        return str(folder / FULL), None
    weights = folder / ADAPTER if run_config(name) else folder
    if not weights.is_dir():
        raise UserError(f"{name}: the run has neither '{ADAPTER}' nor '{FULL}': it did not finish; use train --resume")
    base, adapter = weights_of(below)
    if adapter is not None:
        raise UserError(
            f"{name}: its model.name is a run with an adapter, which is merged as it is loaded; vLLM loads weights "
            "from a folder: take --engine transformers"
        )
    return base, Adapter(weights)


def _in_process(options: Vllm, base: str, adapter: Adapter | None, how: LoadOptions, room: int) -> Served:
    place, revision = resolve(base)
    return loaded(
        Loading(
            base=place,
            revision=revision,
            dtype="bfloat16" if how.dtype == "auto" else how.dtype,
            four_bit=how.quantization == "nf4",
            rank=None if adapter is None else adapter.rank,
            room=room,
            tensor_parallel=options.tensor_parallel,
            memory_fraction=options.memory_fraction,
        )
    )


def _at_server(url: str, base: str, adapter: Adapter | None, how: LoadOptions, least: int) -> Served:
    place, revision = resolve(base)
    names = [base, place, *([str(Path(place).resolve())] if Path(place).is_dir() else [])]
    server = connect(url, names, least)
    if adapter is not None:
        server.require_adapter(adapter)
    if how.quantization == "nf4":
        say("note: the model is used in 4 bits here; the server does not say whether it is in 4 bits there")
    if revision != "main":
        say(f"note: {base}: the server does not say of which revision its weights are")
    return server


def _generation(place: str, revision: str, config: Any) -> Any:
    """How the base model writes; where its folder does not say, as its config does."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(place, revision=revision)
    except OSError:
        return GenerationConfig.from_model_config(config)
