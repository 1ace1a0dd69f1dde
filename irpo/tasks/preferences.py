"""Response-ranking data: a prompt and responses to it with scores (UltraFeedback), or a chosen and a rejected one.

A row may be any of

- `{"instruction" | "prompt", "completions" | "responses": [{"response" | "text" | "content", "overall_score" |
  "score"}, ...]}`: a text or a list of messages each, scores in the responses' objects
- the same with `"responses": [text, ...]` and `"scores": [number, ...]` of equal length
- `{"prompt", "chosen", "rejected"}`, texts or lists of messages; a prompt may be left out where both are lists of
  messages, or transcripts ("Human: ... Assistant: ..." as in hh-rlhf), that begin alike. `score_chosen` and
  `score_rejected` are not read: the pair is the label
- `{"prompt", "answers": [{"answer", "rank"}, ...]}`, rank 1 the best (Nectar)
- `{"context", "response1", "response2", "overall_preference"}`, the preference below 0 for the first (HelpSteer3)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from irpo.chance import Chance, fingerprint, in_test_split
from irpo.rows import Row, need, shown
from irpo.tasks import TASKS, Collected, Elsewhere, Intake, Refused, Release
from irpo.types import Candidate, RankingExample, UserError

Labels = Literal["rank", "difference", "best"]

_PROMPTS = ("prompt", "instruction", "question", "input", "context")
_RESPONSES = ("responses", "completions", "generations", "answers")
_TEXTS = ("response", "text", "content", "completion", "answer")
_SCORES = ("overall_score", "score", "rating")
_PARALLEL = ("scores", "ratings", "rating")


def labels_from_scores(scores: Sequence[float], how: Labels) -> list[float]:
    """Labels >= 0 from scores of any scale; only comparisons within the list are kept, never the scale.

    `rank`: the number of different lower scores; `difference`: the score minus the lowest; `best`: 1 for the highest.
    Where all scores are the same every label is 0.

    >>> labels_from_scores([7.5, 2.0, 7.5, 5.0], "rank")
    [2.0, 0.0, 2.0, 1.0]
    """
    steps = sorted(set(scores))
    if how == "rank":
        return [float(steps.index(score)) for score in scores]
    if how == "difference":
        return [float(score - steps[0]) for score in scores]
    return [float(len(steps) > 1 and score == steps[-1]) for score in scores]


@TASKS.register("preferences")
@dataclass(frozen=True)
class Preferences:
    """Responses ranked by their scores, or a chosen one above a rejected one; for `prompt.style: response`.

    Labels as `labels` says (see `labels_from_scores`): chosen 1, rejected 0. Candidates are shuffled by (seed, id), for
    rows often hold the best first. A row whose responses are all alike, or all scored alike, is counted and left out.
    Where the data hold no evaluation split, `eval_fraction` of the prompts are set aside, by a hash of them.
    """

    data: str
    labels: Labels = "rank"
    eval_fraction: float = 0.05
    seed: int = 0
    hub: str = "openbmb/UltraFeedback"
    hub_config: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"eval_fraction is {self.eval_fraction}; it is a share of the rows, from 0 to below 1")

    def build(self, intake: Intake) -> Mapping[str, Collected[RankingExample]]:
        """See `irpo.tasks.Task`."""
        release = Release(eval_names=("test", "dev"), prefer="prefs", hub=self.hub, hub_config=self.hub_config)
        found = intake.splits(self.data, release)
        if "eval" in found or "train" not in found or not self.eval_fraction:
            return {split: intake.collect(split, rows, self._example) for split, rows in found.items()}
        # The rows are gone through once for each part, and accounted for by the training part alone.
        aside = Intake(skip_bad_rows=True).collect("eval", found["train"], self._set_aside)
        if next(iter(aside), None) is None:
            return {"train": intake.collect("train", found["train"], self._example)}
        intake.note(
            f"no evaluation split in the data: {self.eval_fraction:g} of the prompts set aside, by a hash of the prompt"
        )
        return {"train": intake.collect("train", found["train"], self._kept), "eval": aside}

    def _set_aside(self, row: Row) -> RankingExample:
        return self._of_part(row, aside=True)

    def _kept(self, row: Row) -> RankingExample:
        return self._of_part(row, aside=False)

    def _of_part(self, row: Row, *, aside: bool) -> RankingExample:
        example = self._example(row)
        # A salt: the validation lists of a run are chosen by the hash of the bare id.
        if in_test_split(f"evaluation/{example.unit}", self.eval_fraction) != aside:
            raise Elsewhere
        return example

    def _example(self, row: Row) -> RankingExample:
        prompt, responses, scores = parse_row(row.value)
        kept: dict[str, float] = {}
        for text, score in zip(responses, scores, strict=True):
            if text:
                kept.setdefault(text, score)
        if len(kept) < 2:
            raise Refused("fewer than two different responses")
        labels = labels_from_scores(list(kept.values()), self.labels)
        if not any(labels):
            raise Refused("all responses have the same score")
        id = _id(row.value, prompt, list(kept))
        candidates = [Candidate(str(n), text, y, "data") for n, (text, y) in enumerate(zip(kept, labels, strict=True))]
        mixed = Chance("order", self.seed, id).shuffled(candidates)
        return RankingExample(id, prompt, tuple(mixed), group=fingerprint(prompt))


def parse_row(value: Mapping[str, Any]) -> tuple[str, list[str], list[float]]:
    """(prompt, responses, scores) of a row in any of the forms above; `UserError` says what it lacks."""
    if "chosen" in value and "rejected" in value:
        prompt, chosen, rejected = _pair(value)
        return prompt, [chosen, rejected], [1.0, 0.0]
    if "overall_preference" in value:
        second = _number(value["overall_preference"], "overall_preference")
        return _prompt(value), [_reply(need(value, f"response{n}", (str, list))) for n in (1, 2)], [0.0, second]
    key = next((key for key in _RESPONSES if key in value), None)
    if key is None:
        raise UserError(f"the row has neither 'chosen' and 'rejected' nor one of {', '.join(_RESPONSES)}")
    prompt, found = _prompt(value), need(value, key, list)
    if all(isinstance(item, str) for item in found):
        name = next((name for name in _PARALLEL if name in value), "scores")
        scores = need(value, name, list)
        if len(scores) != len(found):
            raise UserError(f"{name!r} has {len(scores)} numbers for {len(found)} {key}")
        return prompt, [text.strip() for text in found], [_number(score, name) for score in scores]
    return prompt, *_scored(found, key)


def _scored(found: Sequence[Any], key: str) -> tuple[list[str], list[float]]:
    """Texts and scores of responses that are objects."""
    texts, scores = [], []
    for n, item in enumerate(found, start=1):
        if not isinstance(item, dict):
            raise UserError(f"{key!r}: item {n} is {shown(item)}; it must be an object with a text and a score")
        text = next((name for name in _TEXTS if name in item), _TEXTS[0])
        score = next((name for name in (*_SCORES, "rank") if name in item), _SCORES[1])
        sign = -1 if score == "rank" else 1  # the first is the best
        try:
            texts.append(_reply(need(item, text, (str, list))))
            scores.append(sign * _number(need(item, score, (int, float, str)), score))
        except UserError as error:
            raise UserError(f"{key!r}: item {n}: {error}") from None
    return texts, scores


def _number(value: object, name: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise UserError(f"{name!r} is {shown(value)}; it must be a finite number")
    return number


def _pair(value: Mapping[str, Any]) -> tuple[str, str, str]:
    """Prompt, chosen and rejected; where there is no prompt, the messages that both begin with."""
    chosen, rejected = need(value, "chosen", (str, list)), need(value, "rejected", (str, list))
    if any(name in value for name in _PROMPTS):
        return _prompt(value), _reply(chosen), _reply(rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = _transcript(chosen), _transcript(rejected)
        if chosen[:-1] != rejected[:-1] and chosen and rejected:
            raise Refused("the conversations differ before their last turn")
    if isinstance(chosen, str) or isinstance(rejected, str) or not chosen or not rejected:
        raise UserError(f"the row has no prompt (one of {', '.join(_PROMPTS)})")
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise UserError("the row has no prompt, and 'chosen' and 'rejected' do not begin with the same messages")
    return _conversation(chosen[:-1]), _reply(chosen), _reply(rejected)


def _prompt(value: Mapping[str, Any]) -> str:
    name = next((name for name in _PROMPTS if name in value), _PROMPTS[0])
    found = need(value, name, (str, list))
    if isinstance(found, str) and found.rstrip().endswith("\n\nAssistant:"):
        found = _transcript(found)[:-1] or found
    prompt = found.strip() if isinstance(found, str) else _conversation(found)
    if not prompt:
        raise UserError(f"{name!r} is empty; it must hold the prompt")
    return prompt


def _reply(found: str | Sequence[Any]) -> str:
    """A response: a text, or the last message of a list."""
    if isinstance(found, str):
        return found.strip()
    if not found:
        raise UserError("a response is an empty list of messages")
    return _message(found[-1])[1].strip()


def _transcript(text: str) -> list[dict[str, str]]:
    """The messages of "Human: ... Assistant: ..."; none where a text is no such transcript.

    >>> _transcript("\\n\\nHuman: Hi.\\n\\nAssistant: Hello.")
    [{'role': 'user', 'content': 'Hi.'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    before, *parts = re.split(r"(?:\A|\n\n)\s*(Human|Assistant):", text)
    if before.strip() or parts[:1] != ["Human"] or parts[-2] != "Assistant":
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _conversation(messages: Sequence[Any]) -> str:
    """The one user turn as it is; a longer conversation with the role before each turn."""
    turns = [_message(message) for message in messages]
    if len(turns) == 1:
        return turns[0][1].strip()
    return "\n\n".join(f"{role}: {content.strip()}" for role, content in turns)


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise UserError(f"a message is {shown(message)}; it must be an object with 'role' and 'content'")
    return need(message, "role", str, "user"), need(message, "content", str)


def _id(value: Mapping[str, Any], prompt: str, responses: list[str]) -> str:
    """`prompt#row`, the same on every machine."""
    own = next((value[key] for key in ("id", "prompt_id") if isinstance(value.get(key), str) and value[key]), "")
    return f"{fingerprint(prompt)}#{fingerprint(chr(0).join([own, *sorted(responses)]))}"
