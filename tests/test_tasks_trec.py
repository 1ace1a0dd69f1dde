"""A campaign's files as lists: what they are called, their forms, and what is wrong with them."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from handmade import build
from small_collection import DOCUMENTS, FIRST_STAGE, QRELS, QUERIES, json_lines, write, write_beir, write_trec

from irpo.tasks import Intake
from irpo.tasks.trec_files import first_stage, topic_rows
from irpo.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_trec(tmp_path_factory.mktemp("trec"))


def ids(example):
    return [c.id for c in example.candidates]


def test_the_same_lists_as_of_beirs_layout(folder, tmp_path):
    lists, theirs = build("trec", folder), build("beir", write_beir(tmp_path), run="first.run")
    assert {e.id: ids(e) for e in lists["eval"]} == {q: FIRST_STAGE[q] for q in QRELS["test"]}
    assert lists == theirs


def test_each_file_may_be_named(folder, tmp_path):
    outside = write(tmp_path / "elsewhere.tsv", "".join(f"{q} Q0 d-tea 1 2 x\n{q} Q0 d-moss 2 1 x\n" for q in QUERIES))
    named = {"topics": "topics.txt", "qrels": "qrels.train.txt", "collection": "collection.tsv"}
    lists = build("trec", folder, run=str(outside), **named)
    assert {split: [sorted(ids(e)) for e in found] for split, found in lists.items()} == {
        "train": [["d-moss", "d-tea"]]  # of the others nothing relevant is found
    }
    assert list(build("trec", folder, qrels="qrels.train.txt", split="eval")) == ["eval"]


def test_topics_and_collections_have_several_forms(folder, tmp_path):
    expected = build("trec", folder)
    write_trec(tmp_path)
    for name in ("topics.txt", "collection.tsv"):
        (tmp_path / name).unlink()
    write(tmp_path / "queries.tsv", "\ufeffqid\ttext\n" + "".join(f"{q}\t{text}\n" for q, text in QUERIES.items()))
    corpus = ({"id": id, "title": title, "contents": text} for id, (title, text) in DOCUMENTS.items())
    write(tmp_path / "docs.jsonl", json_lines(corpus))
    assert build("trec", tmp_path) == expected
    (tmp_path / "queries.tsv").unlink()
    write(tmp_path / "queries.jsonl", json_lines({"_id": int(q), "text": text} for q, text in QUERIES.items()))
    path = tmp_path / "bm25.run"
    (tmp_path / "bm25.run.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert build("trec", tmp_path) == expected


def test_ms_marcos_run_of_three_columns(folder, tmp_path):
    lines = (f"{q}\t{doc}\t{rank}\n" for q, docs in FIRST_STAGE.items() for rank, doc in enumerate(docs, 1))
    short = write(tmp_path / "short.tsv", "".join(lines))
    assert build("trec", folder, run=str(short)) == build("trec", folder)


def test_a_run_is_ordered_as_trec_eval_orders_it(tmp_path):
    lines = "q Q0 a 1 1.0 x\nq Q0 c 2 3.0 x\nq Q0 b 3 1.00000001 x\nother Q0 a 1 9 x\n"
    path = write(tmp_path / "x.run", lines)
    assert first_stage(path, ["q"], 10) == {"q": ["c", "b", "a"]}  # equal in 32 bits: by id, descending
    assert first_stage(path, ["q"], 2) == {"q": ["c", "b"]}


def test_a_long_run_is_not_held(tmp_path):
    with (tmp_path / "x.run").open("w") as file:
        file.writelines(f"q{n % 5} Q0 d{n} 1 {(n * 7919) % 100003} x\n" for n in range(40_000))
    tracemalloc.start()
    found = first_stage(tmp_path / "x.run", [f"q{n}" for n in range(5)], 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(len(docs) == 10 for docs in found.values())
    best = sorted(range(0, 40_000, 5), key=lambda n: -((n * 7919) % 100003))[:10]
    assert found["q0"] == [f"d{n}" for n in best]
    assert peak < 2_000_000


def test_topics_in_markup(tmp_path):
    path = write(
        tmp_path / "topics.xml",
        '<topics>\n<topic number="7">\n<query>moss &amp; lawn</query>\n<question>Why moss?</question>\n</topic>\n'
        "<top>\n<num> Number: 301\n<title> Topic: long\ntitle\n<desc> Description:\nMore words.\n</top>\n",
    )
    rows = list(topic_rows(path, "query"))
    assert rows[0].value == {"id": "7", "text": "moss & lawn"}
    assert rows[1].problem == "the topic has no <query>; it has num, title, desc (topic_field says which is the query)"
    assert rows[1].where.endswith("topics.xml:6")
    assert list(topic_rows(path, "title"))[1].value == {"id": "301", "text": "long title"}
    assert list(topic_rows(path, "desc"))[1].value["text"] == "More words."


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("qrels.test.txt", "1 0 d-oil\n", "the label is 'd-oil'"),
        ("qrels.test.txt", "1 0 d-oil 1 extra\n", "qrels.test.txt:1: 5 columns; a judgement is"),
        ("bm25.run", "1 Q0 d-oil 1\n", "bm25.run:1: 4 columns; a line of a TREC run has 6"),
        ("collection.tsv", "d-oil text without a tab\n", "collection.tsv:1: no tab; a line is an id, a tab and a text"),
        ("topics.txt", "1 how to oil\n2\tx\n", "topics.txt:1: no tab"),
        (
            "bm25.run.gz",
            gzip.compress(b"x" * 9999, mtime=0)[:40].decode("latin-1"),
            "several files may be the run: bm25.run, bm25.run.gz",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name, content, problem):
    write(write_trec(tmp_path) / name, content)
    with pytest.raises(UserError, match=problem):
        build("trec", tmp_path)


def test_files_that_cannot_be_read(tmp_path, folder):
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"q Q0 d 1 2 x\n" * 99)[:40])
    with pytest.raises(UserError, match=r"broken\.gz: broken gzip file"):
        build("trec", folder, run=str(broken))
    foreign = tmp_path / "foreign.tsv"
    foreign.write_bytes(b"1\tcaf\xe9\n")
    with pytest.raises(UserError, match=r"foreign\.tsv:1: byte 0xe9 is not UTF-8"):
        build("trec", folder, topics=str(foreign))
    with pytest.raises(UserError, match="this is a folder"):
        build("trec", folder, topics=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("qrels.*", "no file here has qrels as a word of its name; give qrels=FILE"),
        ("topics.txt", "no file here has topics or topic or queries as a word of its name"),
        ("collection.tsv", "no file here has collection or corpus or documents"),
    ],
)
def test_what_is_not_there_says_how_to_name_it(tmp_path, name, problem):
    for path in list(write_trec(tmp_path).glob(name)):
        path.unlink()
    with pytest.raises(UserError, match=problem):
        build("trec", tmp_path)


@pytest.mark.parametrize(("name", "make"), [("trec", write_trec), ("beir", write_beir)])
def test_a_file_that_is_none_is_not_passed_over(tmp_path, name, make):
    path = make(tmp_path) / ("bm25.run" if name == "trec" else "qrels/test.tsv")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"{path.name}: (this is a link to nothing|there is no such file)"):
        build(name, tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"{path.name}: this is a folder"):
        build(name, tmp_path)


def test_a_file_is_no_folder(folder):
    with pytest.raises(UserError, match="this is a file; data is the folder"):
        build("trec", folder / "topics.txt")
    with pytest.raises(UserError, match="the trec task reads files"):
        build("trec", "hub")


def test_only_texts_that_are_needed_are_held(tmp_path):
    write_trec(tmp_path)
    with (tmp_path / "collection.tsv").open("a") as file:
        file.writelines(f"x{n}\t{'many words ' * 50}\n" for n in range(8_000))
    intake = Intake()
    tracemalloc.start()
    lists = build("trec", tmp_path, intake)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(lists["eval"]) == 3
    assert intake.sources["collection.tsv"]["rows"] == 8  # that were needed
    assert peak < 1_500_000  # the file has 4.4 MB


# ---- which file is what ----------------------------------------------------------------------------------------------


def moved(folder, **names):
    """The small collection's folder with its files under other names, None for one that goes."""
    write_trec(folder)
    old = {"topics": "topics.txt", "run": "bm25.run", "test": "qrels.test.txt", "train": "qrels.train.txt"}
    for what, name in names.items():
        (folder / old[what]).rename(folder / name) if name else (folder / old[what]).unlink()
    return folder


@pytest.mark.parametrize(
    "names",
    [
        {"run": "msmarco-docdev-top100.gz"},
        {"run": "top1000.txt", "train": None},
        {"run": "run.test.txt", "test": "qrels.dev.txt"},
        {"run": "bm25.test.run", "test": "qrels.txt"},
        {"run": "bm25.test.run", "test": "2019qrels-pass.txt", "topics": "msmarco-test2019-queries.tsv"},
        {"topics": "queries.dev.tsv", "train": None},
    ],
    ids=lambda names: " ".join(map(str, names.values())),
)
def test_a_lone_file_is_taken_whatever_split_its_name_tells(tmp_path, names):
    intake = Intake()
    lists = build("trec", moved(tmp_path, **names), intake)
    assert {e.id: ids(e) for e in lists["eval"]} == {q: FIRST_STAGE[q] for q in QRELS["test"]}
    assert f"eval: the first stage is {names.get('run', 'bm25.run')}" in intake.notes


def test_a_run_of_other_judgements_is_no_splits_own_and_bm25_is_said(tmp_path):
    intake = Intake()
    lists = build("trec", moved(tmp_path, run="bm25.test.run"), intake, shuffle="none")
    assert {e.id: ids(e) for e in lists["eval"]} == {q: FIRST_STAGE[q] for q in QRELS["test"]}
    assert {"eval: the first stage is bm25.test.run", "train: the first stage is BM25"} < set(intake.notes)
    assert ids(lists["train"][0])[0] == "d-moss"  # the run has it last


def test_several_files_of_other_splits_are_one_line(tmp_path):
    moved(tmp_path, run="run.dev.txt")
    write(tmp_path / "run.val2.txt", "1 Q0 d-oil 1 2 x\n")
    with pytest.raises(UserError, match=r"several files may be the run: run\.dev\.txt, run\.val2\.txt; give run=FILE"):
        build("trec", tmp_path)
    with pytest.raises(
        UserError, match=r"of the topics only topics\.test\.txt is here, of another split; give topics="
    ):
        build("trec", moved(tmp_path / "topics", topics="topics.test.txt"))
    collection = moved(tmp_path / "collection") / "collection.tsv"
    collection.rename(collection.with_name("corpus-test.tsv"))
    assert len(build("trec", tmp_path / "collection")["eval"]) == 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"eval_split": "test"}, r"no judgements for test; there are qrels\.dev\.txt, qrels\.train\.txt"),
        ({"split": "train"}, r"split=train says which split the judgements of qrels=FILE are; give qrels too"),
    ],
)
def test_a_split_that_is_asked_for_is_made_or_is_one_line(tmp_path, options, problem):
    folder = moved(tmp_path, test="qrels.dev.txt")
    with pytest.raises(UserError, match=problem):
        build("trec", folder, **options)
    assert len(build("trec", folder, eval_split="dev")["eval"]) == 3
