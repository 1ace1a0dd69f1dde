"""`irpo prepare --check`: every bad row, what lists are like, and each fault that was planted, none that was not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
from io import StringIO
from pathlib import Path

import pytest
from handmade import a_list, hotpot, write_lines, write_list
from rich.console import Console

import irpo
from irpo import cli
from irpo.checking import Check, show
from irpo.checking.counting import Counts
from irpo.checking.notebook import Notebook
from irpo.types import Candidate, RankingExample, UserError

WORDS = ["river", "town", "mayor", "bridge", "author", "film", "funny", "planet", "garden", "music", "violin", "blue"]


def a_row(number: int, size: int = 6) -> dict:
    """A list that nothing is wrong with, its one relevant candidate anywhere."""
    chance = random.Random(number)
    best = chance.randrange(size)
    texts = [" ".join(chance.choices(WORDS, k=8)) + f" {number}.{j}" for j in range(size)]
    candidates = [{"id": f"c{j}", "text": text, "relevance": int(j == best)} for j, text in enumerate(texts)]
    return {"id": f"q{number}", "query": f"which {chance.choice(WORDS)} {number}", "candidates": candidates}


def checked(folder: Path, train: list, evaluation: list | None = None, **options) -> Check:
    write_lines(folder / "train.jsonl", train)
    if evaluation is not None:
        write_lines(folder / "eval.jsonl", evaluation)
    return irpo.check({"name": "jsonl", "data": str(folder), **options})


def kinds(check: Check) -> dict[str, int]:
    return {finding.kind: finding.count for finding in check.findings}


def printed(check: Check, width: int = 80) -> str:
    out = StringIO()
    show(check, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def test_nothing_is_found_in_sound_lists(tmp_path):
    check = checked(tmp_path, [a_row(n) for n in range(60)], [a_row(n) for n in range(60, 90)])
    assert check.findings == ()
    assert not check.wrong
    assert (check.splits["train"].lists, check.splits["eval"].lists) == (60, 30)
    assert "nothing found wrong" in printed(check)


def test_every_bad_row_is_told_and_the_rest_counted(tmp_path):
    rows = [a_row(n) for n in range(40)]
    bad = [row if n % 5 else row | {"query": n} for n, row in enumerate(rows)]
    check = checked(tmp_path, [*bad, a_row(1)])
    assert check.bad_count == 8
    assert check.wrong
    assert [row.split(": ")[0] for row in check.bad_rows] == [f"train.jsonl:{n + 1}" for n in range(0, 40, 5)]
    assert kinds(check) == {"bad rows": 8, "id twice": 1, "list twice": 1, "query twice without a group": 1}
    many = checked(tmp_path, [a_row(n) | {"query": n} for n in range(30)] + [a_row(1)])
    assert "train.jsonl:20: 'query' is 19" in printed(many)
    assert "train.jsonl:21" not in printed(many)
    assert "... and 10 more" in printed(many)
    assert len(many.as_dict()["bad_rows"]["first"]) == 30


def test_a_file_that_cannot_be_read_on_ends_its_split_alone(tmp_path):
    (tmp_path / "eval.jsonl").write_bytes(json.dumps(a_row(1)).encode() + b"\n\xff\n")
    check = checked(tmp_path, [a_row(2)])
    assert "eval.jsonl:2: byte 0xff is not UTF-8" in check.bad_rows[0]
    assert "rest of eval was not read" in check.bad_rows[0]
    assert check.splits["train"].lists == 1


def _same_text_twice(train, _):
    train[0]["candidates"][1]["text"] = train[0]["candidates"][0]["text"].upper()
    train[0]["candidates"][1]["relevance"] = train[0]["candidates"][0]["relevance"] = 0
    train[0]["candidates"][2]["relevance"] = 1


def _query_in_both(train, evaluation):
    evaluation[0]["query"] = "  " + train[0]["query"].upper()


def _near_query_in_both(train, evaluation):
    evaluation[0]["query"] = train[0]["query"].replace("which ", "The, Whichs: ") + "?"


def _answer_in_both(train, evaluation):
    evaluation[0]["query"] = train[0]["query"]
    best = next(c for c in train[0]["candidates"] if c["relevance"])
    next(c for c in evaluation[0]["candidates"] if c["relevance"])["text"] = best["text"]


def _conflict(train, _):
    train[1] = train[0] | {"id": "again", "group": "g"}
    train[0]["group"] = "g"
    train[1]["candidates"] = [c | {"relevance": 1} for c in train[0]["candidates"][:5]] + train[0]["candidates"][5:]
    train[1]["candidates"][5] = train[1]["candidates"][5] | {"relevance": 0}


def _group_in_both(train, evaluation):
    train[0]["group"] = evaluation[0]["group"] = "one wish"


def _best_first(train, _):
    for row in train:
        row["candidates"].sort(key=lambda c: -c["relevance"])


def _cut(train, _):
    for row in train:
        row["candidates"][0]["text"] += " and so ..."


def _piled(train, _):
    for row in train:
        for c in row["candidates"][:2]:
            c["text"] = (c["text"] + "z" * 200)[:120]


def _large_labels(train, _):
    next(c for c in train[0]["candidates"] if c["relevance"])["relevance"] = 9


def _no_words(train, _):
    train[0]["candidates"][0]["text"] = "-- ?"


def _long(train, _):
    train[0]["candidates"][0]["text"] += " word" * 400


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_same_text_twice, {"repeated": 1}),
        (_query_in_both, {"query in both splits": 1}),
        (_near_query_in_both, {"near query in both splits": 1}),
        (_answer_in_both, {"query in both splits": 1, "answer in both splits": 1}),
        (_conflict, {"contradiction": 4}),
        (_group_in_both, {"group in both splits": 1}),
        (_best_first, {"position": 40}),
        (_cut, {"cut texts": 40}),
        (_piled, {"cut texts": 80}),
        (_large_labels, {"label scale": 0}),
        (_no_words, {"no words": 1}),
        (_long, {"long texts": 1}),
    ],
)
def test_a_planted_fault_is_found_and_no_other(tmp_path, plant, found):
    train, evaluation = [a_row(n) for n in range(40)], [a_row(n) for n in range(40, 60)]
    plant(train, evaluation)
    check = checked(tmp_path, train, evaluation)
    assert kinds(check) == found
    assert not check.wrong
    assert all(finding.advice for finding in check.findings)


def test_a_first_stages_order_and_misses_are_measured_not_faults(tmp_path):
    train, evaluation = [a_row(n) for n in range(20)], [a_row(n) for n in range(20, 60)]
    for row in evaluation:
        row["candidates"].sort(key=lambda c: -c["relevance"])
        for candidate in row["candidates"]:
            candidate["source"] = "first stage"
    evaluation[0]["candidates"][0]["relevance"] = 0
    evaluation[0]["unlisted"] = [{"id": "missed", "relevance": 1}]
    check = checked(tmp_path, train, evaluation)
    assert kinds(check) == {"without relevant": 1}
    assert check.findings[0].advice.endswith("a larger top_k may find one")
    for row in evaluation:
        for candidate in row["candidates"]:
            candidate["source"] = "user"
    assert kinds(checked(tmp_path, train, evaluation)) == {"without relevant": 1, "position": 39}


def _labelled(number: int, query: str, labels: list[int], **more) -> dict:
    """A list whose first texts are the same in all lists of the query, labelled so; the last is its own."""
    texts = [f"{query} {n}" for n in range(len(labels))]
    candidates = [
        {"id": f"c{n}", "text": t, "relevance": y} for n, (t, y) in enumerate(zip(texts, labels, strict=True))
    ]
    own = {"id": "own", "text": f"own {number}", "relevance": 0}
    return {"id": f"l{number}", "query": query, "candidates": [*candidates, own], "group": f"g{number}", **more}


def _found(check: Check, kind: str) -> tuple[int, tuple[str, ...]]:
    return next(((f.count, f.first) for f in check.findings if f.kind == kind), (0, ()))


def test_an_answer_in_both_splits_counts_evaluation_lists(tmp_path):
    """Two texts of one list are one list; two lists that one training list answers are two."""
    train = [_labelled(0, "one", [1, 1, 1]), _labelled(1, "one", [1, 1, 0]), _labelled(2, "two", [1])]
    evaluation = [_labelled(n, "one", [1, 1, 1]) for n in (3, 4)] + [_labelled(5, "two", [0, 1])]
    check = checked(tmp_path, train, evaluation)
    shown = ("train.jsonl:1 and eval.jsonl:1", "train.jsonl:1 and eval.jsonl:2")
    assert _found(check, "answer in both splits") == (2, shown)


def test_a_contradiction_is_between_the_lists_of_the_two_labels(tmp_path):
    labels = [[1, 0], [0, 1], [1, 0]]
    train = [_labelled(n, "one", [1, *one]) for n, one in enumerate(labels)]
    check = checked(tmp_path, train)
    assert _found(check, "contradiction") == (2, ("train.jsonl:1 and train.jsonl:2",) * 2)
    itself = _labelled(7, "two", [1, 0])
    itself["candidates"][1]["text"] = itself["candidates"][0]["text"]
    alone = checked(tmp_path, [itself, _labelled(8, "two", [1])])
    assert _found(alone, "contradiction") == (0, ())
    assert _found(alone, "contradicted") == (1, ("train.jsonl:1",))


def test_labels_that_are_no_grades_get_advice(tmp_path):
    rows = [a_list(f"q{n}", (1, 2, 3, 4, 5)) for n in range(3)]
    (every,) = [f for f in checked(tmp_path, rows).findings if f.kind == "all relevant"]
    assert (every.count, every.advice) == (3, "relevant_from=4 would part these labels")  # 2 of 5 are relevant then
    shares = [a_list(f"q{n}", (0.25, 0.5, 0, 0)) for n in range(3)]
    (none,) = [f for f in checked(tmp_path, shares).findings if f.kind == "without relevant"]
    assert none.advice.endswith("relevant_from=0.25 would part these labels")
    assert checked(tmp_path, shares).splits["train"].counts.fractional == 6
    assert not [f for f in checked(tmp_path, shares, relevant_from=0.5).findings if "relevant" in f.kind]


def test_the_label_table_is_that_of_reports(tmp_path):
    """Texts that are always right in training: evaluation is ranked by them, the query unread."""
    from irpo.evaluation.baselines import label_table
    from irpo.measures import mean, per_query
    from irpo.tasks import TASKS, Intake, build_lists

    def row(number: int) -> dict:
        found = a_row(number)
        if number >= 80:  # the first stage missed one, or all
            found["unlisted"] = [{"id": "m", "relevance": 1}]
            found["candidates"] = [c | {"relevance": c["relevance"] * (number < 85)} for c in found["candidates"]]
        for place, c in enumerate(found["candidates"]):
            c["text"] = f"text {random.Random(f'{number} {place}').randrange(20) + 100 * c['relevance']}"
        return found

    train, evaluation = [row(n) for n in range(60)], [row(n) for n in range(60, 90)]
    check = checked(tmp_path, train, evaluation)
    lists = build_lists(TASKS.build("jsonl", data=str(tmp_path)), Intake())
    (by_table,) = label_table(lists["eval"], lists["train"], 0)
    labels, missed = ({e.id: of(e) for e in lists["eval"]} for of in (lambda e: e.relevance, lambda e: e.missed))
    values = per_query(by_table.rankings, labels, ["NDCG@10"], missed=missed)["NDCG@10"]
    assert check.label_table.ndcg == pytest.approx(mean(values), abs=0.02)  # ties are drawn by another key
    assert check.label_table.random < 0.6 < 0.7 < check.label_table.ndcg < 0.8
    assert "label table" in kinds(check)


def test_what_fits_is_counted_in_the_models_tokens(tmp_path):
    from irpo.checking import Budget

    write_lines(tmp_path / "train.jsonl", [a_row(n, size=3 + n) for n in range(12)])
    spec = {"name": "jsonl", "data": str(tmp_path)}
    check = irpo.check(spec, model="embedded")
    tokens = check.splits["train"].tokens
    assert (check.budget.max_tokens, check.budget.style, len(tokens)) == (512, "text", 12)
    fitting = sum(count <= 512 for count in tokens) / 12
    assert 0 < fitting < 1
    assert check.splits["train"].fit(512) == fitting
    budget = Budget.of("embedded", "jsonl", max_tokens=max(tokens))
    from irpo.tasks import TASKS, Intake, build_lists

    (longest,) = [e for e in build_lists(TASKS.build(spec), Intake())["train"] if len(e.candidates) == 14]
    assert budget.builder.build(longest).candidate_tokens_cut == 0  # it says what training would cut
    assert Budget.of("embedded", "jsonl", max_tokens=max(tokens) - 1).builder.build(longest).candidate_tokens_cut > 0
    (finding,) = check.findings
    assert finding.kind == "budget"
    assert f"prompt.max_tokens={max(tokens)}" in finding.advice
    assert irpo.check(spec, model="embedded", style="label").splits["train"].tokens[-1] < max(tokens)


def test_picture_and_json_come_together_and_nothing_else(tmp_path):
    write_lines(tmp_path / "in" / "train.jsonl", [a_row(n) for n in range(12)])
    out = tmp_path / "out"
    check = irpo.check({"name": "jsonl", "data": str(tmp_path / "in")}, out)
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "check.png"]
    told = json.loads((out / "check.json").read_text())
    assert told == json.loads(json.dumps(check.as_dict()))
    assert told["splits"]["train"]["lists"] == 12
    picture = (out / "check.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(picture[16:20]) == 1350
    irpo.check({"name": "jsonl", "data": str(tmp_path / "in")}, out)
    assert (out / "check.png").read_bytes() == picture  # the same of the same lists


def test_a_split_without_a_list_is_wrong_and_still_shown(tmp_path):
    write_lines(tmp_path / "in" / "train.jsonl", [{"id": "broken"}])
    write_lines(tmp_path / "in" / "eval.jsonl", [a_row(n) for n in range(12)])
    check = irpo.check({"name": "jsonl", "data": str(tmp_path / "in")}, tmp_path / "out", model="embedded")
    assert kinds(check) == {"bad rows": 1, "no list": 0}
    assert check.wrong
    assert "train: no list could be made" in printed(check)
    assert (tmp_path / "out" / "check.png").stat().st_size > 10_000


def test_other_tasks_are_checked_too(tmp_path):
    write_list(tmp_path / "hotpot_train_v1.1.json", [hotpot("a"), hotpot("b", 4), hotpot("c") | {"question": 1}])
    check = irpo.check({"name": "hotpotqa", "data": str(tmp_path)})
    assert check.splits["train"].lists == 2
    assert check.splits["train"].groups == 1
    assert check.bad_rows == ("hotpot_train_v1.1.json:3: 'question' is 1; it must be a text",)
    world = irpo.check({"name": "world", "train_lists": 40, "eval_lists": 20})
    assert not world.wrong
    assert world.splits["eval"].lists == 20


def test_the_table_fits_80_columns(tmp_path):
    text = printed(checked(tmp_path, [a_row(n) for n in range(12)], [a_row(n) for n in range(1, 15)]))
    assert max(map(len, text.splitlines())) <= 80
    assert "train.jsonl:2 and eval.jsonl:1" in text


def run(capsys, monkeypatch, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["irpo", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_the_command(capsys, monkeypatch, tmp_path):
    data = write_lines(tmp_path / "train.jsonl", [a_row(n) for n in range(12)])
    told = run(capsys, monkeypatch, "prepare", "--task", "jsonl", "--data", str(data), "--check")
    assert told[0] == 0
    assert "nothing found wrong" in told[1]
    assert sorted(tmp_path.iterdir()) == [data]
    write_lines(data, [a_row(1), {"id": "broken"}])
    own = ("prepare", "--task", "jsonl", "--data", str(data), "--check")
    assert run(capsys, monkeypatch, *own)[0] == 1
    assert run(capsys, monkeypatch, *own, "--skip-bad-rows")[0] == 0  # they are left out: as the user said
    write_lines(data, [a_row(1), a_row(1)])
    assert run(capsys, monkeypatch, "prepare", "--task", "jsonl", "--data", str(data), "--check")[0] == 1
    for words in (["--model", "embedded"], []):
        code, _, error = run(capsys, monkeypatch, "prepare", "--task", "jsonl", "--data", str(data), *words)
        assert code == 2
        assert "--check" in error
        assert error.count("\n") == 1
    code, _, error = run(capsys, monkeypatch, "prepare", "--task", "jsonl", "--data", "nowhere", "--check")
    assert code == 2
    assert "nowhere: there is no such file or folder" in error


def test_mistakes_raise(tmp_path):
    write_lines(tmp_path / "train.jsonl", [a_row(1)])
    spec = {"name": "jsonl", "data": str(tmp_path)}
    with pytest.raises(UserError, match="give the model, too"):
        irpo.check(spec, max_tokens=100)
    with pytest.raises(UserError, match="unknown style"):
        irpo.check(spec, model="embedded", style="rhyme")
    with pytest.raises(UserError, match="no_such_model"):
        irpo.check(spec, model=str(tmp_path / "no_such_model"))


def test_memory_does_not_grow_with_the_lists():
    """2,000 lists of 2 kB; what is kept of each, hashes, lies on disk."""
    book, counts = Notebook(), Counts(1.0)
    tracemalloc.start()
    for number in range(2000):
        candidates = tuple(Candidate(str(j), f"{number} {j}" + "." * 400, float(j == 0)) for j in range(5))
        example = RankingExample(str(number), f"which {number}", candidates)
        counts.add(example, str(number))
        book.add("train", example)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800_000


def test_torch_is_not_loaded_for_a_mistake(tmp_path):
    code = (
        "import sys, irpo\n"
        "try: irpo.check({'name': 'jsonl', 'data': 'nowhere', 'x': 1})\n"
        "except ValueError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "False"


def test_findings_are_sorted_the_worst_first(tmp_path):
    rows = [a_row(n) for n in range(12)]
    check = checked(tmp_path, [*rows, rows[0]], rows)
    levels = [finding.level for finding in check.findings]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    assert len(set(levels)) == 2
