"""Does a model that reads its prompt in blocks rank as well, and what becomes of position bias?

    python benchmarks/block_study.py [--jobs 2]     # about an hour on 2 cores; goes on where it was stopped
    python benchmarks/block_study.py --quick        # lists of 10 and 30, one seed, few updates: does it run?
    python benchmarks/block_study.py --table        # Markdown of what results/block.jsonl holds

The embedded model was pretrained on lists of 2 to 20 candidates, by the full prompt: asked about 100, it is at chance.
So each ranker learns length as it goes, with all its weights: lists of 10, then of 30, then of 100 (75 in the style
`label`, which has as many labels of one token), each stage from the weights of the one before, and is measured behind
each. Arms differ in `prompt.attention`: full or block. In the style `label` that is two differences, since a prompt in
blocks deals labels by query and texts and the full prompt has A, B, C by place; the style `text` has the one. Updates,
lists and seeds are the same, and of the same learning rates validation lists of 30 choose each arm's with the first
seed. Three seeds are run at it. Each ranker ranks the same lists in four candidate orders. `full asked in blocks` is
the ranker that learnt by the full prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import irpo
from irpo.api import config_from
from irpo.chance import random_order
from irpo.compare.shared import permuted
from irpo.compare.statistics.plain import kendall
from irpo.evaluation.baselines import bm25_scores
from irpo.evaluation.significance import benjamini_hochberg, mean_interval, paired_p_value
from irpo.measures import per_query
from irpo.ranking.modes import by_score, key_of
from irpo.ranking.reranker import Reranker
from irpo.scoring.forward import score_lists
from irpo.scoring.tokens import prompted
from irpo.tasks import TASKS, Intake
from irpo.types import Ranking, RankingExample

RESULTS = Path(__file__).parent / "results" / "block.jsonl"
# Updates by candidates: the stages, one after another. A label has to be found again in the prompt, which takes longer.
STAGES = {"text": {10: 100, 30: 100, 100: 80}, "label": {10: 300, 30: 300, 75: 240}}
LISTS_PER_UPDATE, TRIAL = 8, 30  # TRIAL: the stage whose validation lists choose the learning rate
RATES = (1e-3, 2e-3)
SEEDS = (0, 1, 2)
ORDERS, FIFTHS, EVAL_LISTS, CHANCE_ORDERS = 4, 5, 120, 50
SCORERS = {"text": "independent", "label": "label"}
BY_CHANCE = "random"  # the arm whose mean is chance
QUICK = {"updates": 1, "lists": 8}


@dataclass(frozen=True)
class Chain:
    """A ranker through its stages; `rate` None: the untrained model, and what needs none."""

    style: str
    attention: str
    rate: float | None = None
    seed: int = 0
    trial: bool = False  # up to the stage that chooses the rate, and by validation lists alone
    quick: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Candidates of each stage."""
        most = TRIAL if self.trial or self.quick else 100
        return tuple(size for size in STAGES[self.style] if size <= most)

    def layers(self, candidates: int, start: str) -> list[str]:
        """The run of a stage, from a model or the run of the stage before."""
        return [
            *("quickstart.yaml", "methods/softmax.yaml", f"model.name={start}", "model.tuning=full"),
            *("method.reference=none", "method.objective={name: softmax, reference_weight: 0}", "ranking.strength=1"),
            *(f"task.candidates={candidates}", "task.train_lists=1024", f"task.eval_lists={EVAL_LISTS}"),
            *(f"prompt.style={self.style}", f"method.scorer={SCORERS[self.style]}", "prompt.max_tokens=4096"),
            *(f"prompt.attention={self.attention}", f"seed={self.seed}", f"training.learning_rate={self.rate or 1e-3}"),
            *(
                f"training.updates={QUICK['updates'] if self.quick else STAGES[self.style][candidates]}",
                "training.evaluate_every=1000",
            ),
            *(f"training.lists_per_update={LISTS_PER_UPDATE}", "training.max_validation_lists=60"),
        ]


def lists_of(chain: Chain, candidates: int) -> list[RankingExample]:
    """What a stage is measured on: the same lists for every ranker."""
    task = config_from(chain.layers(candidates, "embedded")).task
    return list(TASKS.build(task).build(Intake())["eval"])[: QUICK["lists"] if chain.quick else EVAL_LISTS]


def done(chain: Chain, out: Path) -> list[dict[str, Any]]:
    """What is found of a chain, in its process: lines of the results."""
    torch.set_num_threads(1)
    return list(_untrained(chain) if chain.rate is None else _trained(chain, out))


def _untrained(chain: Chain) -> Iterator[dict[str, Any]]:
    for size in chain.sizes:
        examples = lists_of(chain, size)
        ranker = Reranker.load("embedded", like=config_from(chain.layers(size, "embedded")))
        yield _line(chain, size, f"untrained, {chain.attention}", measured(ranker, examples))
        if chain.attention == "full":
            yield _line(chain, size, BY_CHANCE, _by_chance(examples))
            words = {e.id: by_score(bm25_scores(e), e.id)[0] for e in examples}
            yield _line(chain, size, "BM25", _told(examples, [_ndcg(examples, words)]))


def _trained(chain: Chain, out: Path) -> Iterator[dict[str, Any]]:
    start = "embedded"
    for size in chain.sizes:
        folder = out / f"{chain.style}-{chain.attention}-{chain.rate:g}-{chain.seed}" / str(size)
        outcome = irpo.train(chain.layers(size, start), folder, resume=True)
        start = str(folder)
        if chain.trial:
            if size == TRIAL:
                yield _line(chain, size, "trial", {"validation": round(outcome.after, 5)})
            continue
        ranker, examples = Reranker.load(start), lists_of(chain, size)
        yield _line(chain, size, f"trained, {chain.attention}", measured(ranker, examples))
        if chain.attention == "full":
            ranker = replace(ranker, builder=replace(ranker.builder, attention="block"))
            yield _line(chain, size, "trained, full asked in blocks", measured(ranker, examples))


def _line(chain: Chain, size: int, arm: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {**asdict(chain), "candidates": size, "arm": arm, **found}


def measured(ranker: Reranker, examples: Sequence[RankingExample]) -> dict[str, Any]:
    """NDCG@10 by list in the given order, its means in all, agreement between them, and rank by place in the prompt."""
    rankings, fifths, values = [], [], []
    for number in range(ORDERS):
        orders = [_order(example, number) for example in examples]
        shown = [permuted(e, o) for e, o in zip(examples, orders, strict=True)]
        items = [p.tokens for p in prompted(ranker.builder, shown, labels=False)]
        scores = score_lists(ranker.model, ranker.tokenizer, items, ranker.scorer, length=ranker.length)
        found = [by_score(s.tolist(), key_of(i))[0].order for s, i in zip(scores, items, strict=True)]
        fifths.append(_by_place(found))
        back = [tuple(o[j] for j in ranking) for ranking, o in zip(found, orders, strict=True)]
        rankings.append(np.array(back, dtype=np.int16))
        values.append(_ndcg(examples, {e.id: Ranking(r) for e, r in zip(examples, back, strict=True)}))
    lengths = np.array([len(e.candidates) for e in examples])
    taus = [kendall(a, b, lengths).mean() for i, a in enumerate(rankings) for b in rankings[i + 1 :]]
    return _told(examples, values) | {
        "tau": round(float(np.mean(taus)), 5),
        "rank by fifth": np.mean(fifths, 0).round(5).tolist(),
    }


def _ndcg(examples: Sequence[RankingExample], rankings: Mapping[str, Ranking]) -> dict[str, float]:
    labels = {e.id: e.relevance for e in examples}
    return dict(per_query(rankings, labels, ["NDCG@10"], 1.0)["NDCG@10"])


def _told(examples: Sequence[RankingExample], values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of NDCG@10 by list in one order and others: that of the first, and the means of all."""
    return {
        "NDCG@10": round(statistics.fmean(values[0].values()), 5),
        "by order": [round(statistics.fmean(own.values()), 5) for own in values],
        "lists": {e.id: [str(e.group), round(values[0][e.id], 5)] for e in examples},
    }


def _by_chance(examples: Sequence[RankingExample]) -> dict[str, Any]:
    """What random orders give each list, in the mean."""
    several = [
        _ndcg(examples, {e.id: Ranking(random_order(len(e.candidates), "chance", n, e.id)) for e in examples})
        for n in range(CHANCE_ORDERS)
    ]
    return _told(examples, [{e.id: statistics.fmean(own[e.id] for own in several) for e in examples}])


def _order(example: RankingExample, number: int) -> tuple[int, ...]:
    count = len(example.candidates)
    return tuple(range(count)) if number == 0 else random_order(count, "block study", number, example.id)


def _by_place(rankings: Iterable[Sequence[int]]) -> list[float]:
    """Mean rank, 0 the first and 1 the last, of what stands in each fifth of the prompt."""
    sums, counts = np.zeros(FIFTHS), np.zeros(FIFTHS)
    for ranking in rankings:
        for rank, place in enumerate(ranking):
            fifth = place * FIFTHS // len(ranking)
            sums[fifth] += rank / (len(ranking) - 1)
            counts[fifth] += 1
    return (sums / counts).tolist()


def first_chains(quick: bool) -> list[Chain]:
    """What is known beforehand: every rate with the first seed, and the untrained model."""
    arms = [(style, attention) for style in STAGES for attention in ("full", "block")]
    trials = [Chain(*arm, rate, trial=True, quick=quick) for arm in arms for rate in (RATES[:1] if quick else RATES)]
    return trials + [Chain(*arm, quick=quick) for arm in arms]


def next_chains(lines: Sequence[Mapping[str, Any]], quick: bool) -> list[Chain]:
    """The seeds at the rate that validation lists chose."""
    tried: dict[tuple[str, str], dict[float, float]] = {}
    for line in lines:
        if line["trial"]:
            tried.setdefault((line["style"], line["attention"]), {})[line["rate"]] = line["validation"]
    return [
        Chain(*arm, max(by_rate, key=lambda rate: by_rate[rate]), seed, quick=quick)
        for arm, by_rate in sorted(tried.items(), reverse=True)
        for seed in (SEEDS[:1] if quick else SEEDS)
    ]


def study(results: Path, jobs: int, quick: bool) -> None:
    """Every chain that is not there yet; its lines are written when it is done."""
    runs = Path(tempfile.gettempdir()) / f"irpo-{results.stem}"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for number in (1, 2):  # the second round asks what the whole first one found
            wanted = first_chains(quick) if number == 1 else next_chains(lines_of(results), quick)
            there = [{name: line[name] for name in Chain.__dataclass_fields__} for line in lines_of(results)]
            waiting = [pool.submit(done, chain, runs) for chain in wanted if asdict(chain) not in there]
            for future in as_completed(waiting):
                with results.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(line) + "\n" for line in future.result()))


def lines_of(results: Path) -> list[dict[str, Any]]:
    """The lines that are whole."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row an arm: means over seeds; intervals and tests by wishes of the mean over seeds, all tests corrected (q)."""
    yield "| style | K | ranker | NDCG@10 | 95 % | against full | tau between orders | mean rank, first to last fifth |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    found: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for line in lines:
        if not line["trial"]:
            found.setdefault((line["style"], line["candidates"]), {}).setdefault(line["arm"], []).append(line)
    told = {(place, arm): against_full(arm, arms) for place, arms in found.items() for arm in arms}
    tests = {where: test for where, test in told.items() if not isinstance(test, str)}
    q_values = dict(zip(tests, benjamini_hochberg([p for _, p in tests.values()]), strict=True))
    told |= {where: f"{gain:+.3f}, q = {q_values[where]:.3f}" for where, (gain, _) in tests.items()}
    for place, arms in sorted(found.items()):
        for arm, rows in sorted(arms.items()):
            values, groups = _over_seeds(rows)
            ends = mean_interval(values, groups)
            tau = f"{statistics.fmean(row['tau'] for row in rows):.3f}" if "tau" in rows[0] else ""
            places = np.mean([row["rank by fifth"] for row in rows], 0) if "tau" in rows[0] else ()
            cells = (*place, arm, f"{statistics.fmean(values.values()):.3f}", "{:.3f} to {:.3f}".format(*ends))
            shown = (*cells, told[place, arm], tau, " ".join(f"{x:.2f}" for x in places))
            yield f"| {' | '.join(map(str, shown))} |"


def against_full(arm: str, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | tuple[float, float]:
    """The gain over the full prompt and its p-value; words where either is no better than chance."""
    if "," not in arm:
        return ""
    if at_chance(arms[arm], arms):
        return "at chance"
    full = f"{arm.split(',')[0]}, full"
    if arm == full or full not in arms:
        return ""
    if at_chance(arms[full], arms):
        return "full is at chance"
    (values, groups), (other, _) = _over_seeds(arms[arm]), _over_seeds(arms[full])
    gain = statistics.fmean(values.values()) - statistics.fmean(other.values())
    return gain, paired_p_value(values, other, groups)


def at_chance(rows: Sequence[Mapping[str, Any]], arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Whether an arm's interval reaches down to the mean of random orders."""
    chance, _ = _over_seeds(arms[BY_CHANCE])
    return mean_interval(*_over_seeds(rows))[0] <= statistics.fmean(chance.values())


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
    """Each list's mean over seeds, and its group."""
    lists = rows[0]["lists"]
    values = {id: statistics.fmean(r["lists"][id][1] for r in rows) for id in lists}
    return values, {id: group for id, (group, _) in lists.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the file of results")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    results = given.out or (Path(tempfile.gettempdir()) / "block-quick.jsonl" if given.quick else RESULTS)
    if not given.table:
        study(results, given.jobs, given.quick)
    print("\n".join(table(lines_of(results))))


if __name__ == "__main__":
    main()
