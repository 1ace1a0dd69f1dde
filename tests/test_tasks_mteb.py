"""MTEB's reranking datasets in both forms, of a folder and of the hub."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from handmade import build
from small_collection import DOCUMENTS, FIRST_STAGE, QRELS, QUERIES, json_lines, write, write_beir

from irpo.tasks import Intake
from irpo.tasks.mteb import Mteb
from irpo.tasks.preparing import Layout, prepare, read_lists
from irpo.types import UserError

ROWS = [
    {"query": "remove rust", "positive": ["A brush of wire"], "negative": ["A sponge", "A comb"]},
    {"query": "nobody knows", "positive": [], "negative": ["A stone"]},
    {"query": "carry water", "positive": ["A bucket", "A can"], "negative": ["A sieve"]},
]
CORPUS = [{"id": id, "title": title, "text": text} for id, (title, text) in DOCUMENTS.items()]
ASKED = [{"id": id, "text": text} for id, text in QUERIES.items()]
KINDS = {"eval": "test", "train": "train"}
RANKED = [{"query-id": q, "corpus-ids": docs} for q, docs in FIRST_STAGE.items()]


def judged(split):
    return [
        {"query-id": q, "corpus-id": doc, "score": y} for q, docs in QRELS[split].items() for doc, y in docs.items()
    ]


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


def ids(example):
    return [c.id for c in example.candidates]


def test_rows_of_positives_and_negatives(tmp_path):
    write(tmp_path / "test.jsonl", json_lines(ROWS))
    intake = Intake()
    rust, water = build("mteb", tmp_path, intake)["eval"]
    assert {c.id: (c.text, c.relevance) for c in rust.candidates} == {
        "apositive_test_query0_00000": ("A brush of wire", 1),
        "negative_test_query0_00000": ("A sponge", 0),
        "negative_test_query0_00001": ("A comb", 0),
    }
    assert water.id == "test_query2"
    assert rust.group != water.group
    again = [*ROWS[:1], {"query": "Remove  rust", "positive": ["Lemon"], "negative": ["Sand"]}]
    write(tmp_path / "again" / "test.jsonl", json_lines(again))
    one, other = build("mteb", tmp_path / "again")["eval"]
    assert one.group == other.group == rust.group
    assert intake.dropped["eval"] == {"query without a positive": 1}
    parquet(tmp_path / "parquet" / "test.parquet", ROWS)
    assert build("mteb", tmp_path / "parquet")["eval"] == [rust, water]
    first = {build("mteb", tmp_path, seed=n)["eval"][0].candidates[0].relevance for n in range(12)}
    assert first == {0, 1}
    assert all(e.candidates[0].relevance for e in build("mteb", tmp_path, shuffle="none")["eval"])


def test_rows_are_numbered_through_the_files_of_a_split(tmp_path):
    """As in the one file that they were before the hub cut it; an empty line is no row."""
    parquet(tmp_path / "whole" / "test.parquet", [*ROWS, *ROWS])
    for number in range(2):
        parquet(tmp_path / "parquet" / f"test-{number:05}-of-00002.parquet", ROWS)
        write(tmp_path / "lines" / f"test-{number}.jsonl", json_lines(ROWS).replace("\n", "\n\n"))
    whole = build("mteb", tmp_path / "whole")["eval"]
    assert [e.id for e in whole] == ["test_query0", "test_query2", "test_query3", "test_query5"]
    assert build("mteb", tmp_path / "parquet")["eval"] == whole
    assert build("mteb", tmp_path / "lines")["eval"] == whole
    prepare(Mteb(str(tmp_path / "parquet")), tmp_path / "out", task_spec={"name": "mteb"}, layout=Layout(processes=2))
    assert read_lists(tmp_path / "out" / "eval.jsonl", split="eval") == whole


def a_folder(folder):
    """The newer form, some of it in Parquet."""
    parquet(folder / "corpus" / "test-00000-of-00001.parquet", CORPUS)
    write(folder / "queries.jsonl", json_lines(ASKED))
    for split in QRELS:
        write(folder / "qrels" / f"{split}.jsonl", json_lines(judged(split)))
    write(folder / "top_ranked.jsonl", json_lines(RANKED))
    return folder


def test_the_newer_form_is_a_first_stage(tmp_path):
    lists = build("mteb", a_folder(tmp_path / "mteb"))
    assert lists == build("beir", write_beir(tmp_path / "beir"), run="first.run")
    assert {e.id: ids(e) for e in lists["eval"]} == {q: FIRST_STAGE[q] for q in QRELS["test"]}


def test_without_top_ranked_bm25_takes_its_place(tmp_path):
    (a_folder(tmp_path / "mteb") / "top_ranked.jsonl").unlink()
    assert build("mteb", tmp_path / "mteb", top_k=5) == build("beir", write_beir(tmp_path / "beir"), top_k=5)


@pytest.mark.parametrize("ranked", [True, False])
def test_each_split_has_its_own_documents(tmp_path, ranked):
    """Their ids are numbers of rows, say, and stand for other texts in the other split."""
    texts = {"test": ("moss on stones", "rust on iron"), "train": ("tea in cups", "soup in bowls")}
    for split, both in texts.items():
        corpus = [{"_id": str(n), "title": "", "text": text} for n, text in enumerate(both)]
        write(tmp_path / "corpus" / f"{split}.jsonl", json_lines(corpus))
        write(tmp_path / "queries" / f"{split}.jsonl", json_lines([{"_id": f"{split}1", "text": both[0]}]))
        judgement = {"query-id": f"{split}1", "corpus-id": "0", "score": 1}
        write(tmp_path / "qrels" / f"{split}.jsonl", json_lines([judgement]))
        if ranked:
            top = {"query-id": f"{split}1", "corpus-ids": ["1", "0"]}
            write(tmp_path / "top_ranked" / f"{split}.jsonl", json_lines([top]))
    intake = Intake()
    lists = build("mteb", tmp_path, intake)
    found = {split: {c.text: c.relevance for c in lists[name][0].candidates} for name, split in KINDS.items()}
    assert found == {split: {good: 1, bad: 0} for split, (good, bad) in texts.items()}
    assert not any(intake.dropped.values())


@pytest.mark.parametrize(
    ("again", "problem"),
    [
        ({"query-id": "1", "corpus-ids": ["d-tea", "d-oil"]}, "query '1' was ranked before; ids are unique"),
        ({"query-id": 8, "corpus-ids": ["d-tea", "d-oil", "d-tea"]}, "document 'd-tea' is ranked twice for query '8'"),
    ],
)
def test_what_is_ranked_twice_is_a_bad_row(tmp_path, again, problem):
    expected = build("mteb", a_folder(tmp_path))
    path = write(tmp_path / "top_ranked.jsonl", json_lines([*RANKED, again]))
    with pytest.raises(UserError, match=f"top_ranked.jsonl:{len(RANKED) + 1}: {problem}"):
        build("mteb", path.parent)
    intake = Intake(skip_bad_rows=True)
    assert build("mteb", path.parent, intake) == expected
    assert {row.split(": ")[0] for row in intake.bad_rows} == {f"top_ranked.jsonl:{len(RANKED) + 1}"}


def test_a_first_stage_that_is_no_file_is_not_passed_over(tmp_path):
    path = a_folder(tmp_path) / "top_ranked.jsonl"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"top_ranked\.jsonl: this is a link to nothing"):
        build("mteb", tmp_path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`: configurations by name, splits by name."""

    def put(configs):
        monkeypatch.setattr("datasets.get_dataset_config_names", lambda *_, **__: list(configs))
        monkeypatch.setattr("datasets.load_dataset", lambda name, config=None, **_: configs[config or "default"])

    return put


@pytest.mark.parametrize(("prefix", "qrels"), [("", "default"), ("", "qrels"), ("fr-", "fr-qrels")])
def test_the_hubs_configurations(tmp_path, hub, prefix, qrels):
    hub(
        {
            f"{prefix}corpus": {"test": CORPUS},
            f"{prefix}queries": {"test": ASKED},
            f"{prefix}top_ranked": {"test": RANKED},
            qrels: {"test": judged("test"), "train": judged("train")},
        }
    )
    lists = build("mteb", "hub", dataset="mteb/Small", config=prefix.rstrip("-"))
    assert lists == build("mteb", a_folder(tmp_path))


def test_the_hubs_older_rows(tmp_path, hub):
    hub({"default": {"test": ROWS, "validation": ROWS[:1]}})
    write(tmp_path / "test.jsonl", json_lines(ROWS))
    assert build("mteb", "hub", dataset="mteb/Old") == build("mteb", tmp_path)
    assert [e.id for e in build("mteb", "hub", dataset="mteb/Old", eval_split="dev")["eval"]] == ["dev_query0"]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "neither rows with query, positive and negative here, nor corpus, queries and qrels"),
        ({"corpus.jsonl": json_lines(CORPUS)}, "a corpus, and no queries and no qrels"),
        ({"test.jsonl": '{"query": "q", "positive": ["a"]}\n'}, r"test.jsonl:1: there is no column 'negative'"),
        ({"test.jsonl": '{"query": "", "positive": ["a"], "negative": ["b"]}\n'}, r"test.jsonl:1: 'query' is empty"),
        (
            {"test.jsonl": '{"query": "q", "positive": [["a"]], "negative": ["b"]}\n'},
            r"test.jsonl:1: 'positive': item 1",
        ),
        ({"train.jsonl": json.dumps(ROWS[0])}, "no split dev; train"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, files, problem):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=problem):
        build("mteb", tmp_path, eval_split="dev" if "train.jsonl" in files else None)


def test_a_dataset_of_the_hub_has_a_name(tmp_path):
    with pytest.raises(UserError, match="dataset says which one of the hub"):
        build("mteb", "hub")
    with pytest.raises(UserError, match="dataset says which one of the hub"):
        build("mteb", tmp_path, dataset="mteb/Small")
