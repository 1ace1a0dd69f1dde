"""The jobs behind the commands: train, evaluate, rank."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo import disk, runs, stopping
from irpo.config.schema import EvaluationConfig, RunConfig
from irpo.evaluation import Evaluation, EvaluationOptions, Summary, write_results
from irpo.evaluation import evaluate as run_evaluation
from irpo.evaluation.going import GOING, ranked_so_far
from irpo.evaluation.report import overview
from irpo.evaluation.writing import bytes_of_results, require_free
from irpo.online.rounds import Job, require_sound, run_rounds
from irpo.processes import decided, first_of_all, is_first
from irpo.progress import BEST, say
from irpo.ranking.choosing import Choice, choice_of_run, spelt
from irpo.ranking.documents import DocumentLike
from irpo.ranking.engines import Engine
from irpo.ranking.modes import RANKING_MODES, at_rankers_strength
from irpo.ranking.reranker import Ranked, Reranker, notes_on
from irpo.registry import Spec
from irpo.resources import cache_dir
from irpo.runs import run_config
from irpo.runs.checkpoints import last_whole
from irpo.runs.key import Settings, contents, run_key
from irpo.runs.rankers import is_ranker, model_behind, ranker_config
from irpo.runs.rounds import finished_rounds, round_folder
from irpo.runs.standing import standing
from irpo.scorers import check_model
from irpo.scoring import sharding
from irpo.scoring.strength import StrengthBy
from irpo.tasks import TASKS, measures_of, relevant_from
from irpo.tasks.mining import popularity
from irpo.tasks.preparing import build
from irpo.training.cost import total_cost, write_cost
from irpo.training.curves import draw_log, title_of
from irpo.training.job import Built, Parts, computes_mixed, describe, method_of, policy_model, prepare_job, trackers_of
from irpo.training.outcome import Outcome, advise, model_card, outcome_of, tell
from irpo.training.storing import accounted, learnt_bytes, require_disk, tell_divergence
from irpo.training.validation import choice_of
from irpo.types import RankingExample, Style, UserError

if TYPE_CHECKING:  # what is wrong with data, template or folder is said before the Trainer is imported
    from irpo.training.trainer import ListTrainer


def train(
    config: RunConfig, out: Path, *, resume: bool = False, advises: bool = True, built: Built | None = None
) -> Outcome | None:
    """Fine-tune as configured; `out` becomes a run's folder (`irpo.runs`). Returns what validation lists say of it.

    Nothing is written before data, model and method have been found sound; one process at a time writes there. At its
    end it `advises` what to do next. `built` are the task's lists where they have been built already.
    """
    config = runs.anchored(config)
    told = partial(standing, out, online=config.online is not None)
    with runs.claimed(out), stopping.telling(told):
        if decided(partial(_is_done, out, config, resume=resume)):
            say(f"{out}: the run is finished; nothing is left to do")
            return None
        require_sound(config, method_of(config))
        with nullcontext() if config.training.shuffle_buffer else first_of_all():  # a stream is surveyed by the first
            parts = prepare_job(config, built)
        describe(parts)
        with accounted(out):
            outcome = fit(parts, out)
    if advises:
        advise(out, config, measurable="eval" in parts.card["splits"])
    return outcome


def _is_done(out: Path, config: RunConfig, *, resume: bool) -> bool:
    """Whether the run is there as it would be made; `UserError` where it cannot be made there."""
    runs.require_place(out, config, resume=resume)
    return resume and runs.is_finished(out, config) and _has_chosen(out, config)


def _has_chosen(out: Path, config: RunConfig) -> bool:
    """Whether the run's choice of a strength can be read, where it makes one."""
    try:
        choice_of_run(out, config)
    except UserError:
        return False
    return True


def fit(parts: Parts, out: Path) -> Outcome | None:
    """Train a prepared job from where its folder stands, and write what came of it; the model card last."""
    config, card = parts.config, parts.card
    held = contents(config, parts.builder.template.source, card["splits"]["train"]["sha256"])
    decided(partial(_require_goes_on, parts, out, held))
    tell_divergence(out)
    with first_of_all():
        model = policy_model(config)
    decided(partial(require_disk, config, model, len(parts.builder.tokenizer), out, _saves(parts)))
    if sharding.wanted():
        model = sharding.shard(model)
    if config.online is None:
        runs.begin(out, config, held, card)
        outcome, choice = _fit_offline(parts, model, out)
    else:
        job = Job(config, model, parts.builder, parts.method, *parts.examples)
        runs.begin(out, config, held, card)
        outcome, choice = _fit_online(job, out)
    told = choice if runs.chooses(config) else None
    if outcome is not None:
        outcome = replace(outcome, choice=told)
    runs.write_choice(out, config, choice.as_dict())
    with disk.taking(partial(learnt_bytes, model)):
        runs.save_model(model, parts.builder.tokenizer, out, tuning=config.model.tuning)
    runs.write_card(out, model_card(config, card, parts.cuts, outcome, key=run_key(config, held), choice=told))
    tell(outcome, told)
    return outcome


def _saves(parts: Parts) -> int:
    """How many checkpoints, or rounds, a run writes."""
    from irpo.training.arguments import every_of, updates_of

    config = parts.config
    if config.online is not None:
        return config.online.rounds + 1
    updates = updates_of(config.training, len(parts.train))
    return -(-updates // every_of(config.training, updates))


def _require_goes_on(parts: Parts, out: Path, held: Settings) -> None:
    """`UserError` where the folder's run was another one, or a longer one."""
    runs.require_same(out, held)
    _require_no_fewer_updates(parts, out)


def _require_no_fewer_updates(parts: Parts, out: Path) -> None:
    """`UserError` where the folder's run was to take more updates: how many its epochs were, only the lists say."""
    from irpo.training.arguments import updates_of

    old = run_config(out)
    if old is None or parts.config.online is not None:
        return
    was, now = (updates_of(c.training, len(parts.train)) for c in (old, parts.config))
    if now < was:
        raise UserError(f"--resume: training.updates is {now} and the run was to take {was}; it may grow, not shrink")


def trainer_of(parts: Parts, model: Any, out: Path) -> ListTrainer:
    """The loop of an offline run in its folder."""
    from irpo.training.arguments import Loop, training_arguments
    from irpo.training.logbook import Drawn
    from irpo.training.trainer import ListTrainer

    config, t = parts.config, parts.config.training
    arguments = training_arguments(
        t,
        out,
        lists=len(parts.train),
        validates=bool(parts.validation),
        seed=config.seed,
        mixed=computes_mixed(config, model),
    )
    loop = Loop(t.tokens_per_batch, t.patience, cache_dir() / "reference", config.ranks, trackers_of(config))
    trainer = ListTrainer(
        model=model,
        tokenizer=parts.builder.tokenizer,
        method=parts.method,
        lists=parts.lists,
        args=arguments,
        loop=loop,
    )
    trainer.add_callback(Drawn(out, title_of(config)))
    return trainer


def _fit_offline(parts: Parts, model: Any, out: Path) -> tuple[Outcome | None, Choice]:
    """One training run on the lists as they are; its strength is chosen on what it kept."""
    trainer = trainer_of(parts, model, out)
    checkpoint = decided(lambda: last_whole(out / runs.CHECKPOINTS))
    if checkpoint is not None:
        say(f"going on from {checkpoint.name}")
    trainer.go(checkpoint)
    if is_first():
        draw_log(out, title_of(parts.config))
    write_cost(out, trainer.meter.read())
    examples = [p.example for p in parts.validation]
    if best := trainer.state.best_model_checkpoint:
        taken = f"update {best.rpartition('-')[2]} of {trainer.state.global_step}"
        say(f"kept: {taken}, the first with the best {BEST} on {len(examples)} validation lists")
    look = trainer.look() if examples else None
    choice = choice_of(look, parts.config.ranks, examples, relevant_from(TASKS.build(parts.config.task)))
    found = outcome_of(trainer.before, look.values if look else {}, examples, trainer.validations)
    return found, choice


def _fit_online(job: Job, out: Path) -> tuple[Outcome | None, Choice]:
    """The rounds of `irpo.online`, on the same model, prompts and lists."""
    metrics = run_rounds(job, out, say)
    write_cost(out, total_cost(round_folder(out, number) for number in range(job.options.rounds + 1)))
    choice = choice_of_run(round_folder(out, job.options.rounds), job.config)
    if not metrics:
        return None, choice
    start = finished_rounds(out)[0]["measures"]["score NDCG@10"]
    return Outcome(len(job.validation), metrics[f"eval_{BEST}"], start), choice


def evaluate(  # noqa: PLR0913 - what, on what, where to, and what is rarely given
    model: str,
    spec: Mapping[str, Any],
    out: Path,
    settings: EvaluationConfig,
    *,
    style: Style | None = None,
    strength: float | None = None,
    strength_by: StrengthBy | None = None,
    like: str | None = None,
    max_tokens: int | None = None,
    skip_bad_rows: bool = False,
    engine: Spec = "transformers",
) -> Summary:
    """Measure a ranker on a task's evaluation lists and write the results; returns what results.json holds.

    `model` may be a ranker's configuration. `like` is a run, or such a configuration, whose prompt, scorer and loading
    a base model is to be given, so that the two are measured by one protocol.
    """
    lent = ranker_config(like or model)
    if like is not None and (lent is None or ranker_config(model) is not None):
        raise UserError(
            f"--like {like!r} lends the prompt and scorer of a run, or of a ranker's configuration, to a base model; "
            f"--model is {model!r}"
        )
    require_free(out)
    lists, card = build(spec, skip_bad_rows=skip_bad_rows)
    if "eval" not in lists:
        where = "; the task jsonl reads it from eval.jsonl" if spec["name"] == "jsonl" else ""
        raise UserError(f"task {spec['name']!r}: the data hold no evaluation split{where}")
    for note in card["notes"]:
        say(f"note: {note}")
    examples = lists["eval"][: settings.max_lists]
    if note := disk.near(out, bytes_of_results(examples, len(settings.modes), len(settings.measures)), "the results"):
        say(note)
    ranker = Reranker.load(
        model,
        style=style,
        template=None if lent and lent.prompt.template else str(spec["name"]),
        max_tokens=max_tokens,
        strength=strength,
        strength_by=strength_by,
        like=lent,
        engine=engine,
    )
    about = {
        "model": model_behind(model),
        **({"ranker": model} if is_ranker(model) else {}),
        "task": spec["name"],
        "lists_sha256": card["splits"]["eval"]["sha256"][:16],
    }
    with stopping.telling(partial(ranked_so_far, out / GOING)):
        found = measure(ranker, examples, settings, task=spec, train=lists.get("train", ()), going=out / GOING)
        summary = write_results(out, replace(found, about=about))
    if is_first():
        shutil.rmtree(out / GOING, ignore_errors=True)
    overview(summary).show()
    say(f"written to {out}: report.md, results.json, per_query.jsonl, runs, qrels")
    return summary


def measure(
    ranker: Reranker,
    examples: Sequence[RankingExample],
    settings: EvaluationConfig,
    *,
    task: Mapping[str, Any],
    train: Sequence[RankingExample] = (),
    going: Path | None = None,
) -> Evaluation:
    """A loaded ranker in the configured modes, with the baselines; the task says which labels count as relevant.

    `train` are the lists that popularity is counted in; `going` is a folder to keep what is ranked in until all is.
    """
    built = TASKS.build(task)
    start = relevant_from(built)
    options = EvaluationOptions(
        settings.modes,
        tuple(dict.fromkeys([*settings.measures, *measures_of(built)])),
        settings.lists_per_batch,
        length=ranker.length,
        relevant_from=start,
        strength=ranker.strength,
        kept=ranker.kept,
        going=going,
    )
    if not isinstance(ranker.model, Engine) and (note := check_model(ranker.model)):
        say(note)
    counts = popularity(train, start)
    return run_evaluation(examples, ranker.builder, ranker.model, ranker.scorer, options, popularity=counts)


def rank(model: str, query: str, documents: Sequence[DocumentLike], mode: Spec, **loaded: Any) -> list[Ranked]:
    """The documents for a query, best first; tells at which strength, and what was cut or stands there by chance.

    `loaded` are options of `Reranker.load`.
    """
    ranker, chosen = Reranker.load(model, **loaded), RANKING_MODES.build(mode)
    rows = ranker.rank(query, documents, chosen)
    if not ranker.strength.plain and at_rankers_strength(RANKING_MODES.described(chosen)):
        say(f"note: ranked at strength {spelt(ranker.strength)}")
    for note in notes_on(rows, ranker.builder.max_tokens):
        say(f"note: {note}")
    return rows
