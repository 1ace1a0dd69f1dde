"""The rounds of an on-policy run: each is drawn, trained, measured and saved whole, and a run goes on after the last.

A round is a training run of its own, with a fresh optimiser and schedule, from the weights of the round before. What
it draws and in which order it trains depends on the seed, the round's number and those weights alone: a run that was
killed between or within rounds ends as it would have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SaveStrategy

from irpo.config import RUN_CONFIG, OnlineConfig, RunConfig, to_yaml
from irpo.encoding import EncodedList
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.files import atomic_file
from irpo.generation import SAMPLERS
from irpo.method import Method
from irpo.models import ADAPTER, FULL
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
from irpo.training import ListTrainer, Loop, training_arguments
from irpo.types import RankingExample, UserError

STATE = "state.json"  # of a round's folder; written last: where it is, the round is whole
_KS = (1, 5, 10)

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
    folder = out / "rounds"
    questions = ask(job.builder, sorted(job.train, key=lambda e: e.id))
    states = finished(folder)
    if job.config.training.patience or job.config.training.updates:
        say("note: a round takes online.updates_per_round updates; training.updates and patience do not count")
    if states:
        restore(job.model, folder / f"{len(states) - 1:03d}")
        say(f"rounds 0 to {len(states) - 1} are done, going on")
    title = f"{job.options.name}: {job.config.method.title} on {job.config.task['name']}"
    for number in range(len(states), job.options.rounds + 1):
        states.append(_round(job, number, questions, folder))
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
    drawn = job.method.scorer.as_given or getattr(job.method.objective, "target_order", "") == "given"
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


def _round(job: Job, number: int, questions: Sequence[Question], folder: Path) -> dict[str, Any]:
    """Draw, train, measure, save. Round 0 only measures and saves the start."""
    home = folder / f"{number:03d}"
    shutil.rmtree(home, ignore_errors=True)  # what a killed process left of it
    home.mkdir(parents=True)
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
    save(job, home)
    with atomic_file(home / STATE) as file:
        file.write(json.dumps(state, indent=2) + "\n")
    return state


def _trainer(job: Job, now: Round, lists: list[EncodedList]) -> ListTrainer:
    training = job.config.training.model_copy(update={"updates": job.options.updates_per_round})
    seed = seed_of(job.config.seed, "training", now.number)
    mixed = job.config.model.mixed and job.model.device.type == "cuda"
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
    modes: Any = ("score",) if respond else ("score", "generate")
    options = EvaluationOptions(modes, _KS, seed=job.config.seed, length=job.method.length)
    found = evaluate(job.validation, job.builder, job.model, job.method.scorer, options).summary()
    rows = {row["name"]: row for row in found["rows"]}
    measures = {
        f"{mode} NDCG@{k}": rows[mode]["measures"][f"NDCG@{k}"]
        for mode in ("score", "generate strict")
        for k in _KS
        if mode in rows
    }
    if not respond:
        strict = rows["generate strict"]
        measures |= {"coverage": strict["coverage"], "exact permutations": strict["exact_permutations"]}
    if job.options.name == "larpo":
        measures |= passes(job.policy, ask(job.builder, job.validation))
    return {name: round(value, 6) for name, value in measures.items()}


def save(job: Job, home: Path) -> None:
    """The round as a run of its own; of fully trained models only the latest round keeps its weights."""
    full = job.config.model.tuning == "full"
    job.model.save_pretrained(str(home / (FULL if full else ADAPTER)), safe_serialization=True)
    (home / ADAPTER / "README.md").unlink(missing_ok=True)  # peft's empty card
    (home / RUN_CONFIG).write_text(to_yaml(job.config), encoding="utf-8")
    if full:
        job.builder.tokenizer.save_pretrained(str(home / FULL))
        before = home.parent / f"{int(home.name) - 2:03d}"  # the round before stays until this one is whole
        shutil.rmtree(before / FULL, ignore_errors=True)


def finished(folder: Path) -> list[dict[str, Any]]:
    """The states of the rounds that are whole, from 0 on."""
    states: list[dict[str, Any]] = []
    while (path := folder / f"{len(states):03d}" / STATE).is_file():
        states.append(json.loads(path.read_text(encoding="utf-8")))
    return states


def restore(model: Any, home: Path) -> None:
    """Put a round's weights into the model."""
    if (home / ADAPTER).is_dir():
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(home / ADAPTER), device=str(model.device)))
        return
    from transformers import AutoModelForCausalLM

    model.load_state_dict(AutoModelForCausalLM.from_pretrained(str(home / FULL), dtype=model.dtype).state_dict())


def _line(state: State) -> str:
    shown = ("generate strict NDCG@10", "score NDCG@10", "coverage", "mean_reward")
    measures = [f"{name} {state['measures'][name]:.3f}" for name in shown if name in state["measures"]]
    drawn = state["drawn"]
    kept = [f"{drawn['kept']} lists of {drawn['answers']} answers"] if "kept" in drawn else []
    return f"round {state['round']}: " + ", ".join([*measures, *kept])
