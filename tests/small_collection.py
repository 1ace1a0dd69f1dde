"""A collection of ten documents with judged queries, written by hand, in each layout that a task reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DOCUMENTS = {
    "d-oil": ("Chain care", "Wipe the bicycle chain with a rag and put a drop of oil on every link."),
    "d-lube": ("", "A dry lubricant keeps dust away from moving metal parts."),
    "d-brake": ("Brakes", "Squeezing the lever of a bicycle brake should stop the wheel before it reaches the bar."),
    "d-pump": ("Tyres", "A bicycle tyre loses air over weeks; a floor pump with a gauge fills it."),
    "d-soup": ("Leek soup", "Simmer leeks and potatoes for twenty minutes, then blend the soup."),
    "d-bread": ("Bread", "Flour, water, salt and yeast make bread; let the dough rise twice."),
    "d-sour": ("", "A starter of rye ferments for five days before the first loaf."),
    "d-tea": ("Tea", "Green tea turns bitter where the water boils."),
    "d-moss": ("Moss", "Moss in a lawn says that the soil is wet or sour."),
    "d-rake": ("Lawn", "Rake the lawn in spring, and mow it when the grass is dry."),
}
QUERIES = {
    "1": "how to oil a bicycle chain",
    "2": "bake bread with dough",
    "3": "sourdough culture",  # no word of it is in what is relevant
    "4": "why is there moss in my lawn",
    "5": "nobody judged this bicycle question",
    "6": "leek soup with potatoes",
    "7": "bitter tea",
}
QRELS = {
    "test": {"1": {"d-oil": 2, "d-lube": 1}, "2": {"d-bread": 1, "d-sour": 2}, "3": {"d-sour": 1}},
    "train": {"4": {"d-moss": 2, "d-rake": 1, "d-tea": -1}, "6": {"d-soup": 1, "d-tea": 0}, "7": {"d-rake": 1}},
}
# query -> documents, best first: 1 misses d-lube, 2 misses d-sour, 3 finds nothing relevant
FIRST_STAGE = {
    "1": ["d-brake", "d-oil", "d-pump"],
    "2": ["d-bread", "d-soup"],
    "3": ["d-tea", "d-moss"],
    "4": ["d-rake", "d-tea", "d-moss", "d-gone"],
    "6": ["d-tea", "d-soup"],
    "7": ["d-tea", "d-soup"],
}


def write(path: Path, text: str) -> Path:
    """A file of UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_text(ranked: Mapping[str, list[str]]) -> str:
    return "".join(
        f"{q} Q0 {doc} {rank} {10.5 - rank} tag\n" for q, docs in ranked.items() for rank, doc in enumerate(docs, 1)
    )


def write_beir(folder: Path) -> Path:
    """BEIR's layout, with its first stage as `first.run`."""
    corpus = [{"_id": id, "title": title, "text": text, "metadata": {}} for id, (title, text) in DOCUMENTS.items()]
    write(folder / "corpus.jsonl", json_lines(corpus))
    write(folder / "queries.jsonl", json_lines({"_id": id, "text": text} for id, text in QUERIES.items()))
    for split, judged in QRELS.items():
        lines = [f"{q}\t{doc}\t{label}\n" for q, docs in judged.items() for doc, label in docs.items()]
        write(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(lines))
    write(folder / "first.run", run_text(FIRST_STAGE))
    return folder


def write_trec(folder: Path) -> Path:
    """TREC's layout: topics in markup, qrels of four columns, a run, a collection of two columns."""
    topics = [
        f"<top>\n<num> Number: {q}\n<title> {text}\n\n<desc> Description:\nAbout {q}.\n</top>\n"
        for q, text in QUERIES.items()
    ]
    write(folder / "topics.txt", "".join(topics))
    for split, judged in QRELS.items():
        lines = [f"{q} 0 {doc} {label}\n" for q, docs in judged.items() for doc, label in docs.items()]
        write(folder / f"qrels.{split}.txt", "".join(lines))
    write(folder / "bm25.run", run_text(FIRST_STAGE))
    texts = [f"{id}\t{title} {text}\n" if title else f"{id}\t{text}\n" for id, (title, text) in DOCUMENTS.items()]
    write(folder / "collection.tsv", "".join(texts))
    return folder
