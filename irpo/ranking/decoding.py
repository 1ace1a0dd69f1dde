"""Batched decoding with `transformers`: greedy, sampled, and along the walks that are permutations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList

from irpo.chance import key_of, number_of
from irpo.prompting.prompts import positions
from irpo.ranking.feeding import Fed
from irpo.ranking.guided import Pick, follow, most_likely
from irpo.ranking.walk import Walk
from irpo.scoring.head import soft_cap
from irpo.scoring.strength import PLAIN, Strength, Way
from irpo.scoring.tokens import EncodedList
from irpo.scoring.whole import one_row, sequence_states
from irpo.types import Ranking

_OPENING = 32  # tokens of a sentence before the list
# Tokens of prompts and answers that are decoded together where no number of lists is given. A step of decoding takes a
# GPU as long for 64 rows as for 8; what bounds it there is the cache, at Llama-3.2-3B's 112 KiB a token 7 GiB.
TOKENS_TOGETHER = {"cuda": 65_536, "cpu": 16_384}

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `samples` a list, at a temperature > 0, from the seed and the list's id alone.

    At another `strength` than 1 from the distribution that the mixed log-probabilities make when normalised anew.
    """

    temperature: float = 1.0
    samples: int = 1
    seed: int = 0
    strength: Strength = PLAIN

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.samples < 1:
            raise ValueError(f"sampling needs a temperature > 0 and at least one sample: {self}")

    def seeds(self, items: Sequence[EncodedList]) -> list[int]:
        """The seed of each answer's own random state: the samples of the first list, then those of the next."""
        numbers = range(self.samples)
        return [number_of(key_of(self.seed, item.id, number), octets=7) for item in items for number in numbers]


@dataclass(frozen=True)
class Drawn:
    """One drawn answer: its tokens, the end of the turn included where it was reached, and its text."""

    tokens: tuple[int, ...]
    text: str


def answer_tokens(item: EncodedList) -> int:
    """Length of a complete answer in tokens, end of turn included; the same for every order."""
    return sum(map(len, item.heads)) + sum(map(len, item.bodies)) + len(item.tail)


def answer_limit(item: EncodedList, config: Any = None) -> int:
    """Tokens that a free answer may have: a complete one's, half as many again for what is said beside, an opening.

    Within the positions of a model (its `config`), as far as a complete answer is.
    """
    complete = answer_tokens(item)
    limit = complete + complete // 2 + _OPENING
    most = None if config is None else positions(config)
    return limit if most is None else max(complete, min(limit, most - len(item.prompt)))


def generate_text(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    *,
    lists_per_batch: int | None = None,
    max_new_tokens: int | None = None,
    strength: Strength = PLAIN,
) -> list[str]:
    """The model's most likely next tokens (greedy) for each prompt, as text, in the given order.

    An answer stops at the end of its turn or at its limit (`answer_limit`, or `max_new_tokens` where given); it does
    not depend on the batch that it is in. `UserError` at strength `reward`, which knows no language.
    """
    how = _Writing(lists_per_batch, max_new_tokens, strength)
    return [answer.text for answer in _answers(model, tokenizer, items, how)]


def sample_text(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    sampling: Sampling,
    *,
    lists_per_batch: int | None = None,
    max_new_tokens: int | None = None,
) -> list[list[str]]:
    """The texts of `sample_answers`."""
    found = sample_answers(
        model, tokenizer, items, sampling, lists_per_batch=lists_per_batch, max_new_tokens=max_new_tokens
    )
    return [[answer.text for answer in answers] for answers in found]


def sample_answers(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    sampling: Sampling,
    *,
    lists_per_batch: int | None = None,
    max_new_tokens: int | None = None,
) -> list[list[Drawn]]:
    """`sampling.samples` answers to each prompt, drawn from softmax(logits / temperature), in the given order.

    Every answer has its own random state, made from (seed, list id, number of the sample): neither the batch nor what
    was drawn before changes it, and no global random state is read or moved. A batch holds `lists_per_batch` answers.
    `UserError` at strength `reward`.
    """
    repeated = [item for item in items for _ in range(sampling.samples)]
    noise = (sampling.temperature, sampling.seeds(items))
    how = _Writing(lists_per_batch, max_new_tokens, sampling.strength, noise)
    found = _answers(model, tokenizer, repeated, how)
    return [found[i : i + sampling.samples] for i in range(0, len(found), sampling.samples)]


def constrained_ranking(
    model: Any,
    tokenizer: Any,
    items: Sequence[EncodedList],
    *,
    lists_per_batch: int | None = None,
    strength: Strength = PLAIN,
) -> list[Ranking]:
    """The greedy answer among the complete ones: a permutation of each list's candidates, always.

    Works in every prompt style and at every strength, which is taken at each decision. Of candidates with the same
    tokens the first is named first. Ends as soon as one candidate is left; a token that is forced costs no decision
    (`irpo.ranking.guided`).
    """
    return [Ranking(order) for order in whole_orders(model, items, lists_per_batch, strength)]


def whole_orders(
    model: Any,
    items: Sequence[EncodedList],
    lists_per_batch: int | None,
    strength: Strength,
    picks: Callable[[Sequence[int]], Pick] = lambda _: most_likely,
) -> list[tuple[int, ...]]:
    """The orders in which walks place the candidates; `picks` says what the walks of a batch, by index, choose by."""

    def decode(runner: Any, chosen: Sequence[int]) -> list[tuple[int, ...]]:
        walks = [Walk(items[i]) for i in chosen]
        follow(runner, [items[i] for i in chosen], walks, strength, picks(chosen))
        return [walk.order for walk in walks]

    return _in_batches(model, items, lists_per_batch, decode)


@dataclass(frozen=True)
class _Writing:
    """How free answers are written; `noise` is the temperature and a seed an answer, None: the likeliest token."""

    lists_per_batch: int | None
    max_new_tokens: int | None
    strength: Strength
    noise: tuple[float, list[int]] | None = None


def _answers(model: Any, tokenizer: Any, items: Sequence[EncodedList], how: _Writing) -> list[Drawn]:
    stop = sorted({item.end for item in items} | _ends(tokenizer, model))
    config, most = _inner(model).config, how.max_new_tokens
    limits = [answer_limit(item, config) if most is None else most for item in items]
    how.strength.require_writing()
    policy, *reference = how.strength.ways(model)

    def decode(runner: Any, chosen: Sequence[int]) -> list[Drawn]:
        settings = _settings(tokenizer, max(limits[i] for i in chosen), stop)
        prompts = Fed.of([items[i] for i in chosen], runner, settings)
        steps: list[LogitsProcessor] = [_Mixed(runner, way, how.strength, prompts) for way in reference]
        if how.noise is not None:
            steps.append(_Gumbel(how.noise[0], [how.noise[1][i] for i in chosen]))
        with policy():
            rows = _run(runner, prompts, settings, steps)
        return [as_drawn(tokenizer, row[: limits[i]], stop) for i, row in zip(chosen, rows, strict=True)]

    return _in_batches(model, items, how.lists_per_batch, decode)


def as_drawn(tokenizer: Any, tokens: Sequence[int], stop: Sequence[int]) -> Drawn:
    """An answer up to the first token that ends it; that token is no part of the text."""
    end = next((at for at, token in enumerate(tokens) if token in stop), len(tokens))
    text = tokenizer.decode(list(tokens[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Drawn(tuple(tokens[: end + 1]), text)


def _ends(tokenizer: Any, model: Any) -> set[int]:
    return ends_of(tokenizer, _inner(model).generation_config)


def ends_of(tokenizer: Any, generation: Any) -> set[int]:
    """The tokens at which the tokenizer and a model's own generation settings stop."""
    own = getattr(generation, "eos_token_id", None)
    given = [tokenizer.eos_token_id, *(own if isinstance(own, (list, tuple)) else [own])]
    return {int(token) for token in given if token is not None}


def in_batches(
    items: Sequence[EncodedList], device: torch.device | str, lists_per_batch: int | None = None
) -> list[list[int]]:
    """Indices of lists that are decoded together: those of like length, the longest first.

    Without a number of lists, as many as `TOKENS_TOGETHER` holds, each counted at its batch's longest.
    """
    sizes = [len(item.prompt) + answer_tokens(item) for item in items]
    by_size = sorted(range(len(items)), key=lambda i: -sizes[i])
    room = TOKENS_TOGETHER.get(torch.device(device).type, TOKENS_TOGETHER["cpu"])
    batches: list[list[int]] = []
    while by_size:
        most = max(1, lists_per_batch or room // sizes[by_size[0]])
        batches.append(by_size[:most])
        by_size = by_size[most:]
    return batches


def _in_batches(
    model: Any,
    items: Sequence[EncodedList],
    lists_per_batch: int | None,
    decode: Callable[[Any, Sequence[int]], list[T]],
) -> list[T]:
    """`decode(runner, indices)` over batches of like length, the longest first; results in the order of `items`."""
    found: dict[int, T] = {}
    with torch.no_grad(), _runner(model) as runner:
        for chosen in in_batches(items, runner.device, lists_per_batch):
            found.update(zip(chosen, decode(runner, chosen), strict=True))
    return [found[i] for i in range(len(items))]


def _inner(model: Any) -> Any:
    """The causal LM inside a PEFT wrapper; adapters live in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _runner(model: Any) -> Iterator[Any]:
    """The model in eval mode, by another handle whose generation settings are blank.

    A hub model brings its own settings (temperature, repetition penalty, maximum length), which `generate` merges into
    ours. A shallow copy shares every weight and leaves the model's own settings alone.
    """
    inner = _inner(model)
    training = [module for module in inner.modules() if module.training]
    inner.eval()
    runner = object.__new__(type(inner))  # not copy.copy, which a sharded model's class does not bear
    vars(runner).update(vars(inner))
    runner.generation_config = GenerationConfig()
    try:
        yield runner
    finally:
        for module in training:
            module.training = True


def _settings(tokenizer: Any, max_new_tokens: int, stop: Sequence[int]) -> GenerationConfig:
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=list(stop),
        pad_token_id=0 if pad is None else pad,
    )


def _run(model: Any, prompts: Fed, settings: GenerationConfig, steps: Sequence[LogitsProcessor]) -> list[list[int]]:
    """The new tokens of each prompt. A prompt that stands there several times goes through the model once."""
    grown = model.generate(
        input_ids=prompts.ids,
        attention_mask=prompts.mask,
        generation_config=settings,
        logits_processor=LogitsProcessorList(steps),
        past_key_values=prompts.prefilled(model),
        synced_gpus=False,  # who shares a model goes in `irpo.scoring.sharding.lockstep`
        **({"position_ids": prompts.positions} if prompts.items[0].blocks else {}),
    )
    rows: list[list[int]] = grown[:, prompts.ids.shape[1] :].tolist()
    return rows


class _Mixed(LogitsProcessor):
    """The policy's log-probabilities with the reference's, which goes through the same text with a cache of its own."""

    def __init__(self, model: Any, way: Way, strength: Strength, prompts: Fed) -> None:
        self.model, self.way, self.strength, self.prompts = model, way, strength, prompts
        self.mask, self.positions = prompts.mask, prompts.positions
        self.cache: DynamicCache | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with self.way():
            states = self._cached(input_ids) if one_row(self.model) else self._whole(input_ids)
            logits = self.model.get_output_embeddings()(states).float()
        reference = soft_cap(logits, self.model.config.get_text_config()).log_softmax(-1)
        return self.strength.of([scores.log_softmax(-1), reference])

    def _cached(self, ids: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.prompts.prefilled(self.model) or DynamicCache(config=self.model.config)
        else:
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
            self.positions = torch.cat([self.positions, self.positions[:, -1:] + 1], 1)
        fed = self.cache.get_seq_length()
        states: Tensor = self.model.get_decoder()(
            input_ids=ids[:, fed:],
            attention_mask=self.mask,
            position_ids=self.positions[:, fed:],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, -1]

    def _whole(self, ids: Tensor) -> Tensor:
        width = self.mask.shape[1]
        texts = [[*item.prompt, *row[width:]] for item, row in zip(self.prompts.items, ids.tolist(), strict=True)]
        return sequence_states(self.model, texts, [[len(text) - 1] for text in texts])


class _Gumbel(LogitsProcessor):
    """Adds Gumbel noise to logits / temperature, so that the argmax is a draw from the softmax (Gumbel 1954)."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.seeds = seeds
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores / self.temperature - noise.log()
