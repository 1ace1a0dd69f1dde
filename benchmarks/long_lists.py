"""Long lists by parts: NDCG@10 against the prompts that a list costs, on lists of 100 films.

    python benchmarks/long_lists.py            # results/long_lists.jsonl and .svg; what is there is not done again
    python benchmarks/long_lists.py --quick    # the same in small, within a minute, into runs/long_lists-quick

Two sets of lists from the embedded world, all for wishes that no training list asks for. `world`: 100 of the films, one
to three of each label. `bm25`: BM25's first 100 of a collection in BEIR's form (corpus.jsonl, queries.jsonl,
qrels/test.tsv, made in the work folder), whose documents are all films: a title and a text that tells two of a film's
three facts, or names its director. BM25 reads title and text; the model is shown the title alone, which it knows more
of. NDCG@10 there counts relevant films that BM25 left out, as BEIR does.

The model is the embedded one after IRPO: `text` on lists of 20 in that style and `wide` on lists of 40 (modes ask by
`score`, of whole lists of 100, too); `label` on lists of 20 in the style `label` (by `label`; the tokenizer has
one-token labels for 78 candidates, so no whole list). Forward passes are prompts: the strength is 1. Every setting
begins in a random order (`start: chance`), and on `bm25` also in BM25's. Intervals draw whole wishes.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import bm25s
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import irpo
from irpo.chance import fingerprint, number_of
from irpo.evaluation.baselines import at_random, bm25_scores
from irpo.evaluation.significance import mean_interval
from irpo.files import atomic_file, atomic_path, json_line
from irpo.measures import ndcg
from irpo.ranking.modes import RANKING_MODES, by_score
from irpo.ranking.reranker import Reranker
from irpo.tasks.world import WISHES, WORDINGS, WorldFilm, film_lists, films
from irpo.types import Candidate, RankingExample

RESULTS = Path(__file__).parent / "results" / "long_lists.jsonl"
CANDIDATES = 100
LAYERS = ("models/embedded.yaml", "quickstart.yaml", "tasks/world.yaml", "methods/irpo.yaml", "embedded/irpo.yaml")
TRAINING = ("task.candidates=20", "ranking.strength=1", "prompt.max_tokens=1024")
MODELS = {"text": (), "wide": ("task.candidates=40",), "label": ("prompt.style=label", "method.scorer=label")}
FACTS = {
    "genre": "It is a {genre}.",
    "country": "Its director comes from {country}.",
    "decade": "It is of the {decade}.",
}
COLOURS = {"score": "#222222", "window": "#1b6ca8", "tournament": "#d1495b", "setwise": "#3a7d44"}
TITLES = {"world": "100 films of the world", "bm25": "BM25's first 100 of a collection in BEIR's form"}
MARKERS = {"text": "o", "wide": "^", "label": "s"}

Spec = dict[str, Any]


def grid(model: str, *, quick: bool) -> list[Spec]:
    """The settings of a model, by what asks about parts; `score` alone is shown whole lists."""
    by = {"by": "label" if model == "label" else "score"}
    window = [(20, 10, 1), (10, 5, 1), (20, 15, 1), (20, 10, 2), (20, 5, 1)]
    knockout = [(20, 10, 1), (10, 5, 1), (20, 10, 2)]
    sets = [("heap", 10), ("heap", 20), ("heap", 4), ("bubble", 20)]
    if model == "wide":
        window, knockout, sets = [(40, 20, 1), (40, 20, 2)], [(40, 20, 1), (40, 20, 2)], [("heap", 40)]
    most = 1 if quick else 2 if model == "label" else None
    return [
        *([] if model == "label" else [{"name": "score"}]),
        *({"name": "window", "size": s, "stride": t, "passes": p, **by} for s, t, p in window[:most]),
        *({"name": "tournament", "size": s, "keep": k, "tournaments": t, **by} for s, k, t in knockout[:most]),
        *({"name": "setwise", "sort": sort, "size": s, **by} for sort, s in sets[:most]),
    ]


@dataclass(frozen=True)
class Lists:
    """A set of lists, in their first stage's order where they have one."""

    name: str
    examples: tuple[RankingExample, ...]
    missed: Mapping[str, tuple[float, ...]]  # by list: labels of relevant documents that the first stage left out
    starts: tuple[str, ...] = ("chance",)

    @property
    def units(self) -> dict[str, str]:
        """By list the wish that intervals draw."""
        return {e.id: e.unit for e in self.examples}

    def measured(self, orders: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The mean NDCG@10 of these orders, with its interval."""
        values = {e.id: ndcg(orders[e.id], (*e.relevance, *self.missed.get(e.id, ())), 10) for e in self.examples}
        low, high = mean_interval(values, self.units)
        figures = {"ndcg@10": round(fmean(values.values()), 5), "low": round(low, 5), "high": round(high, 5)}
        return {**figures, "lists": len(values), "groups": len(set(self.units.values()))}


def world_lists(count: int) -> Lists:
    """Lists of 100 films for wishes of the evaluation split."""
    drawn = islice(film_lists("long lists", CANDIDATES, held_out=True), count)
    return Lists("world", tuple(one.example() for one in drawn), {})


def described(film: WorldFilm) -> str:
    """What a film's document says beside its title: two of its facts, or for some its director and one."""
    key, facts = f"long lists/{film.title}", {"genre": film.genre, "country": film.country, "decade": film.decade}
    left = tuple(FACTS)[number_of(key) % 3]
    told = [text.format(**facts) for name, text in FACTS.items() if name != left]
    return " ".join([f"Directed by {film.director}.", *told])


def write_beir(folder: Path, count: int) -> None:
    """The collection in BEIR's form: `count` queries, two wordings a wish where there are so many."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    held = [wish for wish in WISHES if wish.held_out]
    asked = [(wish, w) for w in range(6) for wish in held][:count]
    with atomic_file(folder / "corpus.jsonl") as file:
        for i, film in enumerate(films()):
            file.write(json_line({"_id": f"d{i}", "title": film.title, "text": described(film)}) + "\n")
    with atomic_file(folder / "queries.jsonl") as file:
        for i, (wish, w) in enumerate(asked):
            text = WORDINGS[wish.kind][w].format(first=wish.first, second=wish.second)
            file.write(json_line({"_id": f"q{i}", "text": text, "metadata": {"wish": str(wish)}}) + "\n")
    with atomic_file(folder / "qrels" / "test.tsv") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for i, (wish, _) in enumerate(asked):
            labels = ((j, film.label(wish)) for j, film in enumerate(films()))
            file.writelines(f"q{i}\td{j}\t{label}\n" for j, label in labels if label)


def beir_lists(folder: Path) -> Lists:
    """BM25's first 100 of a folder in BEIR's form; equal scores in a random order, as everywhere."""
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    labels: dict[str, dict[str, float]] = {}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            labels.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    index = bm25s.BM25(method="lucene")
    index.index(bm25s.tokenize([f"{d['title']} {d['text']}" for d in corpus], show_progress=False), show_progress=False)
    examples, missed = [], {}
    for query in queries:
        (words,) = bm25s.tokenize([query["text"]], return_ids=False, show_progress=False)
        ranking, _ = by_score(index.get_scores(words).tolist(), query["_id"])
        first, rest = ranking.order[:CANDIDATES], ranking.order[CANDIDATES:]
        own = labels[query["_id"]]
        candidates = tuple(Candidate((d := corpus[j])["_id"], d["title"], own.get(d["_id"], 0.0)) for j in first)
        examples.append(RankingExample(query["_id"], query["text"], candidates, query["metadata"]["wish"]))
        missed[query["_id"]] = tuple(own.get(corpus[j]["_id"], 0.0) for j in rest)
    return Lists("bm25", tuple(examples), missed, ("chance", "given"))


@dataclass(frozen=True)
class Bench:
    """Where results stand, and what has been done."""

    results: Path
    work: Path  # runs and the collection
    quick: bool

    asked: list[str] = field(default_factory=list)  # keys of this run's settings

    @cached_property
    def done(self) -> dict[str, dict[str, Any]]:
        """Rows by key."""
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.is_file() else []
        return {row["key"]: row for row in map(json.loads, lines)}

    def wants(self, *settings: Any) -> str | None:
        """The key of these settings, None where their row is there."""
        key = fingerprint(repr(settings))
        self.asked.append(key)
        return None if key in self.done else key

    def add(self, row: dict[str, Any]) -> None:
        """A row that is done, on disk at once."""
        self.done[row["key"]] = row
        self._write(list(self.done.values()))
        print(json_line({name: value for name, value in row.items() if name != "key"}), flush=True)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with atomic_file(self.results) as file:
            file.writelines(json_line(row) + "\n" for row in rows)

    def finish(self) -> None:
        """The rows of this run's settings alone, in their order, and the picture of them."""
        rows = [self.done[key] for key in self.asked]
        self._write(rows)
        draw(rows, self.results.with_suffix(".svg"))

    def ranker(self, model: str) -> Reranker:
        """One of the models, trained where it is not there yet."""
        updates = ["training.updates=4", "training.evaluate_every=4", "task.train_lists=60"] if self.quick else []
        run = self.work / model
        irpo.train([*LAYERS, *TRAINING, *MODELS[model], *updates], run, resume=run.is_dir())
        return Reranker.load(str(run), max_tokens=2048)

    def baselines(self, lists: Lists) -> None:
        """A random order, and BM25's: of the collection, or over the titles of a list."""
        ways = {
            "random": lambda e: at_random(e, 0).order,
            "BM25": lambda e: (
                tuple(range(CANDIDATES)) if lists.name == "bm25" else by_score(bm25_scores(e), e.id)[0].order
            ),
        }
        for name, way in ways.items():
            if key := self.wants(lists.name, lists.examples, name):
                found = lists.measured({e.id: way(e) for e in lists.examples})
                self.add({"set": lists.name, "mode": name, "prompts": 0, **found, "key": key})

    def mode(self, ranker: Reranker, model: str, lists: Lists, spec: Spec) -> None:
        """One setting on one set."""
        key = self.wants(lists.name, lists.examples, model, LAYERS, TRAINING, MODELS[model], spec, self.quick)
        if key is None:
            return
        mode = RANKING_MODES.build(spec)
        began = time.perf_counter()
        found = mode(ranker.ranker, lists.examples)
        seconds = time.perf_counter() - began
        row = {"set": lists.name, "model": model, "mode": RANKING_MODES.described(mode), "spec": spec}
        row["prompts"] = round(fmean(x.prompts for x in found), 3)
        row |= lists.measured({x.id: x.ranking.order for x in found})
        self.add({**row, "ms_per_list": round(1000 * seconds / len(found), 1), "key": key})


def settings_of(lists: Lists, model: str, *, quick: bool) -> Iterator[Spec]:
    """The grid, from each start of the set; a whole list is shown as it is."""
    for spec in grid(model, quick=quick):
        for start in lists.starts if spec["name"] != "score" else ():
            yield {**spec, "start": start}
        if spec["name"] == "score":
            yield spec


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """NDCG@10 by prompts a list, a panel for each set; a line joins the settings of one mode, model and start."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, TITLES, strict=True):
        lines: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for row in (row for row in rows if row["set"] == name):
            if "spec" in row:
                kind, start = row["spec"]["name"], row["spec"].get("start", "chance")
                lines.setdefault((kind, row["model"], start), []).append(row)
                continue
            axes.axhline(row["ndcg@10"], color="#999999", linestyle="--" if row["mode"] == "random" else ":", lw=1)
            at = (0.01, row["ndcg@10"])
            side = "top" if row["mode"] == "random" else "bottom"  # of the line: the two may be close
            axes.annotate(row["mode"], at, xycoords=("axes fraction", "data"), va=side, fontsize="small")
        for (kind, model, start), own in lines.items():
            _line(axes, sorted(own, key=lambda row: row["prompts"]), (kind, model, start))
        axes.set(xscale="log", xlabel="prompts a list (forward passes)", ylabel="NDCG@10", title=TITLES[name])
        axes.grid(alpha=0.3)
    shown = dict(zip(*reversed(panels[-1].get_legend_handles_labels()), strict=True))
    figure.legend(shown.values(), shown.keys(), fontsize="x-small", loc="outside lower center", ncols=5, frameon=False)
    with atomic_path(path) as work:
        figure.savefig(work, format="svg", metadata={"Date": None})


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], of: tuple[str, str, str]) -> None:
    kind, model, start = of
    values = [row["ndcg@10"] for row in rows]
    bars = [[v - row["low"] for v, row in zip(values, rows, strict=True)]]
    bars += [[row["high"] - v for v, row in zip(values, rows, strict=True)]]
    label = f"{'whole list' if kind == 'score' else kind}, {model}{', from BM25 order' if start == 'given' else ''}"
    look = {"color": COLOURS[kind], "mfc": "white" if start == "given" else COLOURS[kind], "marker": MARKERS[model]}
    axes.errorbar(
        [row["prompts"] for row in rows], values, yerr=bars, lw=0.8, elinewidth=0.5, ms=5, label=label, **look
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Few lists and settings, in runs/long_lists-quick.")
    parser.add_argument("--lists", type=int, default=48, help="Lists of each set.")
    parser.add_argument("--work", type=Path, default=None, help="The folder of runs and the collection.")
    options = parser.parse_args()
    work = options.work or Path("runs") / ("long_lists-quick" if options.quick else "long_lists")
    bench = Bench(work / RESULTS.name if options.quick else RESULTS, work, options.quick)
    count = 3 if options.quick else options.lists
    write_beir(work / "beir", count)
    sets = (world_lists(count), beir_lists(work / "beir"))
    for lists in sets:
        bench.baselines(lists)
    for model in MODELS:
        ranker = bench.ranker(model)
        for lists in sets:
            for spec in settings_of(lists, model, quick=options.quick):
                bench.mode(ranker, model, lists, spec)
    bench.finish()
    print(f"written: {bench.results}, {bench.results.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
