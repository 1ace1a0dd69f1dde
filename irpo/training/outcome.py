"""What came out of a run: whether training helped, in lines for the user and in the model card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.config.schema import RUN_CONFIG, RunConfig
from irpo.evaluation.significance import mean_interval
from irpo.progress import BEST, say
from irpo.ranking.choosing import Choice
from irpo.runs import base_name, card_end
from irpo.scoring.strength import named
from irpo.types import RankingExample

MEASURE = BEST.upper()
# Units below which no interval is told: chance makes five of them agree once in 16 times (2 / 2^5), and a "95 %"
# bootstrap of three covers the mean in 74 % of cases.
LEAST = 6


@dataclass(frozen=True)
class Outcome:
    """A measure's mean on validation lists, before the first update (None: it was not taken) and of what was kept."""

    lists: int
    after: float
    before: float | None = None
    gain: tuple[float, float] | None = None  # 95 % interval of the mean gain, lists that share something drawn together
    chosen: int = 1  # of how many validations on these lists the kept weights are the best
    groups: int | None = None  # of lists that share something, where they are fewer than the lists
    choice: Choice | None = None  # how the run ranks, where it does so by more than the policy's scores

    def __str__(self) -> str:
        choice = f" in {self.groups} group(s)" if self.groups is not None else ""
        choice += f", the best of {self.chosen} validations on them" if self.chosen > 1 else ""
        if self.before is None:
            return f"validation {MEASURE}: {self.after:.4f} on {self.lists} list(s){choice}"
        said = f"validation {MEASURE}: {self.before:.4f} before training, {self.after:.4f} after"
        change = f"{self.after - self.before:+.4f}"
        if self.gain is not None:
            change += f", 95 % interval {self.gain[0]:+.4f} to {self.gain[1]:+.4f}"
        return f"{said} ({change}) on {self.lists} list(s){choice}"

    @property
    def verdict(self) -> str:
        """One sentence on whether training helped."""
        if self.before is None:
            return ""
        if self.after == self.before:
            return "training changed nothing that these lists show"
        if self.gain is None or self.gain[0] <= 0 <= self.gain[1]:
            return "chance alone could make such a difference on so few lists"
        if self.after < self.before:
            return "training made it worse: try another learning rate, more lists or fewer updates"
        return ""


def outcome_of(
    before: Mapping[str, float] | None, after: Mapping[str, float], examples: Sequence[RankingExample], chosen: int = 1
) -> Outcome | None:
    """The outcome of a measure's values by list, None where there is no list."""
    if not after:
        return None
    mean = sum(after.values()) / len(after)
    units = {example.id: example.unit for example in examples}
    several = len(set(units.values()))
    groups = several if several < len(after) else None
    if before is None or before.keys() != after.keys():
        return Outcome(len(after), mean, chosen=chosen, groups=groups)
    gains = {id: after[id] - before[id] for id in after}
    interval = mean_interval(gains, units) if several >= LEAST else None
    return Outcome(len(after), mean, sum(before.values()) / len(before), interval, chosen, groups)


def tell(outcome: Outcome | None, choice: Choice | None) -> None:
    """Whether a run helped, and how it ranks."""
    if outcome is not None:
        say(str(outcome))
        if outcome.verdict:
            say(f"note: {outcome.verdict}")
    if choice is not None:
        say(str(choice))


def advise(out: Path, config: RunConfig, *, measurable: bool) -> None:
    """The last lines of a run: where it is saved, and what to do next."""
    say(f"saved to {out}")
    folder = shlex.quote(str(out))
    trust = " --trust-plugins" if config.plugins else ""  # which are the user's own, in a folder that says so
    if not measurable:
        say(f'next: irpo rank --model {folder}{trust} "query" "first document" "second document"')
        return
    say(f"next: irpo evaluate --model {folder}{trust} --out {folder}/evaluation   # on lists that no choice has seen")
    base = shlex.quote(base_name(config.model.name))
    alike = f"--model {base} --like {folder}{trust} --out {folder}/base"
    say(f"      irpo evaluate {alike}   # the untrained model, the same way")


def model_card(
    config: RunConfig,
    card: Mapping[str, Any],
    cuts: Mapping[str, int],
    outcome: Outcome | None,
    *,
    key: str,
    choice: Choice | None = None,
) -> str:
    """README.md of a run: what it is, how to use it, and how it came about."""
    m, base = config.method, base_name(config.model.name)
    learned = "a LoRA adapter" if config.model.tuning == "lora" else "all weights"
    data = [f"- note: {note}" for note in card["notes"]] + [
        f"- {split}: {part['lists']} lists, sha256 {part['sha256'][:16]}" for split, part in card["splits"].items()
    ]
    if cuts["prompts_cut"]:
        data.append(f"- cut to {config.prompt.max_tokens} tokens: {cuts['prompts_cut']} of {cuts['prompts']} prompts")
    if cuts["special_texts"]:
        data.append(f"- texts that spell special tokens of the model, kept apart by a blank: {cuts['special_texts']}")
    return "\n".join(
        [
            "---",
            "library_name: peft" if config.model.tuning == "lora" else "library_name: transformers",
            f"base_model: {base if Path(base).exists() else base.partition('@')[0]}",  # without its revision
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
            *_measures(outcome, choice),
            "",
            "## Data",
            *data,
            "",
            "## Configuration",
            f"`{RUN_CONFIG}` holds every setting; {card_end(key)}",
        ]
    )


def _measures(outcome: Outcome | None, choice: Choice | None) -> list[str]:
    """What the card says that came out."""
    told = [] if choice is None else [f"- {choice}", *_curve(choice)]
    if outcome is None:
        return ["No validation lists were set aside; nothing was measured in training.", *([""] if told else []), *told]
    return [f"- {line}" for line in (str(outcome), outcome.verdict) if line] + told


def _curve(choice: Choice) -> list[str]:
    """The grid that the strength was chosen from, as a table; nothing where it was given."""
    if len(choice.curve) < 2:
        return []
    header = ["strength", *map(named, choice.curve)]
    means = [choice.measure, *(f"{mean:.4f}" for mean in choice.curve.values())]
    return ["", *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), means))]
