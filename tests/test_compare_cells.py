"""From a suite to cells, and what a cell does: keys, the search's choice, the protocol, what is shared."""

from __future__ import annotations

import json
from pathlib import Path

import compared
import numpy as np
import pytest
from small_collection import FIRST_STAGE, run_text, write, write_beir

from irpo import api
from irpo.compare.cells import CELLS
from irpo.compare.gather import gather, write_plan
from irpo.compare.results import read_result, write_result
from irpo.compare.shared import Prepared, kept, lists_of
from irpo.compare.suite import read_suite
from irpo.compare.work import do
from irpo.tasks.preparing import build
from irpo.types import Diverged, TooFew, UserError


def done(planner, cell):
    """Do a cell here, in this process."""
    folder = planner.out / CELLS / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    result = do(folder, cell.spec)
    write_result(folder, result)
    return result


def of(planner, kind, method="IRPO"):
    return [c for c in planner.waiting().ready if (c.spec["kind"], c.spec["method"]) == (kind, method)]


# --- planning ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def planner(tmp_path):
    return compared.planner(tmp_path)


def test_runs_are_known_when_the_search_has_chosen(planner):
    waiting = planner.waiting()
    kinds = [c.spec["kind"] for c in waiting.ready]
    assert kinds == ["baseline", "untrained", *["trial"] * 4]
    assert waiting.unknown == 4  # two methods, two seeds
    assert len({c.key for c in waiting.ready}) == len({c.name for c in waiting.ready}) == 6


def test_a_key_is_of_what_changes_the_result(tmp_path, planner):
    def keys(**changed):
        (tmp_path / "other").mkdir(exist_ok=True)
        return {
            c.name.rpartition(".")[0]: c.key for c in compared.planner(tmp_path / "other", **changed).waiting().ready
        }

    own = {c.name.rpartition(".")[0]: c.key for c in planner.waiting().ready}
    assert keys(title="another", about="words", keep_runs=True, against=("SFT",)) == own
    assert keys(set=planner.suite.set | {"evaluation.lists_per_batch": 2, "training.logging_every": 1}) == own
    decoded, longer = keys(decoded_lists=2), keys(set=planner.suite.set | {"training.updates": 3})
    assert {name for name in own if decoded[name] != own[name]} == {
        "world.baseline",
        "embedded.world.base.untrained",
    }  # how is measured is nothing to a trial
    assert {name for name in own if longer[name] != own[name]} == {n for n in own if ".trial." in n}


def test_the_paper_can_be_planned_without_its_data(tmp_path):
    from irpo.compare.planning import Planner

    planner = Planner(read_suite("suites/paper.yaml", tmp_path), tmp_path / "out")
    planner.prepare()
    assert not any(isinstance(found, Prepared) for found in planner.lists.values())
    assert "no such file or folder" in str(planner.lists["arc"])
    assert planner.waiting().ready == ()
    assert len(planner.frame().printed) == 540


def test_an_objective_gets_the_reference_that_its_setting_needs(planner):
    entry = planner.suite.methods[2].model_copy(update={"layers": ("methods/pl_rank.yaml",), "name": "pl"})
    model, task = planner.suite.models[0], planner.suite.tasks[0]
    assert planner.config(model, task, entry).method.reference == "none"
    with_one = planner.config(model, task, entry, {"method.objective.reference_weight": 1.0})
    assert with_one.method.reference == "precomputed"


# --- doing ------------------------------------------------------------------------------------------------------------


def test_lists_are_prepared_once_and_are_the_tasks_own(planner, monkeypatch):
    own = planner.lists["world"]
    lists, card = lists_of(planner.out, own.key)
    spec = {"name": "world", "train_lists": 60, "eval_lists": 8, "candidates": 4}
    assert lists == build(spec)[0]
    assert card["splits"]["eval"]["sha256"] == own.digests["eval"]
    monkeypatch.setattr("irpo.compare.shared.prepare", lambda *_, **__: pytest.fail("built again"))
    planner.lists.clear()
    planner.prepare()
    assert planner.lists["world"] == own


def test_arrays_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return [np.array([1.0, 2.0]), np.array([3.0])]

    first, again = (kept(tmp_path, ["key"], make) for _ in range(2))
    assert [a.tolist() for a in first] == [a.tolist() for a in again] == [[1.0, 2.0], [3.0]]
    assert made == [1]
    kept(tmp_path, ["another"], make)
    assert made == [1, 1]


def test_baselines_are_rows_of_one_cell_and_rankers_of_the_report(planner):
    (cell,) = of(planner, "baseline", "")
    result = done(planner, cell)
    assert [row.mode for row in result.rows] == ["random", "input order", "BM25", "popularity", "label table"]
    waiting = planner.waiting()
    write_plan(planner.out, planner.frame(), waiting.ready, waiting.unknown)
    found = gather([planner.out])
    assert [r.method for r in found.results] == [row.mode for row in result.rows]
    assert all(r.rows[0].mode == "given" for r in found.results)
    assert len(found.missing) == 5
    assert len(found.lists[found.frame.tasks[0].lists]) == 8


@pytest.mark.slow
def test_a_search_chooses_and_its_run_is_measured_by_the_protocol(planner):
    trials = of(planner, "trial")
    values = []
    for cell in trials:
        result = done(planner, cell)
        assert result.rows == ()
        assert set(result.validation["curve"]) == {"0.5", "1", "1.5", "2", "3", "5", "10", "reward"}
        assert [update for update, _ in result.validation["log"]] == [0, 1, 2]
        assert not (planner.out / CELLS / cell.name / "run").exists()
        values.append(result.validation["curve"][result.validation["auto"]])
    runs = of(planner, "run")
    assert len(runs) == 2
    assert runs[0].spec["setting"] == trials[values.index(max(values))].spec["setting"]
    result = done(planner, runs[0])
    assert result.trials == 2
    assert read_result(planner.out / CELLS / runs[0].name).row("score", "auto").order == 0
    auto = result.validation["auto"]
    by_score = [(row.strength, row.order, row.shown) for row in result.rows if row.mode == "score"]
    if auto == "1":
        assert by_score == [("1", 0, ("1", "auto")), ("1", 1, ("1", "auto")), ("1", -1, ("1", "auto"))]
    else:
        assert by_score == [(s, o, (name,)) for s, name in (("1", "1"), (auto, "auto")) for o in (0, 1, -1)]
    assert {row.values.shape[1] for row in result.rows if row.mode == "score"} == {8}
    decoded = [row for row in result.rows if row.mode != "score"]
    assert {row.mode for row in decoded} == {"generate", "constrain"}
    assert {row.values.shape for row in decoded} == {(3, 3)}
    assert all(
        sorted(order) == [0, 1, 2, 3]
        for row in result.rows
        if row.mode == "constrain"
        for order in row.rankings.tolist()
    )
    # The curve by strength says at 1 and at auto what the rows say.
    for name in ("1", "auto"):
        row = result.row("score", name)
        assert result.by_strength[row.strength] == pytest.approx(row.of("NDCG@10").mean(), abs=1e-6)
    assert result.cost["seconds"] > 0
    assert result.made["packages"]["torch"]


@pytest.mark.slow
def test_in_another_candidate_order_rankings_name_candidates_as_the_list_has_them(planner):
    """The untrained model ranks mostly by fame, whatever the order: its rankings hardly differ."""
    (cell,) = of(planner, "untrained", "base")
    result = done(planner, cell)
    first, other, together = (result.row("score", "1", order=order) for order in (0, 1, -1))
    assert (first.rankings.shape, first.passes) == ((8, 4), 1.0)
    alike = (first.rankings == other.rankings).mean()
    assert alike > 0.6  # were they named as they were asked, a quarter of the places would be alike
    lists, _ = lists_of(planner.out, cell.spec["prepared"])
    relevance = [e.relevance for e in lists["eval"]]
    best = [max(range(4), key=lambda j: -rank.tolist().index(j)) for rank in other.rankings]
    assert all(
        other.of("NDCG@1")[i] == (2 ** relevance[i][j] - 1) / (2 ** max(relevance[i]) - 1) for i, j in enumerate(best)
    )
    assert (together.rankings == first.rankings).mean() > 0.6


def test_what_a_cell_is_told_is_json(planner):
    for cell in planner.waiting().ready:
        assert json.loads(json.dumps(cell.spec))["key"] == cell.key


# --- rankers that are not ours ----------------------------------------------------------------------------------------


def test_a_trec_run_stands_in_the_report_from_then_on(planner, tmp_path):
    from irpo.compare.comparing import noted, report

    (cell,) = of(planner, "baseline", "")
    done(planner, cell)
    noted(planner)
    lists, _ = lists_of(planner.out, cell.spec["prepared"])
    run = tmp_path / "mine.trec"
    with run.open("w") as file:
        for example in lists["eval"][:-1]:  # one list is missing
            for candidate in example.candidates:
                file.write(f"{example.id} Q0 {candidate.id} 0 {candidate.relevance} mine\n")
    made = report([planner.out], planner.out, {"mine": run})
    for again in (made, report([planner.out], planner.out)):
        (row,) = [row for row in again.tables[0].rows if row.name == "mine"]
        assert row.kind == "external"
        assert row.cells[2].value == pytest.approx(7 / 8)  # in the order of the labels, but for the missing list
        assert any("1 list" in mark for mark in row.marks)
    with pytest.raises(UserError, match="the suite has a method of this name"):
        report([planner.out], planner.out, {"SFT": run})
    run.write_text("nobody Q0 x 1 1.0 mine\n")
    with pytest.raises(UserError, match="ranks no list of this suite's tasks"):
        report([planner.out], planner.out, {"other": run})


def test_what_a_ranker_says_itself_wins_over_the_suite(tmp_path):
    own = "rankers: [{name: another, layers: [models/qwen3-reranker-0.6b.yaml], set: {evaluation.max_lists: 3}}]\n"
    planner = compared.planner(tmp_path, compared.SUITE + own)  # whose layer quickstart.yaml names model and style
    (cell,) = of(planner, "external", "another")
    config = cell.spec["config"]
    assert (config["model"]["name"], config["prompt"]["style"]) == ("Qwen/Qwen3-Reranker-0.6B", "pointwise")
    assert config["evaluation"]["max_lists"] == 3
    assert cell.spec["model"] == ""


def test_a_ranker_whose_prompt_is_missing_stops_nobody_else(tmp_path):
    own = "rankers: [{name: first, layers: [rankers/first.yaml], set: {prompt.template: nowhere.yaml}}]\n"
    planner = compared.planner(tmp_path, compared.SUITE + own)
    assert of(planner, "external", "first") == []
    assert "nowhere.yaml" in planner.unready["first"]
    assert len(of(planner, "untrained", "base")) == 1


# --- what would be found stale, torn or lost --------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["whole path", "from the data's folder"])
def test_lists_are_made_anew_where_a_file_outside_the_data_changed(tmp_path, named):
    from irpo.compare.shared import prepared

    folder, run = write_beir(tmp_path / "beir"), tmp_path / "mine.run"
    shown = str(run) if named == "whole path" else "../mine.run"
    layers = [
        "models/embedded.yaml",
        "tasks/beir.yaml",
        "methods/irpo.yaml",
        f"task.data={folder}",
        f"task.run={shown}",
    ]
    config = api.config_from(layers)
    write(run, run_text(FIRST_STAGE))
    first = prepared(tmp_path / "out", config)
    assert prepared(tmp_path / "out", config) == first
    write(run, run_text({query: found[::-1] for query, found in FIRST_STAGE.items()}))
    second = prepared(tmp_path / "out", config)
    assert first.digests["eval"] != second.digests["eval"]
    assert lists_of(tmp_path / "out", second.key)[0]["eval"][0].relevance == (0, 2, 0)


def test_lists_of_queries_without_a_relevant_document_are_read_again(tmp_path):
    from irpo.compare.shared import prepared

    folder = write_beir(tmp_path / "beir")
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "5\td-brake\t0\n")
    layers = ["models/embedded.yaml", "tasks/beir.yaml", "methods/irpo.yaml", f"task.data={folder}"]
    made = prepared(tmp_path / "out", api.config_from(layers))
    lists, _ = lists_of(tmp_path / "out", made.key)
    assert [e.id for e in lists["eval"]] == ["1", "2", "3", "5"]


def test_a_word_that_is_a_files_name_too_and_a_cache_are_no_input(tmp_path, monkeypatch):
    from irpo.tasks import TASKS
    from irpo.tasks.preparing import files_named

    monkeypatch.chdir(tmp_path)
    for name in ("scifact", "test", "beir", "cache.jsonl"):
        (tmp_path / name).mkdir()
    assert files_named(TASKS.build("beir", data="beir", eval_split="test")) == {"data": Path("beir")}
    assert files_named(TASKS.build("beir", data="hub", dataset="scifact", eval_split="test")) == {}
    assert files_named(TASKS.build("redial", data="beir", llm_cache="cache.jsonl")) == {"data": Path("beir")}


def test_prepared_lists_are_of_every_byte_and_of_a_hubs_revision(tmp_path):
    from irpo.compare.shared import _content

    (tmp_path / "train.jsonl").write_bytes(b"a" * 3_000_000)
    before = _content(str(tmp_path))
    (tmp_path / "train.jsonl").write_bytes(b"a" * 1_500_000 + b"b" + b"a" * 1_499_999)
    assert _content(str(tmp_path)) != before
    assert _content("hub") != _content("hub@abc")


def test_a_torn_file_of_arrays_is_no_result(tmp_path):
    from irpo.compare.results import ROWS, Result

    write_result(tmp_path, Result("k", "run", "world", "SFT"))
    assert read_result(tmp_path) is not None
    (tmp_path / ROWS).write_bytes(b"PK\x03\x04" + b"torn" * 20)
    assert read_result(tmp_path) is None


def test_two_methods_of_one_configuration_are_two_rows(tmp_path):
    again = "{name: SFT again, layers: [methods/sft.yaml]}"
    text = compared.SUITE.replace("{name: IRPO, layers: [methods/irpo.yaml]}", again)
    planner = compared.planner(tmp_path, text)
    trials = [c for c in planner.waiting().ready if c.spec["kind"] == "trial"]
    assert len({c.key for c in trials}) == 2
    assert len({c.name for c in trials}) == 4
    waiting = planner.waiting()
    write_plan(planner.out, planner.frame(), waiting.ready, waiting.unknown)
    assert len(gather([planner.out]).missing) == len(waiting.ready)


def test_a_search_of_which_nothing_came_chooses_nothing(planner):
    for cell in planner.waiting().ready:
        if cell.spec["kind"] == "trial":
            (planner.out / CELLS / cell.name).mkdir(parents=True)
            (planner.out / CELLS / cell.name / "error.json").write_text("{}")
    assert not any(c.spec["kind"] == "run" for c in planner.waiting().ready)


@pytest.mark.parametrize("kind", [Diverged, TooFew])
def test_a_loss_that_is_lost_is_a_result_and_too_few_answers_at_once_an_error(planner, monkeypatch, kind):
    def train(*_, **__):
        raise kind("it ended")

    monkeypatch.setattr("irpo.pipeline.train", train)
    cell = of(planner, "trial")[0]
    if kind is TooFew:
        with pytest.raises(TooFew):
            done(planner, cell)
    else:
        result = done(planner, cell)
        assert (result.diverged, result.note, result.validation) == (True, "it ended", {})


def test_strengths_by_the_adapter_are_refused(tmp_path):
    text = compared.SUITE.replace("set:\n", "set:\n  ranking.strength_by: adapter\n")
    planner = compared.planner(tmp_path, text)
    assert "a suite takes all strengths from logits" in str(planner.lists["world"])
