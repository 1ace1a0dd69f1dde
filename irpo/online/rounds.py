"""The rounds of an on-policy run: each is drawn, trained, measured and saved whole, and a run goes on after the last.

A round is a training run of its own, with a fresh optimiser and schedule, from the weights of the round before. What
it draws and in which order it trains depends on the seed, the round's number and those weights alone: a run that was
killed between or within rounds ends as it would have (to the last bit on a CPU: a card adds up in an order of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irpo.config.schema import RUN_CONFIG, OnlineConfig, RunConfig
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.online import ON_POLICY, Account, Course, OnPolicy
from irpo.online.curves import State, write_curves
from irpo.online.policy import Policy, Round, as_answers
from irpo.online.questions import choose, seed_of
from irpo.processes import decided, is_first
from irpo.progress import BEST
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking import SAMPLERS, WholeSampler
from irpo.ranking.choosing import Choice
from irpo.runs import chooses, write_choice
from irpo.runs.rounds import finished_rounds, fresh_round, restore, round_folder, save_round
from irpo.scoring.strength import Strength
from irpo.scoring.tokens import EncodedList, PromptedList, prompted
from irpo.tasks import TASKS, relevant_from
from irpo.training.cost import Cost, Meter, write_cost
from irpo.training.curves import draw_log, title_of
from irpo.training.job import computes_mixed, trackers_of
from irpo.training.method import Method
from irpo.training.validation import Validation, choice_of
from irpo.types import Diverged, RankingExample, Style, TooFew, UserError

if TYPE_CHECKING:  # a run that cannot be is refused before the Trainer is imported
    from irpo.training.trainer import ListTrainer

_MEASURES = ("NDCG@1", "NDCG@5", "NDCG@10")


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
        return _online(self.config)

    @property
    def on_policy(self) -> OnPolicy:
        """How what the policy draws becomes lists."""
        return ON_POLICY.build(self.options.method)

    @property
    def policy(self) -> Policy:
        """The model as it is, and how answers are drawn from it."""
        return Policy(self.model, self.builder.tokenizer, self.options, self.config.seed)

    @cached_property
    def _aside(self) -> Validation:
        """The validation lists, whose reference is taken once for all rounds."""
        items = [asked.tokens for asked in prompted(self.builder, self.validation, labels=True)]
        return Validation(items, self.method.scorer, self.method.length, self.config.ranks)

    def choice(self) -> Choice:
        """How the model as it is ranks best, or as configured."""
        if not chooses(self.config):
            return Choice()
        look = self._aside.look(self.model, self.builder.tokenizer) if self.validation else None
        start = relevant_from(TASKS.build(self.config.task))
        return choice_of(look, self.config.ranks, self.validation, start)


def _online(config: RunConfig) -> OnlineConfig:
    if config.online is None:
        raise ValueError("the configuration has no section 'online'")
    return config.online


def run_rounds(job: Job, out: Path, say: Callable[[str], None]) -> dict[str, float]:
    """All rounds that are not done yet; leaves the model as the last one made it and returns its measures.

    `out` gets rounds/NNN (a usable run each, with its state), rounds.jsonl and curves.svg.
    """
    questions = prompted(job.builder, sorted(job.train, key=lambda e: e.id), labels=True)
    states = decided(lambda: finished_rounds(out))
    if job.config.training.patience or job.config.training.updates:
        say("note: a round takes online.updates_per_round updates; training.updates and patience do not count")
    if states:
        restore(job.model, round_folder(out, len(states) - 1))
        say(f"rounds 0 to {len(states) - 1} are done, going on")
    title = f"{job.options.method['name']}: {title_of(job.config)}"
    if states:  # the process that made the last of them may have died before it wrote these
        write_curves(out, states, title)
    for number in range(len(states), job.options.rounds + 1):
        states.append(_round(job, number, questions, out))
        if is_first():
            write_curves(out, states, title)
        say(_line(states[-1]))
    measures = states[-1]["measures"]
    if "score NDCG@10" not in measures:
        return {}
    return {f"eval_{BEST}": measures["score NDCG@10"], "eval_lists": len(job.validation)}


def require_sound(config: RunConfig, method: Method) -> None:
    """`UserError` where the method does not fit the rounds, before anything is loaded or drawn."""
    online, style = config.online, config.prompt.style
    if online is None:
        return
    on_policy, name = ON_POLICY.build(online.method), online.method["name"]
    _require_answers(online, on_policy.course, style)
    if on_policy.course.compares:
        _require_comparable(online, method)
    lora = config.model.lora if config.model.tuning == "lora" else None
    if on_policy.course.every_update and lora and lora.dropout:
        # The policy that draws would be another than the one that is differentiated.
        raise UserError(f"model.lora.dropout = {lora.dropout:g}; {name} draws from the policy: set it to 0")
    on_policy.require_sound(online, style, method)
    if online.draw == "constrained":
        _require_walks(online, on_policy.course, style, method)
    if getattr(SAMPLERS.build(online.sampler), "by_name", False):
        what = f"sampler {online.sampler['name']!r} loads the base model by name"
        if (Path(config.model.name) / RUN_CONFIG).is_file():
            raise UserError(f"{what}; model.name is a run, whose adapter was merged")
        if config.model.tuning != "lora":
            raise UserError(f"{what} and takes the policy as a LoRA adapter; set model.tuning to 'lora'")


def _require_answers(online: OnlineConfig, course: Course, style: Style) -> None:
    """`UserError` where prompts of this style are not answered as the method draws answers."""
    name = online.method["name"]
    if style == "pointwise":
        raise UserError(f"online.method {name!r} draws answers; prompt.style 'pointwise' asks for yes or no alone")
    if style == "response" and not course.compares:
        raise UserError(f"online.method {name!r} draws rankings; prompt.style 'response' has none: choose larpo")
    if style == "response" and online.max_response_tokens is None:
        raise UserError("prompt.style 'response': set online.max_response_tokens, the length of a drawn answer")


def _require_comparable(online: OnlineConfig, method: Method) -> None:
    """`UserError` where answers to a prompt cannot be the candidates of a list."""
    what = f"online.method {online.method['name']!r}"
    if online.samples < 2:
        raise UserError(f"{what} compares answers to one prompt; set online.samples to 2 or more")
    if method.reads_target:
        raise UserError(f"{what} has no target list: no nll_weight, no objective that reads it")
    if method.objective.needs.teacher:
        raise UserError(f"{what} draws answers that no teacher has scored: choose an objective that learns from labels")
    try:
        method.lay_out([as_answers(EncodedList("", (1,), (), (), (), ()), [(1, 1), (1, 2)], [1.0, 0.0])])
    except UserError as error:
        raise UserError(f"{what} scores whole answers: set method.scorer=independent ({error})") from None


def _require_walks(online: OnlineConfig, course: Course, style: Style, method: Method) -> None:
    """`UserError` where answers cannot be drawn along walks, or cannot be scored by their choices."""
    what = "online.draw 'constrained'"
    if style == "response":
        raise UserError(
            f"{what} draws permutations of the candidates; prompt.style 'response' has none: set it to free"
        )
    if not course.constrains:
        raise UserError(f"{what}: online.method {online.method['name']!r} trains on free answers; set it to free")
    if not isinstance(SAMPLERS.build(online.sampler), WholeSampler):
        raise UserError(
            f"{what}: sampler {online.sampler['name']!r} draws free answers; set online.sampler=transformers"
        )
    if online.max_response_tokens is not None:
        raise UserError(f"{what} draws whole answers; online.max_response_tokens, which cuts them, must be null")
    if method.length != "sum":
        raise UserError(f"{what} follows the probability of a walk's choices: method.length is sum")
    toy = EncodedList("", (1,), ((1,),) * 2, ((1, 2), (1, 3)), (4,), (1.0, 0.0), (((1, (2, 3)),), ()))
    if not method.scorer.layout(toy).among:
        raise UserError(f"{what}: scorer {type(method.scorer).__name__} does not score the choices of a walk")


def asked(questions: Sequence[PromptedList], on_policy: OnPolicy, config: RunConfig, number: int) -> list[PromptedList]:
    """A round's questions, by the seed and its number; where none is said, as many as its updates take lists from."""
    online, course = _online(config), on_policy.course
    lists = online.updates_per_round * config.training.lists_per_update
    each = 1 if course.compares else online.samples
    count = min(len(questions), online.prompts_per_round or -(-lists // each))
    # Earlier rounds' answers can compete only where the same prompts are asked again.
    return choose(questions, count, config.seed, "round", number if course.earlier == 0 else 0)


def _round(job: Job, number: int, questions: Sequence[PromptedList], out: Path) -> dict[str, Any]:
    """Draw, train, measure, save. Round 0 only measures and saves the start."""
    home = fresh_round(out, number)
    lists: list[EncodedList] = []
    account: Account = {}
    cost = Cost()
    if number:
        drawing = Meter()
        now = Round(number, tuple(asked(questions, job.on_policy, job.config, number)), home)
        lists, account = _drawn(job, now)
        cost = drawing.spent()
        trainer = _trainer(job, now, lists)
        try:
            trainer.train()
        except Diverged as error:
            raise Diverged(f"round {number}, {error}", {"round": number, **error.found}) from None
        cost += trainer.meter.spent()
        if is_first():
            draw_log(home, f"round {number} of {title_of(job.config)}")
    write_cost(home, cost)
    choice = job.choice()
    write_choice(home, job.config, choice.as_dict())
    state = {"round": number, "lists": len(lists), "drawn": account, "measures": measure(job, choice.strength)}
    save_round(home, job.config, job.model, job.builder.tokenizer, state)
    return state


def _drawn(job: Job, now: Round) -> tuple[list[EncodedList], Account]:
    """The lists of a round; of a method that draws at every update, the questions themselves."""
    if job.on_policy.course.every_update:
        return [question.tokens for question in now.questions], {"prompts": len(now.questions)}
    lists, account = job.on_policy.lists(job.policy, now)
    if len(lists) < job.options.min_valid:
        raise TooFew(_too_few(len(lists), account, job.options, now.number))
    job.method.require_labels(lists)
    return lists, account


def _trainer(job: Job, now: Round, lists: list[EncodedList]) -> ListTrainer:
    from transformers.trainer_utils import SaveStrategy

    from irpo.online.drawing import DrawingTrainer
    from irpo.training.arguments import Loop, training_arguments
    from irpo.training.trainer import ListTrainer

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
    common |= {
        "lists": (lists, ()),
        "args": arguments,
        "loop": Loop(training.tokens_per_batch, trackers=trackers_of(job.config)),
    }
    if job.on_policy.course.every_update:
        return DrawingTrainer(on_policy=job.on_policy, policy=job.policy, now=now, **common)
    return ListTrainer(**common)


def _too_few(count: int, account: Account, options: OnlineConfig, number: int) -> str:
    dropped = ", ".join(f"{n} x {why}" for why, n in account.get("dropped", {}).items()) or "none"
    return (
        f"round {number}: {count} lists of {account.get('answers', count)} drawn answers, online.min_valid is "
        f"{options.min_valid} (dropped: {dropped}); begin with a model that writes complete answers (SFT first), lower "
        f"online.temperature, or draw more, in a new --out (model.name may be the round before)"
    )


def measure(job: Job, strength: Strength) -> dict[str, float]:
    """The policy on the validation lists, by the protocol of every evaluation; {} where there are none."""
    if not job.validation:
        return {}
    job.model.eval()
    respond = job.builder.style == "response"
    modes = ("score",) if respond else ("score", "generate")
    options = EvaluationOptions(modes, _MEASURES, seed=job.config.seed, length=job.method.length, strength=strength)
    found = evaluate(job.validation, job.builder, job.model, job.method.scorer, options).summary
    rows = (found.row("score"), found.row("generate", "strict"))
    measures = {f"{row.name} {name}": value for row in rows if row for name, value in row.measures.items()}
    if strict := found.row("generate", "strict"):
        answers = strict.answers
        measures |= {"coverage": answers.coverage, "exact permutations": answers.exact_permutations}
    measures |= job.on_policy.measures(job.policy, prompted(job.builder, job.validation, labels=True))
    return {name: round(value, 6) for name, value in measures.items()}


def _line(state: State) -> str:
    shown = ("generate strict NDCG@10", "score NDCG@10", "coverage", "mean_reward")
    measures = [f"{name} {state['measures'][name]:.3f}" for name in shown if name in state["measures"]]
    drawn = state["drawn"]
    kept = [f"{drawn['kept']} lists of {drawn['answers']} answers"] if "kept" in drawn else []
    return f"round {state['round']}: " + ", ".join([*measures, *kept])
