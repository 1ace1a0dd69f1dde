"""The rounds of an on-policy run: each is drawn, trained, measured and saved whole, and a run goes on after the last.

A round is a training run of its own, with a fresh optimiser and schedule, from the weights of the round before. What
it draws and in which order it trains depends on the seed, the round's number and those weights alone: a run that was
killed between or within rounds ends as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SaveStrategy

from irpo.config import RUN_CONFIG, OnlineConfig, RunConfig
from irpo.encoding import EncodedList
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.generation import SAMPLERS
from irpo.jobs import computes_mixed
from irpo.method import Method
from irpo.objectives.policy_gradient import Reinforce
from irpo.online.curves import State, write_curves
from irpo.online.drawing import (
    Account,
    DrawingTrainer,
    Policy,
    Round,
    asked_lists,
    iterative_lists,
    larpo_lists,
    passes,
    questions_of,
)
from irpo.online.questions import Question, ask, seed_of
from irpo.online.rewards import REWARDS, Labels
from irpo.progress import BEST
from irpo.prompting import PromptBuilder
from irpo.runs import finished_rounds, fresh_round, restore, round_folder, save_round
from irpo.training import ListTrainer, Loop, training_arguments
from irpo.types import RankingExample, UserError

_MEASURES = ("NDCG@1", "NDCG@5", "NDCG@10")

LISTS: dict[str, Callable[[Policy, Round], tuple[list[EncodedList], Account]]] = {
    "iterative": iterative_lists,
    "reinforce": asked_lists,
    "larpo": larpo_lists,
}


@dataclass(frozen=True)
class Job:
    """What a run of rounds works with: the configuration, the model to train, and lists to train and validate on."""

    config: RunConfig
    model: Any
    builder: PromptBuilder
    method: Method
    train: Sequence[RankingExample]
    validation: Sequence[RankingExample]

    @property
    def options(self) -> OnlineConfig:
        """The section `online` of the configuration."""
        if self.config.online is None:
            raise ValueError("the configuration has no section 'online'")
        return self.config.online

    @property
    def policy(self) -> Policy:
        """The model as it is, and how answers are drawn from it."""
        return Policy(self.model, self.builder.tokenizer, self.options, self.config.seed)


def run_rounds(job: Job, out: Path, say: Callable[[str], None]) -> dict[str, float]:
    """All rounds that are not done yet; leaves the model as the last one made it and returns its measures.

    `out` gets rounds/NNN (a usable run each, with its state), rounds.jsonl and curves.png.
    """
    questions = ask(job.builder, sorted(job.train, key=lambda e: e.id))
    states = finished_rounds(out)
    if job.config.training.patience or job.config.training.updates:
        say("note: a round takes online.updates_per_round updates; training.updates and patience do not count")
    if states:
        restore(job.model, round_folder(out, len(states) - 1))
        say(f"rounds 0 to {len(states) - 1} are done, going on")
    title = f"{job.options.name}: {job.config.method.title} on {job.config.task['name']}"
    for number in range(len(states), job.options.rounds + 1):
        states.append(_round(job, number, questions, out))
        write_curves(out, states, title)
        say(_line(states[-1]))
    measures = states[-1]["measures"]
    if "score NDCG@10" not in measures:
        return {}
    return {f"eval_{BEST}": measures["score NDCG@10"], "eval_lists": len(job.validation)}


def require_sound(job: Job) -> None:
    """`UserError` where the method does not fit the rounds, before anything is drawn."""
    options, style = job.options, job.builder.style
    scorer = job.config.method.scorer["name"]
    if style == "response" and options.name == "iterative":
        raise UserError("online.name 'iterative' draws rankings; prompt.style 'response' has none: choose larpo")
    if style == "response" and options.max_response_tokens is None:
        raise UserError("prompt.style 'response': set online.max_response_tokens, the length of a drawn answer")
    if options.name != "iterative" and scorer != "independent":
        raise UserError(
            f"online.name {options.name!r} scores whole answers: method.scorer is independent, not {scorer!r}"
        )
    if options.name == "reinforce" and not isinstance(job.method.objective, Reinforce):
        raise UserError(
            "online.name 'reinforce' takes method.objective=reinforce; other objectives compare answers: larpo"
        )
    if options.name == "reinforce" and job.method.length != "sum":
        raise UserError("online.name 'reinforce' follows the probability of whole answers: method.length is sum")
    if options.name != "iterative" and job.method.reads_target:
        raise UserError(f"online.name {options.name!r} has no target list: no nll_weight, no objective that reads it")
    drawn = (
        job.config.method.scorer.get("order") == "given" or getattr(job.method.objective, "target_order", "") == "given"
    )
    if options.name == "iterative" and not drawn:
        raise UserError(
            "online.name 'iterative' trains on the drawn order: method.scorer={name: list, order: given}, or an "
            "objective with target_order: given"
        )
    SAMPLERS.build(options.sampler)
    reward = REWARDS.build(options.reward)
    if style == "response" and isinstance(reward, Labels):
        raise UserError(
            "online.reward 'labels' judges rankings, and prompt.style 'response' draws free answers; choose "
            "{name: model, model: ...} or {name: python, function: module:function}"
        )
    if options.sampler["name"] == "vllm" and (Path(job.config.model.name) / RUN_CONFIG).is_file():
        raise UserError("sampler 'vllm' loads the base model by name; model.name is a run, whose adapter was merged")


def _round(job: Job, number: int, questions: Sequence[Question], out: Path) -> dict[str, Any]:
    """Draw, train, measure, save. Round 0 only measures and saves the start."""
    home = fresh_round(out, number)
    account: Account = {}
    if number:
        # Earlier rounds' answers can compete only where the same prompts are asked again.
        again = job.options.name == "larpo" and job.options.memory != "current"
        key = (job.config.seed, "round", 0 if again else number)
        now = Round(number, questions_of(questions, job.options, job.config.training, *key), home)
        lists, account = LISTS[job.options.name](job.policy, now)
        if len(lists) < (1 if job.options.name == "reinforce" else job.options.min_valid):
            raise UserError(_too_few(len(lists), account, job.options, number))
        if job.options.name == "larpo":
            job.method.require_labels(lists)
        _trainer(job, now, lists).train()
    state = {"round": number, "lists": len(lists) if number else 0, "drawn": account, "measures": measure(job)}
    save_round(home, job.config, job.model, job.builder.tokenizer, state)
    return state


def _trainer(job: Job, now: Round, lists: list[EncodedList]) -> ListTrainer:
    training = job.config.training.model_copy(update={"updates": job.options.updates_per_round})
    seed = seed_of(job.config.seed, "training", now.number)
    mixed = computes_mixed(job.config, job.model)
    arguments = training_arguments(training, now.folder, lists=len(lists), validates=False, seed=seed, mixed=mixed)
    arguments.save_strategy = SaveStrategy.NO  # a round is whole or not there
    method = job.method
    if method.reference != "none":
        kind = "adapters_off" if job.options.reference == "first" else "precomputed"
        method = replace(method, reference=kind)  # type: ignore[arg-type]
    common: dict[str, Any] = {"model": job.model, "tokenizer": job.builder.tokenizer, "method": method}
    common |= {"lists": (lists, ()), "args": arguments, "loop": Loop(training.tokens_per_batch)}
    if job.options.name == "reinforce":
        return DrawingTrainer(policy=job.policy, questions=now.questions, key=(now.number,), **common)
    return ListTrainer(**common)


def _too_few(count: int, account: Account, options: OnlineConfig, number: int) -> str:
    dropped = ", ".join(f"{n} x {why}" for why, n in account.get("dropped", {}).items()) or "none"
    return (
        f"round {number}: {count} lists of {account.get('answers', count)} drawn answers, online.min_valid is "
        f"{options.min_valid} (dropped: {dropped}); begin with a model that writes complete answers (SFT first), lower "
        f"online.temperature, or draw more, in a new --out (model.name may be the round before)"
    )


def measure(job: Job) -> dict[str, float]:
    """The policy on the validation lists, by the protocol of every evaluation; {} where there are none."""
    if not job.validation:
        return {}
    job.model.eval()
    respond = job.builder.style == "response"
    modes = ("score",) if respond else ("score", "generate")
    options = EvaluationOptions(modes, _MEASURES, seed=job.config.seed, length=job.method.length)
    found = evaluate(job.validation, job.builder, job.model, job.method.scorer, options).summary
    rows = (found.row("score"), found.row("generate", "strict"))
    measures = {f"{row.name} {name}": value for row in rows if row for name, value in row.measures.items()}
    if strict := found.row("generate", "strict"):
        answers = strict.answers
        measures |= {"coverage": answers.coverage, "exact permutations": answers.exact_permutations}
    if job.options.name == "larpo":
        measures |= passes(job.policy, ask(job.builder, job.validation))
    return {name: round(value, 6) for name, value in measures.items()}


def _line(state: State) -> str:
    shown = ("generate strict NDCG@10", "score NDCG@10", "coverage", "mean_reward")
    measures = [f"{name} {state['measures'][name]:.3f}" for name in shown if name in state["measures"]]
    drawn = state["drawn"]
    kept = [f"{drawn['kept']} lists of {drawn['answers']} answers"] if "kept" in drawn else []
    return f"round {state['round']}: " + ", ".join([*measures, *kept])
