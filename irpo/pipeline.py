"""The jobs behind the commands: prepare, train, evaluate, rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from irpo.candidates import popularity
from irpo.chance import in_test_split
from irpo.config import RUN_CONFIG, EvaluationConfig, MethodConfig, RunConfig, config_hash, to_yaml
from irpo.encoding import EncodedList, encode
from irpo.evaluation import Evaluation, EvaluationOptions, Summary, write_results
from irpo.evaluation import evaluate as run_evaluation
from irpo.method import Method
from irpo.models import (
    ADAPTER,
    FULL,
    LoadOptions,
    LoraOptions,
    add_lora,
    four_bit_layers,
    load_tokenizer,
    resolve,
    trainable_parameters,
    without_dropout,
)
from irpo.objectives import OBJECTIVES, Objective
from irpo.objectives.mixture import Mixture
from irpo.online.rounds import Job, require_sound, run_rounds
from irpo.preparing import build
from irpo.progress import BEST, say
from irpo.prompting import PromptBuilder, cuts_of
from irpo.registry import Spec
from irpo.report import overview
from irpo.reranker import Ranked, Reranker, base_name, load_weights, prompt_builder, run_config
from irpo.resources import cache_dir
from irpo.scorers import SCORERS, check_model
from irpo.tasks import TASKS, relevant_from
from irpo.training import ListTrainer, Loop, require_optimizer, training_arguments
from irpo.types import RankingExample, Style, UserError

_REFERENCES = {
    "adapters_off": "the model with its adapter off, at every update",
    "precomputed": "the model before training, once",
}
CARD = "README.md"  # a run's model card, written last: where it is, the run is finished


@dataclass(frozen=True)
class Splits:
    """Training lists as a run uses them; validation lists are training lists set aside by a hash of their id."""

    train: tuple[RankingExample, ...]
    validation: tuple[RankingExample, ...]


def split_training(examples: Sequence[RankingExample], fraction: float, most: int) -> Splits:
    """Training and validation lists, `most` of the latter at most; the others of those set aside serve nobody.

    What is set aside does not depend on order, machine or seed; which `most` of it validate follows the given order.
    """
    aside = tuple(e for e in examples if in_test_split(e.unit, fraction))
    held = {e.id for e in aside}
    kept = tuple(e for e in examples if e.id not in held)
    if not kept:
        raise UserError(f"training.validation_fraction = {fraction} leaves none of {len(examples)} lists to train on")
    return Splits(kept, aside[:most])


def encode_examples(
    builder: PromptBuilder, examples: Sequence[RankingExample]
) -> tuple[list[EncodedList], dict[str, int]]:
    """Encoded lists with their labels, and what was cut to fit `prompt.max_tokens`."""
    prompts = [builder.build(example) for example in examples]
    pairs = zip(prompts, examples, strict=True)
    return [encode(builder.tokenizer, p, e.relevance, id=e.id) for p, e in pairs], cuts_of(prompts)


def method_of(config: RunConfig) -> Method:
    """The configured method, its plug-ins built."""
    m = config.method
    return Method(_objective(m), SCORERS.build(m.scorer), m.length, m.reference, m.nll_weight)


def _objective(m: MethodConfig) -> Objective:
    if m.objective is not None:
        return OBJECTIVES.build(m.objective)
    parts = [dict(spec) for spec in m.objectives]
    return Mixture(tuple((part.pop("weight", 1.0), OBJECTIVES.build(part)) for part in parts))


def policy_model(config: RunConfig) -> Any:
    """The model to train, with a fresh adapter or with all its weights trainable.

    Where `model.name` is a finished run, its adapter is merged into the base first: the run is then what "adapters off"
    means.
    """
    m = config.model
    if m.dtype == "float16":
        raise UserError("model.dtype 'float16' overflows in training without loss scaling; choose bfloat16 or float32")
    dtype = "float32" if m.mixed else m.dtype  # small updates vanish in bfloat16
    model = load_weights(m.name, LoadOptions(m.quantization, dtype, m.attention), merge=True)
    if note := check_model(model):
        say(note)
    without_dropout(model)
    if m.quantization == "nf4":
        say(f"4-bit: on, {four_bit_layers(model)} linear layers hold NF4 weights")
    if m.tuning == "lora":
        options = LoraOptions(m.lora.r, m.lora.alpha, m.lora.dropout, m.lora.targets)
        model = add_lora(model, options, seed=config.seed)
    else:
        model.requires_grad_(True)
    if m.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    learn, whole = trainable_parameters(model)
    attention = model.config.get_text_config()._attn_implementation
    say(f"model: {m.name}, {learn:,} of {whole:,} parameters learn, attention {attention}, on {model.device}")
    return model


def train(config: RunConfig, out: Path, *, resume: bool = False) -> dict[str, float]:
    """Fine-tune as configured; `out` gets config.yaml, the adapter (or model), log.jsonl and a model card.

    Nothing is written before data, model and method have been found sound. Returns the measures on validation lists.
    """
    config = _anchored(config)
    method = method_of(config)
    _require_no_chance(config, method)
    require_sound(config, method)
    _require_trackers(config)
    require_optimizer(config.training)
    checkpoint = _checkpoint(out, config, resume)
    if resume and (out / CARD).is_file():
        say(f"{out}: the run is finished; nothing is left to do")
        return {}
    lists, card = build(config.task, skip_bad_rows=config.skip_bad_rows)
    if "train" not in lists:
        raise UserError(f"task {config.task['name']!r}: the data hold no training split")
    _say_notes(card)
    if "eval" not in lists:
        say("note: the data hold no evaluation split; `irpo evaluate` will need one")
    splits = split_training(lists["train"], config.training.validation_fraction, config.training.max_validation_lists)
    tokenizer = load_tokenizer(base_name(config.model.name))
    template = config.prompt.template or str(config.task["name"])
    builder = prompt_builder(tokenizer, template, config.prompt.style, config.prompt.max_tokens)
    encoded, cuts = encode_examples(builder, splits.train)
    validation, _ = encode_examples(builder, splits.validation)
    method.require_labels(encoded, {example.id: example.where for example in splits.train})
    method.batch(encoded[:1], 0)  # a scorer that cannot lay these lists out says so before anything is loaded
    unused = len(lists["train"]) - len(encoded) - len(validation)
    say(
        f"lists: {len(encoded)} to train on, {len(validation)} to validate on, {cuts['prompts_cut']} prompts cut to fit"
        + (f"; {unused} set aside beyond training.max_validation_lists" if unused else "")
    )
    if method.objective.needs.reference:
        say(f"reference: {_REFERENCES[method.reference]}")
    model = policy_model(config)
    job = Job(config, model, builder, method, splits.train, splits.validation)
    if config.online is not None:
        metrics = _train_online(job, out)
    else:
        metrics = _train_offline(job, (encoded, validation), out, checkpoint)
    _save(model, tokenizer, out, config)
    (out / CARD).write_text(model_card(config, card | {"cuts": cuts}, metrics), encoding="utf-8")
    say(f"saved to {out}" + (f", validation {BEST} {metrics[f'eval_{BEST}']:.4f}" if metrics else ""))
    return metrics


def _require_no_chance(config: RunConfig, method: Method) -> None:
    """`UserError` where dropout would make the policy that draws another than the one that is differentiated."""
    if method.sampled and config.model.tuning == "lora" and config.model.lora.dropout:
        name = type(method.objective).__name__
        raise UserError(
            f"model.lora.dropout = {config.model.lora.dropout:g}; {name} draws from the policy: set it to 0"
        )


def _train_offline(
    job: Job, lists: tuple[list[EncodedList], list[EncodedList]], out: Path, checkpoint: str | None
) -> dict[str, float]:
    """One training run on the lists as they are."""
    config, validation = job.config, lists[1]
    mixed = config.model.mixed and job.model.device.type == "cuda"
    arguments = training_arguments(
        config.training, out, lists=len(lists[0]), validates=bool(validation), seed=config.seed, mixed=mixed
    )
    trainer = ListTrainer(
        model=job.model,
        tokenizer=job.builder.tokenizer,
        method=job.method,
        lists=lists,
        args=arguments,
        loop=Loop(config.training.tokens_per_batch, config.training.patience, cache_dir() / "reference"),
    )
    _write_config(out, config)
    if checkpoint is not None:
        say(f"going on from {Path(checkpoint).name}")
    trainer.go(checkpoint)
    if best := trainer.state.best_model_checkpoint:
        taken = f"update {best.rpartition('-')[2]} of {trainer.state.global_step}"
        say(f"kept: {taken}, the first with the best {BEST} on {len(validation)} validation lists")
    return trainer.measure() if validation else {}


def _train_online(job: Job, out: Path) -> dict[str, float]:
    """The rounds of `irpo.online`, on the same model, prompts and lists."""
    _write_config(out, job.config)
    return run_rounds(job, out, say)


def _say_notes(card: Mapping[str, Any]) -> None:
    for note in card["notes"]:
        say(f"note: {note}")


def _anchored(config: RunConfig) -> RunConfig:
    """The configuration with its data's whole path, so that the run can be evaluated from another folder."""
    data = config.task.get("data")
    if not isinstance(data, str) or not Path(data).exists():
        return config
    return config.model_copy(update={"task": {**config.task, "data": str(Path(data).absolute())}})


def _write_config(out: Path, config: RunConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / RUN_CONFIG).write_text(to_yaml(config), encoding="utf-8")


def _require_trackers(config: RunConfig) -> None:
    """`UserError` for a tracker that is not installed, before anything is loaded."""
    from transformers.integrations import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    for name in config.training.report_to:
        if name not in there:
            raise UserError(f"training.report_to: {name!r} is not installed; there is {', '.join(there) or 'none'}")


def _checkpoint(out: Path, config: RunConfig, resume: bool) -> str | None:
    """The checkpoint to go on from; `UserError` where the folder is another run's, or holds one and none was asked."""
    written = out / RUN_CONFIG
    if not written.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out}: the folder is not empty and holds no run; give a new one")
        return None
    if not resume:
        raise UserError(f"--out {out}: a run lies there; give a new folder, or --resume to go on with it")
    if written.read_text(encoding="utf-8") != to_yaml(config):
        raise UserError(f"--resume: the configuration differs from {written}; a run goes on as it began")
    # The Trainer writes its state last: a checkpoint without one is torn.
    whole = [path.parent for path in (out / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)


def _save(model: Any, tokenizer: Any, out: Path, config: RunConfig) -> None:
    folder = out / (ADAPTER if config.model.tuning == "lora" else FULL)
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; the run has its own
    tokenizer.save_pretrained(str(folder))


def model_card(config: RunConfig, card: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """README.md of a run: what it is, how to use it, and how it came about."""
    m = config.method
    learned = "a LoRA adapter" if config.model.tuning == "lora" else "all weights"
    measured = (
        [f"- validation {BEST}: {metrics[f'eval_{BEST}']:.4f} ({metrics['eval_lists']} lists)"] if metrics else []
    )
    notes = [f"- note: {note}" for note in card["notes"]]
    data = notes + [
        f"- {split}: {part['lists']} lists, sha256 {part['sha256'][:16]}" for split, part in card["splits"].items()
    ]
    cuts = card["cuts"]
    if cuts["prompts_cut"]:
        data.append(f"- cut to {config.prompt.max_tokens} tokens: {cuts['prompts_cut']} of {cuts['prompts']} prompts")
    if cuts["special_texts"]:
        data.append(f"- texts that spell special tokens of the model, kept apart by a blank: {cuts['special_texts']}")
    return "\n".join(
        [
            "---",
            "library_name: peft" if config.model.tuning == "lora" else "library_name: transformers",
            f"base_model: {resolve(base_name(config.model.name))[0]}",
            "tags: [irpo, reranker, listwise-ranking]",
            "---",
            f"# {m.title} on {config.task['name']}",
            "",
            f"A listwise reranker: {learned} for `{config.model.name}`, trained with `irpo` "
            f"(objective `{m.title}`, scorer `{m.scorer['name']}`, style `{config.prompt.style}`).",
            "",
            "```",
            'irpo rank --model FOLDER "query" "first document" "second document"',
            "```",
            "",
            "## Measures",
            *(measured or ["No validation lists were set aside; nothing was measured in training."]),
            "",
            "## Data",
            *data,
            "",
            "## Configuration",
            f"`{RUN_CONFIG}` holds every setting; its hash is `{config_hash(config)}`.",
            "",
        ]
    )


def evaluate(  # noqa: PLR0913 - what, on what, where to, and three things that are rarely given
    model: str,
    spec: Mapping[str, Any],
    out: Path,
    settings: EvaluationConfig,
    *,
    style: Style | None = None,
    like: str | None = None,
    skip_bad_rows: bool = False,
) -> Summary:
    """Measure a ranker on a task's evaluation lists and write the results; returns what results.json holds.

    `like` is a run whose prompt, scorer and loading a base model is to be given, so
    that the two are measured by one protocol.
    """
    own = run_config(like or model)
    if like is not None and (own is None or run_config(model) is not None):
        raise UserError(f"--like {like!r} lends a run's prompt and scorer to a base model; --model is {model!r}")
    lists, card = build(spec, skip_bad_rows=skip_bad_rows)
    if "eval" not in lists:
        where = "; the task jsonl reads it from eval.jsonl" if spec["name"] == "jsonl" else ""
        raise UserError(f"task {spec['name']!r}: the data hold no evaluation split{where}")
    _say_notes(card)
    ranker = Reranker.load(model, style=style, template=None if own else str(spec["name"]), like=own)
    about = {
        "model": model,
        "task": spec["name"],
        "lists_sha256": card["splits"]["eval"]["sha256"][:16],
    }
    examples = lists["eval"][: settings.max_lists]
    found = measure(ranker, examples, settings, task=spec, train=lists.get("train", ()))
    summary = write_results(out, replace(found, about=about))
    Console().print(overview(summary).table())
    say(f"written to {out}: report.md, results.json, per_query.jsonl, runs, qrels")
    return summary


def measure(
    ranker: Reranker,
    examples: Sequence[RankingExample],
    settings: EvaluationConfig,
    *,
    task: Mapping[str, Any],
    train: Sequence[RankingExample] = (),
) -> Evaluation:
    """A loaded ranker in the configured modes, with the baselines; the task says which labels count as relevant.

    `train` are the lists that popularity is counted in.
    """
    start = relevant_from(TASKS.build(task))
    options = EvaluationOptions(
        settings.modes, settings.measures, settings.lists_per_batch, length=ranker.length, relevant_from=start
    )
    if note := check_model(ranker.model):
        say(note)
    counts = popularity(train)
    return run_evaluation(examples, ranker.builder, ranker.model, ranker.scorer, options, popularity=counts)


def rank(model: str, query: str, documents: Sequence[str], mode: Spec, style: Style | None = None) -> list[Ranked]:
    """The documents for a query, best first."""
    return Reranker.load(model, style=style).rank(query, documents, mode)
