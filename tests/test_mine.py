"""`irpo mine`: hard negatives, none of them an answer or a text of evaluation, whose places tell nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from handmade import build, write_lines
from small_collection import DOCUMENTS, write_beir

import irpo
from irpo import api
from irpo.mine.asking import Asked
from irpo.mine.first_stage import AMBIGUOUS, NOT_RANKED
from irpo.mine.mining import (
    ALL_CLOSE,
    ALL_DOUBTED,
    CLOSE,
    ELSEWHERE,
    EVALUATED,
    HELD,
    NO_POSITIVE,
    SAME,
    TRAINED,
    WORDLESS,
    says_the_same,
)
from irpo.mine.searching import ByWords, Pool
from irpo.tasks import TASKS, Intake, build_lists
from irpo.types import Candidate, RankingExample, UserError

RIVERS = ["Rhine", "Danube", "Volga", "Seine", "Thames", "Tiber", "Ebro", "Oder", "Elbe", "Loire", "Po", "Tagus"]


def fact(river: str, what: str = "flows through the town of") -> str:
    return f"The {river} {what} {river}bourg."


def row(river: str, query: str | None = None, *others: str) -> dict:
    """A list that asks for a river, with one answer and what else is shown, labelled 0."""
    texts = [(fact(river), 1), *((text, 0) for text in others or [f"Nobody swims in the {river}."])]
    candidates = [{"id": f"{river}{j}", "text": text, "relevance": label} for j, (text, label) in enumerate(texts)]
    return {"id": river, "query": query or f"Which town does the {river} flow through?", "candidates": candidates}


def mined(folder: Path, train: list, evaluation: list | None = None, **options) -> tuple[dict, dict]:
    """The card, and the lists as the jsonl task reads them."""
    write_lines(folder / "in" / "train.jsonl", train)
    if evaluation:
        write_lines(folder / "in" / "eval.jsonl", evaluation)
    card = api.mine(folder / "out", task={"name": "jsonl", "data": str(folder / "in")}, **options)
    return card, build_lists(TASKS.build("jsonl", data=str(folder / "out")), Intake())


def negatives(example: RankingExample) -> list[str]:
    return [c.text for c in example.candidates if not c.relevance]


def test_bm25_finds_what_sounds_alike_and_the_folder_is_taken_as_it_is(tmp_path):
    card, lists = mined(tmp_path, [row(river) for river in RIVERS], negatives=5, margin=None)
    assert len(lists["train"]) == 12
    for example in lists["train"]:
        assert len(example.candidates) == 6
        assert Counter(c.source for c in example.candidates) == {"bm25": 5, "user": 1}
        assert [c.text for c in example.candidates if c.relevance] == [fact(example.id)]
        assert f"Nobody swims in the {example.id}." in negatives(example)  # shares the rarest word
        assert sum("flows through" in text for text in negatives(example)) == 4
    assert card["splits"]["train"]["sources"] == {"bm25": 60, "user": 12}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card.json", "train.jsonl"]
    assert card["options"]["by"] == "bm25"
    assert "stands first" not in str(card["notes"])  # it did in the lists that came
    layers = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml", f"task.data={tmp_path / 'out'}"]
    assert api.config_from(layers).task == {"name": "jsonl", "data": str(tmp_path / "out")}
    assert card["task"] == {"name": "mine", "task": {"name": "jsonl", "data": "in"}, "negatives": 5, "margin": None}


def test_what_may_be_an_answer_is_no_negative(tmp_path):
    same = "Yes: the rhine flows through the town of Rhinebourg!"
    train = [row("Rhine"), row("Danube", None, same), row("Elbe") | {"query": "which town does the RHINE flow through"}]
    card, lists = mined(tmp_path, train, margin=None)
    (rhine, danube, elbe) = lists["train"]
    assert same not in negatives(rhine)
    assert same in negatives(danube)  # where it was labelled 0
    assert fact("Elbe") not in negatives(rhine)  # an answer to the same question in another list
    assert fact("Rhine") not in negatives(elbe)
    assert card["dropped"]["train"] == {SAME: 1, ELSEWHERE: 2}


def test_a_label_that_a_search_gave_is_no_judgement():
    found = (Candidate("a", "yes", 1.0), Candidate("b", "no", 0.0), Candidate("c", "perhaps", 0.0, "first stage"))
    assert Asked("q", "is it?", found).refused == {"no"}


def test_what_scores_as_the_answer_does_is_left_out_unless_it_was_judged():
    """Scores worked by hand are BM25's; here only their order counts."""
    asked = [Asked("q", "Rhine town", (Candidate("a", "the Rhine and its cities", 1.0),))]
    pool = Pool.of([("a", "the Rhine and its cities"), ("b", "Rhine town"), ("c", "a town in the far north of all")])
    (found,) = ByWords()(pool, asked)
    by_id = {pool.ids[place]: score for place, score in found.places}
    assert list(by_id) == ["b", "a", "c"] or list(by_id) == ["b", "c", "a"]
    assert found.positive == by_id["a"]
    assert found.ceiling(0.25) == pytest.approx(0.75 * by_id["a"])
    assert found.ceiling(0) == by_id["a"]
    assert found.ceiling(None) == float("inf")


def test_a_margin_leaves_out_the_closest(tmp_path):
    close = "Rhine, town, flow through"
    train = [row("Rhine"), row("Danube", None, close), *(row(river) for river in RIVERS[2:])]
    _, without = mined(tmp_path / "a", train, margin=None)
    card, within = mined(tmp_path / "b", train, margin=0.05)
    assert close in negatives(without["train"][0])
    assert close not in negatives(within["train"][0])
    assert card["dropped"]["train"][CLOSE] >= 1
    judged, _ = mined(tmp_path / "c", [row("Rhine", None, close), *train[1:]], margin=0.05)
    assert judged["splits"]["train"]["lists"] == 12
    lists = build_lists(TASKS.build("jsonl", data=str(tmp_path / "c" / "out")), Intake())
    assert close in negatives(lists["train"][0])  # the user's own label says that it is none


def test_training_never_shows_what_evaluation_does(tmp_path):
    train, evaluation = [row(river) for river in RIVERS[:8]], [row(river) for river in RIVERS[8:]]
    corpus = write_lines(
        tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": fact(river)} for n, river in enumerate(RIVERS)]
    )
    for options in ({}, {"corpus": str(corpus)}):
        card, lists = mined(tmp_path, train, evaluation, margin=None, **options)
        shown = {text for e in evaluation for text in (c["text"] for c in e["candidates"])}
        shown |= {text for example in lists["eval"] for text in example.texts}
        assert not shown & {text for example in lists["train"] for text in example.texts}
        assert all(negatives(example) for example in lists["eval"])
    assert card["dropped"]["train"][EVALUATED] == 4
    assert {c.id for e in lists["eval"] for c in e.candidates if c.source == "bm25"} <= {f"d{n}" for n in range(12)}


def test_what_evaluation_is_given_from_the_corpus_is_no_text_of_training(tmp_path):
    """One corpus for both: without a border each split would take the texts that sound most alike, which are shared."""
    train, evaluation = [row(river) for river in RIVERS[:4]], [row(river) for river in RIVERS[4:8]]
    evaluation[0]["candidates"][1]["text"] = fact(RIVERS[0])  # training's answer to another question
    others = [fact(f"{river}{n}") for river in RIVERS for n in range(2)]
    texts = [*(fact(river) for river in RIVERS), *others]
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    card, lists = mined(tmp_path, train, evaluation, margin=None, negatives=3, corpus=str(corpus))
    shown = {text for example in lists["eval"] for text in example.texts}
    assert len(lists["eval"]) == 4
    assert shown & set(others)
    assert not shown & {text for example in lists["train"] for text in example.texts}
    assert [example.id for example in lists["train"]] == RIVERS[1:4]
    assert (card["dropped"]["train"][HELD], card["dropped"]["train"][NO_POSITIVE]) == (1, 1)
    assert card["dropped"]["eval"][TRAINED] == 3


def test_the_place_tells_nothing(tmp_path):
    rows = [row(f"{river}{n}") for river in RIVERS for n in range(20)]
    _, lists = mined(tmp_path, rows, negatives=4, margin=None)
    places = Counter(example.relevance.index(1) for example in lists["train"])
    assert len(lists["train"]) == 240
    assert sum((places[p] - 48) ** 2 / 48 for p in range(5)) < 18.5  # chi-square, 4 degrees of freedom: p = .001
    check = irpo.check({"name": "jsonl", "data": str(tmp_path / "out")})
    assert "position" not in {finding.kind for finding in check.findings}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    rows = [row(river) for river in RIVERS]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mined(tmp_path / name, rows, seed=seed, margin=None)
    a, b, c = ((tmp_path / name / "out" / "train.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_pairs_of_query_and_answer(tmp_path):
    rows = [{"q": f"Which town does the {river} flow through?", "positive": fact(river)} for river in RIVERS]
    rows.append({"q": "which town does the Rhine flow through?", "positive": ["Basel lies on it.", fact("Rhine")]})
    data = write_lines(tmp_path / "train.jsonl", rows)
    card = api.mine(tmp_path / "out", pairs=data, query="q", negatives=3, margin=None)
    assert card["splits"]["train"]["lists"] == 12
    lists = build_lists(TASKS.build("jsonl", data=str(tmp_path / "out")), Intake())["train"]
    assert Counter(sum(map(bool, e.relevance)) for e in lists) == {1: 11, 2: 1}
    (tmp_path / "pairs.tsv").write_text("query\tpositive\n" + "\n".join(f"town of the {r}\t{fact(r)}" for r in RIVERS))
    assert api.mine(tmp_path / "tsv", pairs=tmp_path / "pairs.tsv", margin=None)["splits"]["train"]["lists"] == 12
    write_lines(data, [{"query": "x", "positive": []}])
    with pytest.raises(UserError, match=r"train.jsonl:1: 'positive' is empty"):
        api.mine(tmp_path / "out", pairs=data)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A folder with a SentenceTransformer of random weights, made here."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sentences")
    words = sorted({w.lower().strip(".?") for r in RIVERS for w in (fact(r) + " nobody swims in which does").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=5 + len(words), **sizes)).save_pretrained(folder / "bert")
    inner = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[inner, Pooling(16)], device="cpu").save(str(folder / "whole"))
    return str(folder / "whole")


def test_dense_is_the_packages_own_mining(tmp_path, sentences):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    rows = [row(river) for river in RIVERS]
    _, lists = mined(tmp_path, rows, by="dense", model=sentences, negatives=4, margin=0.01)
    pool = sorted({c["text"] for r in rows for c in r["candidates"]})
    theirs = mine_hard_negatives(
        Dataset.from_dict({"query": [r["query"] for r in rows], "positive": [fact(river) for river in RIVERS]}),
        SentenceTransformer(sentences),
        corpus=pool,
        num_negatives=len(pool),
        range_max=len(pool),
        relative_margin=0.01,
        output_format="labeled-list",
        verbose=False,
    )
    wanted = {r["query"]: [] for r in rows} | {found["query"]: found["positive"][1:] for found in theirs}
    own = {r["query"]: r["candidates"][1]["text"] for r in rows}
    assert len(lists["train"]) >= 6  # where nothing is far enough they have no row, and we have what was judged
    for example in lists["train"]:
        found = negatives(example)
        assert {c.source for c in example.candidates if not c.relevance} == {"dense"}
        assert set(found) - {own[example.query]} <= set(wanted[example.query])  # but for what was judged
        hardest = [text for text in wanted[example.query] if text != own[example.query]][: len(found) - 1]
        assert set(hardest) <= set(found)


@pytest.fixture
def first_stage(tmp_path):
    """Lists, a corpus of all facts and a run that ranks them by the alphabet of their ids, for each list."""
    corpus = [{"id": f"d{n:02}", "title": river, "text": fact(river)} for n, river in enumerate(RIVERS)]
    write_lines(tmp_path / "corpus.jsonl", corpus)
    lines = [
        f"{river} Q0 d{n:02} {n + 1} {20 - n} alphabet" for river in RIVERS[:10] for n in range(12) if river != "Po"
    ]
    (tmp_path / "alphabet.run").write_text("\n".join(lines))

    def asked(number: int) -> dict:
        river = RIVERS[number]
        best = {"id": f"d{number:02}", "text": f"{river} {fact(river)}", "relevance": 2}
        return row(river) | {"candidates": [best, {"id": "x", "text": f"{river} is a name.", "relevance": 0}]}

    def go(top_k: int) -> tuple[dict, dict]:
        run = {"run": tmp_path / "alphabet.run", "corpus": str(tmp_path / "corpus.jsonl"), "top_k": top_k}
        return mined(tmp_path, [asked(n) for n in range(5)], [asked(n) for n in range(5, 9)], **run)

    return go


def test_evaluation_holds_exactly_what_the_run_ranks(first_stage):
    _, lists = first_stage(7)
    for number, example in enumerate(lists["eval"], start=5):
        assert [c.id for c in example.candidates] == [f"d{n:02}" for n in range(7)]
        assert {c.source for c in example.candidates} == {"run"}
        here = number < 7
        assert example.relevance == tuple(2.0 * (n == number) for n in range(7))
        assert example.unlisted == (() if here else ((f"d{number:02}", 2.0),))  # measures know what the run missed


def test_training_lists_of_a_run_hold_an_answer_and_are_mixed(first_stage):
    card, lists = first_stage(3)
    orders = {tuple(c.id for c in example.candidates) for example in lists["train"]}
    for number, example in enumerate(lists["train"]):
        assert sum(example.relevance) == 2
        assert {c.id for c in example.candidates} == {"d00", "d01", f"d{max(2, number):02}"}
    assert len(orders) > 1
    assert card["dropped"]["train"] == {"list for which the run finds nothing relevant, which took the last place": 2}


def test_a_relevant_text_under_another_id_is_no_negative(tmp_path):
    """A list knows by id alone what its first stage missed; the corpus tells which text that is."""
    missed = row("Rhine") | {"unlisted": [{"id": "d2", "relevance": 1}]}
    missed["candidates"][0]["text"] = "The Rhine is a river with a town."
    twins = [{"id": id, "text": fact("Rhine")} for id in ("d1", "d2")]
    corpus = write_lines(tmp_path / "corpus.jsonl", [*twins, {"id": "d3", "text": fact("Oder")}])
    (tmp_path / "x.run").write_text("Rhine Q0 d1 1 2 x\nRhine Q0 d3 2 1 x\n")
    for folder, options in (("a", {"margin": None}), ("b", {"run": tmp_path / "x.run"})):
        _, lists = mined(tmp_path / folder, [missed], corpus=str(corpus), **options)
        (example,) = lists["train"]
        assert fact("Rhine") not in example.texts
        assert fact("Oder") in negatives(example)
        assert ("d2", 1) in example.unlisted


def test_an_id_of_a_run_is_the_lists_own(tmp_path):
    """Ids of the jsonl task are local to a list; a text is another list's only where all agree on it."""

    def asked(river: str, *more: str) -> dict:
        texts = {"a": fact(river), "b": f"Nobody swims in the {river}.", **{id: f"{id} is one text" for id in more}}
        candidates = [{"id": id, "text": text, "relevance": int(id == "a")} for id, text in texts.items()]
        return row(river) | {"candidates": candidates}

    def ranked(example: RankingExample) -> list[tuple[str, str, float]]:
        return [(c.id, c.text, c.relevance) for c in example.candidates]

    rows = [asked("Rhine"), asked("Oder", "c"), asked("Elbe", "c"), asked("Ebro") | {"id": "Ebro"}]
    rows[3]["candidates"] = [c | {"id": f"{c['id']}2"} for c in rows[3]["candidates"]]
    lines = [f"{river} Q0 {id} {n} {9 - n} x" for river in ("Rhine", "Ebro") for n, id in enumerate(("b", "a", "c"))]
    (tmp_path / "x.run").write_text("\n".join([*lines, "Ebro Q0 a2 4 1 x", "Po Q0 Po0 1 2 x", "Po Q0 Po1 2 1 x"]))
    card, lists = mined(tmp_path, [row("Po")], rows, run=tmp_path / "x.run")
    rhine, ebro = lists["eval"]
    assert ranked(rhine) == [
        ("b", "Nobody swims in the Rhine.", 0),
        ("a", fact("Rhine"), 1),
        ("c", "c is one text", 0),
    ]
    assert ranked(ebro) == [("c", "c is one text", 0), ("a2", fact("Ebro"), 1)]
    assert card["dropped"]["eval"] == {AMBIGUOUS: 2, NOT_RANKED: 2}


def a_first_stages(folder: Path) -> Path:
    """BEIR's layout, with a training query for which other documents are found."""
    asked = write_beir(folder) / "queries.jsonl"
    asked.write_text(asked.read_text().replace("with potatoes", "with potatoes, bread and water"))
    return folder


def test_a_first_stages_evaluation_stands_and_training_is_given_its_documents(tmp_path):
    data = a_first_stages(tmp_path / "in")
    card = api.mine(tmp_path / "out", task={"name": "beir", "data": str(data)}, negatives=3, margin=None)
    intake = Intake()
    before, after = build("beir", data, intake), build("jsonl", tmp_path / "out")
    shown = [[(c.id, c.text, c.relevance, c.source) for c in e.candidates] for e in before["eval"]]
    assert [[(c.id, c.text, c.relevance, c.source) for c in e.candidates] for e in after["eval"]] == shown
    assert [e.unlisted for e in after["eval"]] == [e.unlisted for e in before["eval"]]
    assert {c.id for e in after["train"] for c in e.candidates} <= DOCUMENTS.keys()
    assert {c.source for e in after["train"] for c in e.candidates if not c.relevance} == {"bm25"}
    stands = "eval: a first stage's lists stand as they are; training lists may show the same documents"
    assert {*intake.notes, stands} == {note for note in card["notes"] if not note.startswith("train: ")}
    (data / "qrels" / "train.tsv").unlink()
    with pytest.raises(UserError, match="no training lists to mine for"):
        api.mine(tmp_path / "out", task={"name": "beir", "data": str(data)})


def test_a_query_without_a_relevant_document_is_mined_into_lists_that_can_be_read(tmp_path):
    data = a_first_stages(tmp_path / "in")
    qrels = data / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "5\td-brake\t0\n")
    api.mine(tmp_path / "out", task={"name": "beir", "data": str(data)}, negatives=2, margin=None)
    lists = build("jsonl", tmp_path / "out")["eval"]
    assert [e.id for e in lists] == ["1", "2", "3", "5"]
    assert not lists[3].labelled


def test_ids_stay_where_each_stands_for_one_text(tmp_path):
    rows = [row(river) for river in RIVERS]
    _, lists = mined(tmp_path / "a", rows, margin=None)
    every = {c["id"]: c["text"] for r in rows for c in r["candidates"]}
    assert all(every[c.id] == c.text for e in lists["train"] for c in e.candidates)
    local = [r | {"candidates": [c | {"id": f"c{j}"} for j, c in enumerate(r["candidates"])]} for r in rows]
    _, lists = mined(tmp_path / "b", local, margin=None)
    assert all(c.id.startswith("t-") for e in lists["train"] for c in e.candidates if not c.relevance)


def test_why_nothing_is_found_is_said(tmp_path):
    rows = [row(river) for river in RIVERS] + [row("Lena", "aaa bbb ccc")]
    card, _ = mined(tmp_path, rows, margin=None)
    assert card["dropped"]["train"] == {WORDLESS: 1}
    assert card["splits"]["train"]["lists"] == 12
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": "close", "text": "zzz aaa"}])
    texts = {"one aaa of a few": 1, "yyy": 0}
    lena = row("Lena", "aaa") | {
        "candidates": [{"id": text, "text": text, "relevance": label} for text, label in texts.items()]
    }
    close, _ = mined(tmp_path, [*rows[:12], lena], corpus=str(corpus), margin=0.05)
    assert close["dropped"]["train"][ALL_CLOSE] == 1
    write_lines(corpus, [{"id": "same", "text": "ONE aaa, of a few!"}])
    same, _ = mined(tmp_path, [*rows[:12], lena], corpus=str(corpus), margin=None)
    assert same["dropped"]["train"][ALL_DOUBTED] == 1
    with pytest.raises(UserError, match=r"shares a word with its query \(try --by dense, or a larger --corpus\)"):
        mined(tmp_path, [row("Lena", "aaa bbb ccc")])
    assert any("fewer than 20 negatives" in note for note in card["notes"])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Rhine flows.", "the rhine FLOWS", True),
        ("Rhine flows", "Rhines flows", True),
        ("It is 10 m wide", "It is 100 m wide", False),
        ("a river", "It is long, and a river, too", False),  # too short to say it all
        ("Basel lies on the upper Rhine", "We know: Basel lies on the upper Rhine.", True),
        ("Basel lies on the upper Rhine", "Basel lies on the upper Rhine's tributary", False),
    ],
)
def test_texts_that_say_the_same(one, other, same):
    assert says_the_same(one, other) is same
    assert says_the_same(other, one) is same
