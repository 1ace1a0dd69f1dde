"""A dataset in BEIR's layout (Thakur et al. 2021): a first stage's documents for each judged query, to be reranked.

A folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and `qrels/train.tsv`,
`dev.tsv`, `test.tsv` (`query-id`, `corpus-id`, `score`, with that header). On the hub `BeIR/NAME` has the texts and
`BeIR/NAME-qrels` the judgements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from irpo.files import existing
from irpo.tasks import TASKS, Intake
from irpo.tasks._hub import is_hub, load_hub
from irpo.tasks._retrieval import (
    Documents,
    Judgements,
    Listing,
    Shuffle,
    Split,
    beside,
    documents_of,
    judgements_in,
    judgements_of,
    ranked_in,
    texts_of,
)
from irpo.types import RankingExample, UserError

QRELS = {"train": ("train",), "eval": ("test", "dev")}  # files of a folder; the first one that is there
_ON_THE_HUB = {"train": "train", "dev": "validation", "test": "test"}


@TASKS.register("beir")
@dataclass(frozen=True)
class Beir:
    """The first `top_k` documents of BM25 or of a run file, for each query that anybody judged.

    The text of a document is its title and its text, as BEIR joins them. Queries without a judgement are left out, as
    BEIR leaves them out; a query for which the first stage found nothing relevant counts 0 in evaluation, and cannot
    train. `LNDCG@10` is the NDCG@10 that BEIR reports. A run is looked for in the folder first, then as a path.
    """

    also_measured: ClassVar[tuple[str, ...]] = ("LNDCG@10",)
    words: ClassVar[tuple[str, ...]] = ("dataset",)

    data: str
    dataset: str = ""  # of the hub: scifact, nfcorpus, fiqa, ...
    run: str = ""  # a TREC run file with the first stage of all splits; "" is BM25 over the whole corpus
    eval_split: Literal["test", "dev"] | None = None  # None: test, else dev
    split: Literal["train", "eval"] | None = None  # the only one that is made; None: both
    top_k: int = 100  # of the first stage
    train_candidates: int = 0  # of a training list: what is relevant, and others drawn from the top k; 0 is all
    shuffle: Shuffle = "train"  # which lists do not stand in the first stage's order
    seed: int = 0
    relevant_from: float = 1.0  # the label from which a document counts as relevant in Recall, P, MRR and MAP
    ignore_identical_ids: bool = True  # a document whose id is the query's is no candidate, as in BEIR

    def __post_init__(self) -> None:
        _ = self._listing
        if is_hub(self.data) != bool(self.dataset):
            raise UserError(
                f"data is {self.data!r} and dataset {self.dataset!r}; dataset says which one of the hub, "
                "as in data=hub dataset=scifact"
            )

    @property
    def _listing(self) -> Listing:
        return Listing(self.top_k, self.train_candidates, self.shuffle, self.seed, not self.ignore_identical_ids)

    def build(self, intake: Intake) -> Mapping[str, Iterator[RankingExample]]:
        """See `irpo.tasks.Task`."""
        read = self._hub if is_hub(self.data) else self._folder
        queries, judged, documents = read(intake)
        ranked = None
        if self.run:
            every = {id for one in judged.values() for id in one}
            ranked = ranked_in(beside(Path(self.data), self.run), every, self.top_k + 1, intake)
        splits = {name: Split(queries, one, documents, ranked) for name, one in judged.items()}
        return self._listing.build(splits, intake)

    def _folder(self, intake: Intake) -> _Read:
        folder = Path(self.data)
        corpus, asked = (_file(folder, name) for name in ("corpus.jsonl", "queries.jsonl"))
        names = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
        found = {split: names[name] for split, name in self._chosen(names, folder).items()}
        judged = {split: judgements_in(path, intake) for split, path in found.items()}
        documents = intake.file_rows([corpus])
        return texts_of(intake.file_rows([asked]), intake), judged, lambda _: documents_of(documents, intake)

    def _hub(self, intake: Intake) -> _Read:
        texts = f"BeIR/{self.dataset}"
        corpus, asked = (load_hub(self.data, texts, part)[part] for part in ("corpus", "queries"))
        qrels = load_hub(self.data, f"{texts}-qrels", None)
        names = {name: hub for name, hub in _ON_THE_HUB.items() if hub in qrels}
        judged = {
            split: judgements_of(intake.hub_rows(f"hub:{texts}-qrels/{names[name]}", qrels[names[name]]), intake)
            for split, name in self._chosen(names, Path(f"{texts}-qrels")).items()
        }
        documents = intake.hub_rows(f"hub:{texts}/corpus", corpus)
        queries = texts_of(intake.hub_rows(f"hub:{texts}/queries", asked), intake)
        return queries, judged, lambda _: documents_of(documents, intake)

    def _chosen(self, names: Mapping[str, object], place: Path) -> dict[str, str]:
        """Which judgements each split has."""
        every = QRELS | ({"eval": (self.eval_split,)} if self.eval_split else {})
        wanted = {split: of for split, of in every.items() if self.split in (None, split)}
        found = {split: next((name for name in of if name in names), "") for split, of in wanted.items()}
        if self.eval_split and not found.get("eval", "no"):
            raise UserError(f"{place}: no judgements for {self.eval_split}; there are {', '.join(names) or 'none'}")
        if not any(found.values()):
            raise UserError(f"{place}: no qrels/train.tsv, qrels/dev.tsv or qrels/test.tsv here; this is BEIR's layout")
        return {split: name for split, name in found.items() if name}


_Read = tuple[dict[str, str], dict[str, Judgements], Documents]


def _file(folder: Path, name: str) -> Path:
    if not (existing(folder) / name).is_file():
        raise UserError(f"{folder}: no {name} here; BEIR's layout is corpus.jsonl, queries.jsonl and qrels/test.tsv")
    return folder / name
