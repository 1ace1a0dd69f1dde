"""The one sentence that says what was found: made from corrected tests of the main measure, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from irpo.compare.statistics.rankers import Compared
from irpo.compare.statistics.saying import chance, joined, plural
from irpo.compare.statistics.tables import main_of
from irpo.compare.statistics.tested import Tested
from irpo.compare.writing.wording import number

_LISTED = 6  # clauses of one kind that a sentence can hold
_WORDS = {"+": "above", "-": "below"}
_FEW = 2  # of a model on a task: so many are told one by one


def found(compared: Compared, tests: Sequence[Tested]) -> str:
    """What the tests show, at the last of the suite's strengths: as its runs would be used."""
    mains = {task.name: main_of(compared, task) for task in compared.frame.tasks}
    last = compared.frame.strengths[-1]
    told = [x for x in tests if x.measure == mains[x.task] and last in x.ranker.shown.split(" = ")]
    if not told:
        return "No two methods were tested against each other."
    untrained = [x for x in told if x.other.kind == "untrained"]
    others = [x for x in told if x.other.kind != "untrained"]
    places = dict.fromkeys((x.task, x.ranker.model) for x in others)
    if len(places) <= _FEW:
        clauses = [clause for place in places for clause in _place(compared, place, others)]
    else:
        clauses = _counted(others)
        clauses[0] = f"over {plural(len(places), 'pair')} of model and task {clauses[0]}"
    clauses += _over_untrained(untrained)
    several = any(x.ranker.shown == last for x in told) and compared.frame.strengths[1:]
    told_of = [f"at strength {last}"] if several else []
    if all(x.seeds == 1 for x in told):
        told_of.insert(0, "with one seed alone")
    when = f"{', '.join(told_of)}: ".capitalize() if told_of else ""
    text = "; ".join(clauses)
    return f"{when}{text if when else text[0].upper() + text[1:]}."


def _values(x: Tested) -> str:
    return f"{number(x.values[0])} against {number(x.values[1])}, {chance('q', x.test.q)}"


def _place(compared: Compared, place: tuple[str, str], tests: Sequence[Tested]) -> list[str]:
    """The clauses of a model on a task: who stands above and below whom, and of whom nothing was shown."""
    own = [x for x in tests if (x.task, x.ranker.model) == place]
    task, model = place
    where = f"on {task}" + (f" with {model}" if len(compared.frame.models) > 1 else "")
    clauses = []
    for star, word in _WORDS.items():
        shown = sorted((x for x in own if x.test.star == star), key=lambda x: -abs(x.test.difference))
        for x in shown[:_LISTED]:
            clauses.append(f"{x.ranker.method} stands {word} {x.other.method} ({_values(x)})")
        if shown[_LISTED:]:
            clauses.append(f"{len(shown) - _LISTED} more tests show a method {word} another")
    if nothing := _pairs([x for x in own if not x.test.star]):
        clauses.append(f"no difference in {own[0].measure} shown for {nothing}")
    return [f"{where} {clauses[0]}", *clauses[1:]]


def _counted(tests: Sequence[Tested]) -> list[str]:
    """The clauses of many models and tasks: how often a method stands above another, and where most."""
    methods: dict[str, dict[str, list[Tested]]] = {}
    for x in tests:
        methods.setdefault(x.ranker.method, {}).setdefault(x.other.method, []).append(x)
    clauses, nothing = [], []
    for method, others in methods.items():
        counts, shown = [], []
        for other, own in others.items():
            starred = [x for x in own if x.test.star]
            nothing += [] if starred else own
            shown += starred
            for star, word in _WORDS.items():
                if count := sum(x.test.star == star for x in starred):
                    counts.append(f"{word} {other} in {count} of {len(own)}")
        if shown:
            most = max(shown, key=lambda x: abs(x.test.difference))
            where = f"{most.other.method} on {most.task} with {most.ranker.model}"
            clauses.append(f"{method} stands {joined(counts)} (farthest from {where}: {_values(most)})")
    told = clauses[:_LISTED]
    if clauses[_LISTED:]:
        told.append(f"{plural(len(clauses) - _LISTED, 'other method')} differ from some as well")
    if nothing:
        told.append(f"no difference in {_measures(nothing)} shown for {_pairs(nothing)}")
    return told


def _measures(tests: Sequence[Tested]) -> str:
    return joined(list(dict.fromkeys(x.measure for x in tests)))


def _pairs(tests: Sequence[Tested]) -> str:
    """Whose tests they are: "DPO and S-DPO against SFT, IRPO against DPO"."""
    others: dict[str, dict[str, None]] = {}
    for x in tests:
        others.setdefault(x.other.method, {})[x.ranker.method] = None
    return ", ".join(f"{joined(list(methods))} against {other}" for other, methods in others.items())


def _over_untrained(tests: Sequence[Tested]) -> list[str]:
    if not tests:
        return []
    above, below = (sum(x.test.star == star for x in tests) for star in "+-")
    told = f"of {plural(len(tests), 'test')} of {_measures(tests)} against the untrained model"
    if not above + below:
        return [f"{told} none shows a difference"]
    most = max((x for x in tests if x.test.star), key=lambda x: abs(x.test.difference))
    farthest = f"farthest: {most.ranker.method} on {most.task}, {_values(most)}"
    return [f"{told} {above} show a gain and {below} a loss ({farthest})"]
