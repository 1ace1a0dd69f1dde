"""From a configuration to a job: template, prompts, method, lists and model, assembled in one place and found sound.

What cannot work is refused here, in the order of what it costs to see it; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from irpo.chance import in_test_split
from irpo.config.schema import MethodConfig, RunConfig
from irpo.objectives import OBJECTIVES, Objective
from irpo.objectives.mixture import Mixture
from irpo.processes import decided
from irpo.progress import say
from irpo.prompting.markup import with_markup
from irpo.prompting.prompts import PromptBuilder, cuts_of, load_template
from irpo.resources import cache_dir, prompts_dir
from irpo.runs import load_options, load_weights, tokenizer_name
from irpo.scorers import SCORERS, check_model
from irpo.scoring import sharding
from irpo.scoring.models import (
    LoraOptions,
    add_lora,
    default_device,
    four_bit_layers,
    load_tokenizer,
    trainable_parameters,
    use_checkpointing,
    without_dropout,
)
from irpo.scoring.tokens import EncodedList, PromptedList, prompted
from irpo.tasks import TASKS, Lists, validation_shares
from irpo.tasks.preparing import build
from irpo.tasks.shards import ShardedLists, read_card
from irpo.training.ahead import encoding_processes
from irpo.training.method import Method
from irpo.training.stream import Stream, put, stream_of, survey, validating
from irpo.training.tracking import TRACKERS, Trackers
from irpo.training.validation import require_lists
from irpo.types import RankingExample, UserError

FEW = 30  # validation lists that share nothing, below which a gain is hard to tell from chance


@dataclass(frozen=True)
class Splits:
    """Training lists as a run uses them; validation lists are training lists set aside by a hash of their unit."""

    train: tuple[RankingExample, ...]
    validation: tuple[RankingExample, ...]


@dataclass(frozen=True)
class Parts:
    """A job: all that a run needs but its model. `card` says what the data are."""

    config: RunConfig
    method: Method
    builder: PromptBuilder
    train: tuple[PromptedList, ...] | Stream
    validation: tuple[PromptedList, ...]
    card: Mapping[str, Any]

    @property
    def lists(self) -> tuple[list[EncodedList] | Stream, list[EncodedList]]:
        """The tokens of training and of validation lists."""
        train = self.train if isinstance(self.train, Stream) else [p.tokens for p in self.train]
        return train, [p.tokens for p in self.validation]

    @property
    def known(self) -> tuple[PromptedList, ...]:
        """The training lists that are known before training: all of them, or the first of a stream."""
        return self.train.probe if isinstance(self.train, Stream) else self.train

    @property
    def examples(self) -> tuple[list[RankingExample], list[RankingExample]]:
        """The training lists that are known, and the validation lists, as they were given."""
        return [p.example for p in self.known], [p.example for p in self.validation]

    @property
    def cuts(self) -> dict[str, int]:
        """What was cut from the lists that are known."""
        return cuts_of([p.prompt for p in (*self.known, *self.validation)])


Built = tuple[Lists, Mapping[str, Any]]  # a task's lists and their card


def prepare_job(config: RunConfig, built: Built | None = None) -> Parts:
    """The configured task's lists, split and put as the model will see them, and the method to train by.

    `built` are the task's lists and card where they have been built already.
    """
    method = method_of(config)
    require_trackers(config)
    require_optimizer(config)
    if config.training.shuffle_buffer is not None:
        if built is not None:
            raise UserError("training.shuffle_buffer reads lists from disk; here they are in memory: set it to null")
        return _streamed_job(config, method)
    lists, card = built or build(config.task, skip_bad_rows=config.skip_bad_rows)
    _tell_splits(config, lists, card)
    t = config.training
    whole = split_training(lists["train"], t.validation_fraction, t.max_validation_lists)
    splits = Splits(whole.train[: t.max_lists], whole.validation)
    _tell_shares(config, splits.validation)
    unused = len(lists["train"]) - len(splits.train) - len(splits.validation)
    return assemble(config, method, splits, {**card, "unused": unused})


def assemble(config: RunConfig, method: Method, splits: Splits, card: Mapping[str, Any]) -> Parts:
    """The job of these lists."""
    builder, processes = builder_of(config), processes_of(config)
    train, validation = (put(builder, part, processes) for part in (splits.train, splits.validation))
    items = [p.tokens for p in train]
    method.require_labels(items, {p.example.id: p.example.where for p in train})
    require_lists(config.ranking, validation)
    method.batch(items[:1], 0)  # a scorer that cannot lay these lists out says so before anything is loaded
    return Parts(config, method, builder, train, validation, card)


def _streamed_job(config: RunConfig, method: Method) -> Parts:
    """The job of lists that stay on disk: nothing of theirs is held but those that validate and the first few."""
    t = config.training
    lists, card = lists_on_disk(config)
    lists.verify()
    _tell_splits(config, card["splits"], card)
    builder = builder_of(config)

    def check(example: RankingExample) -> None:
        method.require_labels([example], {example.id: example.where})

    told, cache = repr((method.objective, method.objective.needs, method.nll_weight)), cache_dir() / "surveys"
    # One process reads for all.
    found = decided(lambda: survey(lists, t.validation_fraction, check, told=told, cache=cache))
    stream = stream_of(lists, found, builder, config, processes=processes_of(config))
    aside = validating(lists, t.validation_fraction, t.max_validation_lists, found)
    validation = tuple(prompted(builder, aside, labels=True))
    _tell_shares(config, aside)
    require_lists(config.ranking, validation)
    method.batch([p.tokens for p in stream.probe[:1]], 0)
    card = {**card, "unused": len(lists) - len(stream) - len(validation)}
    return Parts(config, method, builder, stream, validation, card)


def lists_on_disk(config: RunConfig) -> tuple[ShardedLists, Mapping[str, Any]]:
    """The training lists of the task `prepared`, and the folder's card."""
    folder = Path(str(config.task.get("data")))
    return ShardedLists.of(folder, "train"), read_card(folder)


def _tell_splits(config: RunConfig, splits: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """What the card warns of; `UserError` where there is nothing to train on."""
    if "train" not in splits:
        raise UserError(f"task {config.task['name']!r}: the data hold no training split")
    for note in card["notes"]:
        say(f"note: {note}")
    if "eval" not in splits:
        say("note: the data hold no evaluation split; `irpo evaluate` will need one")


def _tell_shares(config: RunConfig, validation: Sequence[RankingExample]) -> None:
    """Where another share of the lists would have to validate."""
    shares, fraction = validation_shares(TASKS.get(str(config.task["name"]))), config.training.validation_fraction
    if shares and validation and fraction not in shares:
        say(
            f"note: with training.validation_fraction = {fraction:g} validation lists hold answers that "
            f"training lists show as wrong, and look easier than they are; take {' or '.join(map(str, shares))}"
        )


def processes_of(config: RunConfig) -> int:
    """How many processes put lists as tokens for this one."""
    return encoding_processes(config.training.encoding_processes, on_gpu=default_device().type == "cuda")


def split_training(examples: Sequence[RankingExample], fraction: float, most: int) -> Splits:
    """Training and validation lists, `most` of the latter at most; the others of those set aside serve nobody.

    What is set aside does not depend on order, machine or seed, and lists of one unit stay together; which `most` of it
    validate follows the given order. A list without a label, which has a teacher, validates nothing: it is trained on,
    or serves nobody where its unit validates.
    """
    aside = tuple(e for e in examples if in_test_split(e.unit, fraction) and (e.labelled or e.teacher is None))
    held = {e.unit for e in aside}
    kept = tuple(e for e in examples if e.unit not in held)
    if not kept:
        raise UserError(f"training.validation_fraction = {fraction} leaves none of {len(examples)} lists to train on")
    return Splits(kept, aside[:most])


def method_of(config: RunConfig) -> Method:
    """The configured method, its plug-ins built; `UserError` where it does not go with the model's settings."""
    m = config.method
    method = Method(_objective(m), SCORERS.build(m.scorer), m.length, m.reference, m.nll_weight)
    if config.model.dtype == "float16":
        raise UserError("model.dtype 'float16' overflows in training without loss scaling; choose bfloat16 or float32")
    if method.sampled and config.model.tuning == "lora" and config.model.lora.dropout:
        # Dropout would make the policy that draws another than the one that is differentiated.
        name = type(method.objective).__name__
        raise UserError(
            f"model.lora.dropout = {config.model.lora.dropout:g}; {name} draws from the policy: set it to 0"
        )
    return method


def _objective(m: MethodConfig) -> Objective:
    if m.objective is not None:
        return OBJECTIVES.build(m.objective)
    parts = [dict(spec) for spec in m.objectives]
    return Mixture(tuple((part.pop("weight", 1.0), OBJECTIVES.build(part)) for part in parts))


def require_trackers(config: RunConfig) -> None:
    """`UserError` for a tracker that is not installed, before anything is loaded."""
    others = [name for name in config.training.report_to if name not in TRACKERS or find_spec(name) is None]
    if not others:
        return
    from transformers.integrations import get_available_reporting_integrations  # takes seconds

    there = get_available_reporting_integrations()
    for name in others:
        if name not in there:
            raise UserError(f"training.report_to: {name!r} is not installed; there is {', '.join(there) or 'none'}")


def trackers_of(config: RunConfig) -> Trackers:
    """The configured trackers, which show every setting."""
    return Trackers(config.training.report_to, config.model_dump(mode="json"))


def require_optimizer(config: RunConfig) -> None:
    """`UserError` where the optimiser keeps its moments in a GPU's pages and there is no GPU."""
    if config.training.optimizer == "paged_adamw_8bit" and default_device().type != "cuda":
        raise UserError("training.optimizer 'paged_adamw_8bit' needs a GPU, and there is none here; set it to adamw")


def builder_of(config: RunConfig) -> PromptBuilder:
    """How the configured model is asked: its own tokenizer, the task's template where no other is named."""
    own = config.prompt
    # First the template: a broken one is found without what a tokenizer imports.
    name = own.template or str(config.task["name"])
    template = load_template(prompts_dir(), name, own.style, or_default=own.template is None)
    tokenizer = with_markup(load_tokenizer(tokenizer_name(config.model.name)), own.chat_template)
    return PromptBuilder(tokenizer, template, own.style, own.max_tokens, own.labels, own.attention)


def describe(parts: Parts) -> None:
    """Tell the user what will be trained on, and what about it makes the result worth less."""
    t, train, validation = parts.config.training, parts.train, parts.validation
    unused = parts.card.get("unused", 0)
    say(
        f"lists: {len(train)} to train on, {len(validation)} to validate on"
        + (f"; {unused} beyond training.max_lists or max_validation_lists" if unused else "")
    )
    cuts, most = parts.cuts, parts.config.prompt.max_tokens
    if cuts["prompts_cut"]:
        lost = cuts["candidate_tokens_cut"] + cuts["query_tokens_cut"]
        say(
            f"note: {cuts['prompts_cut']} of {cuts['prompts']} prompts are cut to fit, {lost} tokens in all; "
            f"prompt.max_tokens = {most}: raise it, as far as the model's positions and memory allow"
        )
    if len(train) < t.lists_per_update:
        say(f"note: {len(train)} training list(s), fewer than one update takes (training.lists_per_update)")
    if not validation:
        say(
            f"note: no list to validate on (training.validation_fraction = {t.validation_fraction:g}): nothing will "
            "say whether training helped, and the last update is kept"
            + ("; ranking.strength stays 1" if parts.config.ranking.strength == "auto" else "")
        )
    elif (units := len({p.example.unit for p in validation})) < FEW:
        grouped = f" in {units} group(s) that share nothing with each other" if units < len(validation) else ""
        say(f"note: {len(validation)} validation list(s){grouped}: a gain on so few is hard to tell from chance")
    if parts.method.objective.needs.reference:
        say(f"reference: {_REFERENCES[parts.method.reference]}")


_REFERENCES = {
    "adapters_off": "the model with its adapter off, at every update",
    "precomputed": "the model before training, once",
}


def policy_model(config: RunConfig) -> Any:
    """The model to train, with a fresh adapter or with all its weights trainable.

    Where `model.name` is a finished run, its adapter is merged into the base first: the run is then what "adapters off"
    means.
    """
    m = config.model
    options = replace(load_options(config, training=True), sharded=sharding.wanted())
    model = load_weights(m.name, options, merge=True)
    if note := check_model(model):
        say(note)
    without_dropout(model)
    if m.quantization == "nf4":
        say(f"4-bit: on, {four_bit_layers(model)} linear layers hold NF4 weights")
    if m.tuning == "lora":
        lora = LoraOptions(m.lora.r, m.lora.alpha, m.lora.dropout, m.lora.targets)
        model = add_lora(model, lora, seed=config.seed)
    else:
        model.requires_grad_(True)
    if m.gradient_checkpointing:
        use_checkpointing(model)
    learn, whole = trainable_parameters(model)
    attention = model.config.get_text_config()._attn_implementation
    say(f"model: {m.name}, {learn:,} of {whole:,} parameters learn, attention {attention}, on {model.device}")
    return model


def computes_mixed(config: RunConfig, model: Any) -> bool:
    """Whether float32 weights are computed in bfloat16 on a GPU: all of them in full tuning, else the adapter's.

    Float32 products of an adapter beside bfloat16 weights would take 1.2 times the traffic (`benchmarks/traffic.py`).
    """
    return model.device.type == "cuda" and (config.model.mixed or str(model.dtype) == "torch.bfloat16")
