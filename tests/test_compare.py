"""A suite from the command line: run, gone on with, narrowed, foreseen, reported from several folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import compared
import pytest
from compare_reports import report as made_up

from irpo.compare.comparing import OWN, require_suites, with_best
from irpo.compare.forecast import Forecast, Need
from irpo.compare.gather import gather
from irpo.compare.results import Frame, Result, TaskFrame
from irpo.compare.terminal import chosen_by_validation, grids
from irpo.types import UserError


def command(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "irpo", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_suite_is_done_gone_on_with_and_reported_from_two_folders(tmp_path):
    (tmp_path / "suite.yaml").write_text(compared.SHORT)
    code, out, err = command("compare", "suite.yaml", "--out", "a", "--only", "method=SFT", "--jobs", "2", cwd=tmp_path)
    assert code == 0, err
    assert "NDCG@10 on world" in out
    told = json.loads((tmp_path / "a" / "report.json").read_text())
    assert [s["state"] for s in told["sources"]].count("done") == 3  # baselines, base, SFT
    assert [s["name"] for s in told["sources"] if s["state"] == "missing"] == ["IRPO on world, embedded: seed 0"]
    assert {row["name"] for row in told["tables"][0]["rows"]} >= {"random", "BM25", "base", "SFT"}
    # Another machine does the rest; the report of both is that of one folder in which all was done.
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder in (tmp_path / "b" / "cells").glob("*SFT*"):
        shutil.rmtree(folder)
    code, _, err = command("compare", "suite.yaml", "--out", "b", "--only", "method=IRPO", cwd=tmp_path)
    assert code == 0, err
    assert "[2/3] from before: 2 done" in err
    code, _, err = command("report", "a", "b", "--out", "both", cwd=tmp_path)
    assert code == 0, err
    code, _, err = command("compare", "suite.yaml", "--out", "a", cwd=tmp_path)
    both, one = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("both", "a"))
    assert both["tables"] == one["tables"]
    assert both["found"] == one["found"]
    for name in ("report.html", "report.md", "lists.json", "tables/report.tex"):
        assert (tmp_path / "both" / name).stat().st_size > 100


@pytest.mark.slow
def test_a_run_file_of_no_use_is_told_before_any_cell_is_begun(tmp_path):
    (tmp_path / "suite.yaml").write_text(compared.SHORT)
    (tmp_path / "x.trec").write_text("q999 Q0 d1 1 1.0 x\n")
    code, _, err = command("compare", "suite.yaml", "--out", "a", "--run", "x=x.trec", cwd=tmp_path)
    assert code == 2
    assert "it ranks no list of this suite's tasks; their ids are those of a/prepared/*/eval.jsonl" in err
    assert not list((tmp_path / "a").glob("cells/*"))
    twice = ("--run", "x=x.trec", "--run", "x=y.trec")
    code, _, err = command("compare", "suite.yaml", "--out", "a", *twice, cwd=tmp_path)
    assert (code, "x is given twice" in err) == (2, True)
    code, _, err = command("compare", "suite.yaml", "--out", "a", "--json", cwd=tmp_path)
    assert (code, "add --dry-run" in err) == (2, True)


@pytest.mark.slow
def test_a_suite_of_which_cells_failed_ends_with_code_1(tmp_path):
    (tmp_path / "suite.yaml").write_text(compared.SHORT)
    planner = compared.planner(tmp_path, compared.SHORT)
    (tmp_path / "out" / OWN).write_text("{}")
    for cell in planner.waiting().ready:
        home = planner.out / "cells" / cell.name
        home.mkdir(parents=True)
        (home / "error.json").write_text(json.dumps({"error": "out of memory"}))
    code, out, err = command("compare", "suite.yaml", "--out", "out", cwd=tmp_path)
    assert code == 1
    assert "4 failed (out/cells has their logs; --retry-failed)" in err
    assert "ranked by" not in out  # there is nothing to show


@pytest.mark.slow
def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(tmp_path):
    (tmp_path / "suite.yaml").write_text(compared.SHORT)
    code, out, err = command("compare", "suite.yaml", "--out", "a", "--dry-run", "--json", "--jobs", 2, cwd=tmp_path)
    assert code == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["suite.yaml"]
    told = json.loads(out)
    (need,) = told["needs"]
    assert (need["cells"], need["done"], need["missing"]) == (3, 0, [])
    assert need["seconds"] > 0
    assert 0 < need["gib"] < 4


def test_what_a_suite_takes_is_summed_and_shared_by_its_jobs():
    needs = (
        Need("m", "a", 4, 1, 600.0, 2.0, 0.5),
        Need("m", "b", 4, 4, 0.0, 3.0),
        Need("m", "c", 4, 0, missing=("x",)),
    )
    told = Forecast("a card", needs, jobs=2)
    assert told._total() == ("total", "", "12", "5", "5 min and more", "3.0 GiB", "0.5 GiB")
    assert told.missing == ("x",)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no suite"):
        require_suites(tmp_path)
    require_suites(tmp_path / "new")
    assert (tmp_path / "new" / OWN).is_file()


def test_folders_of_two_suites_make_no_report(tmp_path):
    for name, title in (("a", "one"), ("b", "another")):
        frame = Frame(title, "", (TaskFrame("world"),), ("m",), ("base",), ())
        (tmp_path / name).mkdir()
        (tmp_path / name / "frame.json").write_text(json.dumps(frame.as_dict()))
    with pytest.raises(UserError, match="another suite's results"):
        gather([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match="no suite's results lie here"):
        gather([tmp_path])


def test_a_failed_cell_is_told_with_its_error(tmp_path):
    planner = compared.planner(tmp_path)
    from irpo.compare.comparing import noted

    noted(planner)
    cell = planner.waiting().ready[1]
    home = planner.out / "cells" / cell.name
    home.mkdir(parents=True)
    (home / "cell.json").write_text(json.dumps({"spec": dict(cell.spec)}))
    (home / "error.json").write_text(json.dumps({"error": "out of memory"}))
    (failed,) = gather([planner.out]).results
    assert (failed.error, failed.kind, failed.method) == ("out of memory", "untrained", "base")


def test_a_search_that_failed_whole_is_followed_by_no_run(tmp_path):
    planner = compared.planner(tmp_path)
    trials = [c for c in planner.waiting().ready if c.spec["kind"] == "trial" and c.spec["method"] == "SFT"]
    for cell in trials:
        home = planner.out / "cells" / cell.name
        home.mkdir(parents=True)
        (home / "error.json").write_text(json.dumps({"error": "it failed"}))
    assert not any(c.spec["kind"] == "run" for c in planner.waiting().ready)  # none came to anything


def test_the_best_is_the_one_that_validation_lists_choose():
    def run(method, one, auto, seed=0):
        told = {"curve": {"1": one, "2": auto}, "auto": "2"}
        return Result(f"{method}{seed}", "run", "world", method, "m", seed, validation=told)

    results = [run("SFT", 0.8, 0.8), run("IRPO", 0.5, 0.9), run("IRPO", 0.5, 0.1, 1)]
    assert chosen_by_validation(results, "1") == "SFT"
    assert chosen_by_validation(results, "auto") == "IRPO"  # by the seed that both have
    assert chosen_by_validation([*results, run("SFT", 0.8, 0.2, 1)], "auto") == "SFT"  # .5 both, the first of equals
    assert chosen_by_validation([run("SFT", 0.8, 0.8), run("IRPO", 0.5, 0.9, 1)], "auto") is None
    frame = Frame("t", "", (TaskFrame("world"),), ("m",), ("base", "SFT", "IRPO"), ("base", "best"))
    assert with_best(frame, results[:2]).against == ("base", "IRPO")
    assert with_best(frame, []).against == ("base",)


def test_a_terminals_tables_are_the_reports(capsys):
    for grid in grids(made_up()):
        grid.show()
        said = capsys.readouterr().out
        assert grid.title in said
        assert all(len(row) == len(grid.header) for row in grid.rows)
