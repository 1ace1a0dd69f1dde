"""Laws of the modes that ask about parts of a list: over every number of candidates, option and answer.

The inner mode is a stand-in that needs no model: it answers by a number that each text spells, or as an adversary does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from irpo.chance import random_order
from irpo.ranking.modes import RANKING_MODES, ParsedAnswer, RankedList, Ranker
from irpo.ranking.parts.asking import in_parts
from irpo.ranking.parts.tournament import tournament
from irpo.types import Candidate, Ranking, RankingExample, UserError

RANKER = Ranker(model=None, builder=None, scorer=None)  # nothing of it is asked but its seed
COUNTS = st.integers(1, 60)


@dataclass
class Answering:
    """An inner mode that answers at once; it remembers what it was asked."""

    order: Callable[[tuple[str, ...]], tuple[int, ...]]
    named: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None  # what an answer names of its order
    asked: list[list[tuple[str, ...]]] = field(default_factory=list)  # texts of the prompts of every call

    writes = False

    def __call__(self, ranker: Ranker, examples: list[RankingExample]) -> list[RankedList]:
        self.asked.append([e.texts for e in examples])
        found = []
        for example in examples:
            order = self.order(example.texts)
            answer = ParsedAnswer("", Ranking(self.named(order))) if self.named else None
            cut = tuple(int(text) + 100 // len(self.asked) for text in example.texts)  # ever less
            found.append(RankedList(example.id, Ranking(order), answer=answer, cut=cut, query_cut=1))
        return found

    @property
    def prompts(self) -> int:
        return sum(map(len, self.asked))


def truth(texts: tuple[str, ...]) -> tuple[int, ...]:
    """Always right: the lowest number first."""
    return tuple(sorted(range(len(texts)), key=lambda j: int(texts[j])))


def noise(seed: int) -> Callable[[tuple[str, ...]], tuple[int, ...]]:
    """Any permutation: of the worst first, of chance that even contradicts itself, of nothing done at all."""
    if seed == 0:
        return lambda texts: truth(texts)[::-1]
    if seed == 1:
        return lambda texts: tuple(range(len(texts)))
    return lambda texts: random_order(len(texts), seed, texts)


def example(count: int, key: int = 0, name: str = "q") -> RankingExample:
    """A list whose texts are 0, 1, ...: the best is 0; in a drawn order."""
    order = random_order(count, "texts", key)
    candidates = tuple(Candidate(f"id{n}", f"{n:03}", float(n == 0)) for n in order)
    if count > 1:
        return RankingExample(name, "a query", candidates)
    whole = RankingExample(name, "a query", (*candidates, Candidate("other", "x")))
    object.__setattr__(whole, "candidates", candidates)  # no example holds one candidate; a plan may
    return whole


def ranked(mode: Any, lists: list[RankingExample], inner: Answering, ranker: Ranker = RANKER) -> list[RankedList]:
    return in_parts(ranker, lists, inner, mode.start, mode.plan)


def texts_of(found: RankedList, of: RankingExample) -> list[str]:
    return [of.candidates[j].text for j in found.ranking.order]


@st.composite
def modes(draw: st.DrawFn, name: str | None = None) -> Any:
    """Any mode by parts, with any options."""
    name = name or draw(st.sampled_from(["window", "tournament", "setwise"]))
    size = draw(st.integers(2, 25))
    options = {
        "window": {"stride": st.integers(1, size), "passes": st.integers(1, 3)},
        "tournament": {"keep": st.integers(1, size // 2), "tournaments": st.integers(1, 3)},
        "setwise": {"k": st.integers(1, 70), "sort": st.sampled_from(["heap", "bubble"])},
    }[name]
    drawn = {option: draw(values) for option, values in options.items()}
    return RANKING_MODES.build(
        {"name": name, "size": size, "start": draw(st.sampled_from(["chance", "given"])), **drawn}
    )


@given(modes(), COUNTS, st.integers(0, 9))
def test_every_candidate_once_and_none_invented_whatever_is_answered(mode, count, answers):
    of, inner = example(count, answers), Answering(noise(answers))
    (found,) = ranked(mode, [of], inner)
    assert sorted(found.ranking.order) == list(range(count))
    assert found.prompts == inner.prompts
    assert all(2 <= len(part) <= mode.size and len(set(part)) == len(part) for call in inner.asked for part in call)
    assert {text for call in inner.asked for part in call for text in part} == set(of.texts if count > 1 else ()), (
        "shown"
    )


@given(modes(), st.lists(COUNTS, min_size=2, max_size=4), st.integers(0, 9))
def test_lists_go_together_and_none_changes_another(mode, counts, answers):
    lists, inner = [example(count, i, f"q{i}") for i, count in enumerate(counts)], Answering(noise(answers))
    together, steps = ranked(mode, lists, inner), []
    for of, found in zip(lists, together, strict=True):
        alone = Answering(noise(answers))
        assert ranked(mode, [of], alone) == [found]
        steps.append(len(alone.asked))
    assert len(inner.asked) == max(steps), "one call a step, of all lists that are not done"


@given(modes(), st.integers(2, 60), st.integers(0, 9), st.integers(0, 9))
def test_by_chance_the_order_of_the_input_cannot_matter(mode, count, order, answers):
    """Not even to a ranker that looks at nothing but positions: the same prompts are asked."""
    mode = replace(mode, start="chance")
    one, other = example(count, order), replace(example(count, order + 1), id="another")
    first, second = Answering(noise(answers)), Answering(noise(answers))
    found = [ranked(mode, [of], inner)[0] for of, inner in ((one, first), (other, second))]
    assert first.asked == second.asked
    assert texts_of(found[0], one) == texts_of(found[1], other)
    left = [{of.candidates[j].text for j in x.left} for of, x in zip((one, other), found, strict=True)]
    assert left[0] == left[1]


@given(modes(), st.integers(10, 40))
def test_another_seed_is_another_order_unless_it_is_given(mode, count):
    if hasattr(mode, "tournaments"):
        mode = replace(mode, tournaments=1)  # each further one is drawn
    for start in ("chance", "given"):
        shown = [Answering(truth), Answering(truth)]
        for seed, inner in enumerate(shown):
            ranked(replace(mode, start=start), [example(count)], inner, replace(RANKER, seed=seed))
        assert (shown[0].asked == shown[1].asked) == (start == "given")


@given(modes("window"), COUNTS)
def test_windows_carry_their_overlap_and_cost_what_they_say(mode, count):
    of, inner = example(count, 5), Answering(truth)
    (found,) = ranked(mode, [of], inner)
    a_pass = 1 if count <= mode.size else 1 + math.ceil((count - mode.size) / mode.stride)
    assert found.prompts == (mode.passes * a_pass if count > 1 else 0)
    right = count if count <= mode.size else min(count, mode.passes * (mode.size - mode.stride))
    assert texts_of(found, of)[:right] == [f"{n:03}" for n in range(right)]
    assert not found.left


@given(st.integers(2, 25), st.integers(1, 24), COUNTS)
def test_passes_enough_sort_the_whole_list(size, stride, count):
    stride = min(stride, size - 1)
    mode = RANKING_MODES.build(
        {"name": "window", "size": size, "stride": stride, "passes": math.ceil(60 / (size - stride))}
    )
    of = example(count, 2)
    assert texts_of(ranked(mode, [of], Answering(truth))[0], of) == [f"{n:03}" for n in range(count)]


def rounds_of(count: int, size: int, keep: int) -> int:
    """Prompts of one tournament: a group each, until one is left; a group of one asks nothing."""
    total = 0
    while count > size:
        groups = math.ceil(count / size)
        total += groups - (count // groups == 1) * (groups - count % groups)
        count = keep * groups
    return total + (count > 1)


@given(modes("tournament"), COUNTS)
def test_tournaments_find_the_best_and_cost_what_they_say(mode, count):
    of, inner = example(count, 7), Answering(truth)
    (found,) = ranked(mode, [of], inner)
    assert found.prompts == mode.tournaments * rounds_of(count, mode.size, mode.keep)
    right = count if count <= mode.size else min(count, mode.keep)
    assert texts_of(found, of)[:right] == [f"{n:03}" for n in range(right)]
    assert not found.left


def test_who_went_out_later_stands_before_and_of_one_round_by_place():
    mode = RANKING_MODES.build({"name": "tournament", "size": 4, "keep": 2, "start": "given"})
    order = (0, 1, 2, 3, 4, 5, 6, 7)
    of = RankingExample("q", "a query", tuple(Candidate(f"{n}", f"{n:03}") for n in order))
    (found,) = ranked(mode, [of], Answering(truth))
    # Dealt in turn, groups 0 2 4 6 and 1 3 5 7: 0 2 1 3 go on, 4 and 5 were third, 6 and 7 last.
    assert [set(found.ranking.order[a:b]) for a, b in ((4, 6), (6, 8))] == [{4, 5}, {6, 7}]
    assert found.ranking.order[:4] == (0, 1, 2, 3)
    assert (found.tied, found.prompts) == (True, 3)


@given(modes("setwise"), COUNTS, st.integers(0, 9))
def test_setwise_finds_the_top_k_and_says_who_was_not_sorted(mode, count, key):
    of, inner = example(count, key), Answering(truth)
    (found,) = ranked(mode, [of], inner)
    k = min(mode.k, count)
    assert texts_of(found, of)[:k] == [f"{n:03}" for n in range(k)]
    others = found.ranking.order[k:]
    assert found.left == (set(others) if len(others) > 1 else set())
    assert found.named.order == tuple(j for j in found.ranking.order if j not in found.left)
    if mode.start == "given":
        assert list(others) == sorted(others)
    children = mode.size - 1
    if mode.sort == "bubble":
        assert found.prompts == sum(math.ceil((count - rank - 1) / children) for rank in range(min(k, count - 1)))
    else:
        assert found.prompts <= heap_at_most(count, children, k)


def heap_at_most(count: int, children: int, k: int) -> int:
    """Each node sinks to the bottom: as many sets as it has levels below it; so does each new root."""

    def below(node: int, size: int) -> int:
        return 0 if children * node + 1 >= size else 1 + below(children * node + 1, size)

    build = sum(below(node, count) for node in range(count))
    return build + sum(below(0, count - taken) for taken in range(1, k))


@given(modes(), st.integers(2, 40))
def test_what_was_cut_of_a_candidate_is_the_most_of_any_prompt(mode, count):
    of, inner = example(count, 3), Answering(truth)
    (found,) = ranked(mode, [of], inner)
    first = {
        c.text: next(i for i, call in enumerate(inner.asked, 1) for p in call if c.text in p) for c in of.candidates
    }
    assert found.cut == tuple(int(c.text) + 100 // first[c.text] for c in of.candidates)
    assert found.query_cut == 1


@given(st.one_of(modes("tournament"), modes("setwise")), st.integers(2, 40), st.integers(0, 9))
def test_no_prompt_tells_what_was_answered_before(mode, count, answers):
    """Candidates stand in it as they stood at the start."""
    if hasattr(mode, "tournaments"):
        mode = replace(mode, tournaments=1)
    of, inner = example(count, answers), Answering(noise(answers))
    ranked(replace(mode, start="given"), [of], inner)
    at = {text: place for place, text in enumerate(of.texts)}
    assert all(list(part) == sorted(part, key=at.__getitem__) for call in inner.asked for part in call)


def test_what_the_last_answer_does_not_name_is_not_named():
    mode = RANKING_MODES.build({"name": "window", "size": 3, "stride": 2, "start": "given"})
    of = RankingExample("q", "a query", tuple(Candidate(f"{n}", f"{n:03}") for n in (4, 3, 2, 1, 0)))
    (found,) = ranked(mode, [of], Answering(truth, named=lambda order: order[:2]))
    # Windows 2 1 0 and 4 3 0: named 0, 1 and then 0, 3; 2 and 4 stand last in theirs by chance.
    assert texts_of(found, of) == ["000", "003", "004", "001", "002"]
    assert {of.candidates[j].text for j in found.left} == {"002", "004"}
    assert (found.answer, found.prompts) == (None, 2)


def test_what_a_later_answer_names_is_named():
    mode = RANKING_MODES.build({"name": "window", "size": 3, "passes": 2, "stride": 3})
    of, answers = example(3), iter([1, 3])
    (found,) = ranked(mode, [of], Answering(truth, named=lambda order: order[: next(answers)]))
    assert (texts_of(found, of), found.left) == (["000", "001", "002"], frozenset())


@given(st.integers(2, 30), st.integers(0, 9))
def test_several_tournaments_are_put_together_by_mean_rank(count, answers):
    """As scipy has it: those of equal standing share the mean of the ranks that they take together."""
    mode = RANKING_MODES.build({"name": "tournament", "size": 4, "keep": 2, "tournaments": 3})
    order = noise(answers)
    total = np.zeros(count)
    for drawn in range(3):
        start = random_order(count, "tournament", drawn, "key") if drawn else tuple(range(count))
        standing = played(tournament(start, 4, 2), order)
        classes = {place: number for number, equal in enumerate(standing) for place in equal}
        total += rankdata([classes[place] for place in range(count)], method="average")
    found = played(mode.plan(count, "key"), order)
    assert [total[place] for place in found.order] == sorted(total)
    assert found.tied == (len(set(total)) < count)


def played(plan: Any, order: Callable[[tuple[str, ...]], tuple[int, ...]]) -> Any:
    """What a plan ends in, every place's text its number."""
    answers = None
    while True:
        try:
            asked = plan.send(answers)
        except StopIteration as end:
            return end.value
        answers = [tuple(part[j] for j in order(tuple(map(str, part)))) for part in asked]


def test_equal_texts_are_no_hint_either():
    of = RankingExample("q", "a query", tuple(Candidate(str(n), "5") for n in range(30)))
    mode = RANKING_MODES.build({"name": "setwise", "k": 1})
    assert ranked(mode, [of], Answering(noise(1)))[0].ranking.order != tuple(range(30))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "window", "size": 1}, "ranking mode 'window': size is 1; give 2 or more"),
        ({"name": "window", "passes": 0}, "passes is 0; give 1 or more"),
        ({"name": "window", "stride": 0}, "stride is 0; give 1 or more"),
        ({"name": "window", "size": 5, "stride": 6}, "stride is 6 and size 5; a stride above the size"),
        ({"name": "tournament", "size": 5, "keep": 3}, "keep is 3 and size 5; give a keep of at most half"),
        ({"name": "tournament", "tournaments": 0}, "tournaments is 0; give 1 or more"),
        ({"name": "setwise", "k": 0}, "k is 0; give 1 or more"),
        ({"name": "setwise", "sort": "quick"}, "sort = 'quick'"),
        ({"name": "window", "start": "best"}, "start = 'best'"),
        ({"name": "window", "by": "guess"}, "unknown ranking mode 'guess'"),
        ({"name": "window", "by": {"name": "window", "size": 0}}, "size is 0"),
        ({"name": "window", "length": 5}, "unknown option 'length' of ranking mode 'window'"),
    ],
)
def test_options_that_cannot_be_are_one_line(spec, said):
    with pytest.raises(UserError, match=said) as found:
        RANKING_MODES.build(spec)
    assert "\n" not in str(found.value)
