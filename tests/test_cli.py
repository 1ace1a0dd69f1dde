"""The command line: fast at the door, one line for a mistake, and the right call for each command."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

import irpo
from irpo import cli
from irpo.ranking.documents import Document
from irpo.ranking.modes import RANKING_MODES
from irpo.ranking.reranker import Ranked
from irpo.scoring.models import load_tokenizer
from irpo.tasks.preparing import Layout
from irpo.types import UserError

TRAIN = ["train", "models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip()


@pytest.fixture
def pipeline(monkeypatch):
    """A stand-in for `irpo.pipeline` that notes its calls."""
    fake = types.ModuleType("irpo.pipeline")
    fake.calls = []
    answers = {"rank": [Ranked(1, 1, "[b]old", 0.25), Ranked(2, 0, "a", None)]}

    def note(name):
        def call(*args, **kwargs):
            fake.calls.append((name, args, kwargs))
            return answers.get(name, {"lists": 3})

        return call

    for name in ("prepare", "train", "evaluate", "rank"):
        setattr(fake, name, note(name))
    monkeypatch.setitem(sys.modules, "irpo.pipeline", fake)
    monkeypatch.setattr(irpo, "pipeline", fake, raising=False)
    return fake


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the console script in this process; gives exit code, stdout and stderr."""

    def _run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["irpo", *args])
        try:
            cli.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return _run


def test_help_answers_at_once():
    times = []
    for _ in range(3):  # of the processor, and the best of three: a busy machine is not a slow door
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "irpo", "--help"], capture_output=True, text=True, timeout=200)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert all(name in done.stdout for name in ("prepare", "train", "evaluate", "rank", "list", "doctor"))
        if times[-1] < 2:
            return
    pytest.fail(f"irpo --help took {min(times):.2f} s")


@pytest.mark.parametrize(
    "code",
    [
        "import irpo",
        "import irpo.cli",
        "from irpo.config.schema import load_config; load_config(['quickstart.yaml', 'methods/dpo.yaml'])",
        "import irpo.registry, irpo.types, irpo.resources",
        "from irpo.ranking import modes; modes.RANKING_MODES.build('score')",
        "import irpo; irpo.Document('a')",
        "from irpo.commands import serving; from irpo.server import adapters, addresses, keys, limits",
    ],
)
def test_the_door_does_not_load_torch(code):
    heavy = ("torch", "transformers", "numpy", "scipy", "datasets")
    assert python(f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])") == "[]"


def test_version(run):
    assert run("--version") == (0, f"irpo {irpo.__version__}\n", "")


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ranker'"):
        _ = irpo.ranker
    assert set(irpo.__all__) == set(dir(irpo))


def test_a_users_mistake_is_one_line_and_exit_code_2(run):
    code, out, err = run("train", "nowhere.yaml", "--out", "runs/x")
    assert (code, out) == (2, "")
    assert err.startswith("error: no configuration file 'nowhere.yaml'")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "Missing argument 'FILE.yaml|KEY=VALUE...'"),
        (["prepare", "--out", "x"], "Missing option '--task'"),
        (["no-such-command"], "No such command 'no-such-command'"),
        (["rank", "--no-such-flag"], "No such option: --no-such-flag"),
        (["rank", "q", "a", "b", "--model", "x", "--max-tokens", "3"], "Invalid value for '--max-tokens'"),
    ],
)
def test_a_usage_error_is_one_line_too(run, args, said):
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {said}")
    assert err.endswith(" --help` says what there is)\n")


def test_no_word_at_all_shows_the_help(run):
    code, out, err = run()
    assert (code, "Commands" in out + err) == (2, True)


@pytest.mark.parametrize("words", [["rank", "q", "a", "b"], ["evaluate", "--out", "found"]])
def test_a_mode_of_the_runs_own_plug_ins_is_known(run, pipeline, tmp_path, monkeypatch, words):
    (tmp_path / "my_backwards.py").write_text(
        "from dataclasses import dataclass\n"
        "from irpo.ranking.modes import RANKING_MODES\n\n"
        '@RANKING_MODES.register("backwards")\n'
        "@dataclass(frozen=True)\n"
        "class Backwards:\n"
        "    writes = False\n"
    )
    (tmp_path / "config.yaml").write_text(
        "model: {name: embedded}\ntask: {name: world}\nmethod: {objective: irpo}\nplugins: [my_backwards]\n"
    )
    monkeypatch.setattr(RANKING_MODES, "_classes", dict(RANKING_MODES._classes))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_backwards", raising=False)
    command, *others = words
    code, _, err = run(command, "--model", str(tmp_path), "--trust-plugins", "--mode", "backwards", *others)
    sys.modules.pop("my_backwards")
    assert (code, err) == (0, "")


def test_evaluate_never_writes_where_its_data_lie(run, pipeline, tmp_path):
    words = ["--task", "jsonl", "--data", str(tmp_path), "--out", f"{tmp_path}/"]
    code, _, err = run("evaluate", "--model", "embedded", *words)
    assert (code, pipeline.calls) == (2, [])
    assert "would write where data" in err


@pytest.mark.parametrize(("name", "said"), [("notes.csv", "it is a file"), (".", "the folder holds neither")])
def test_what_is_no_model_is_called_so(tmp_path, name, said):
    (tmp_path / "notes.csv").write_text("a,b")
    with pytest.raises(UserError, match=said):
        load_tokenizer(str(tmp_path / name))


def test_an_unexpected_error_keeps_its_traceback(run, pipeline, monkeypatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipeline, "train", broken)
    with pytest.raises(ZeroDivisionError):
        run(*TRAIN, "--out", "runs/x")


def test_an_interrupt_exits_130(run, pipeline, monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", interrupted)
    assert run(*TRAIN, "--out", "runs/x")[0] == 130


def test_a_message_of_many_lines_becomes_one(run, pipeline, monkeypatch):
    def refused(*args: object, **kwargs: object) -> None:
        raise UserError("no model\n  of that name")

    monkeypatch.setattr(pipeline, "train", refused)
    assert run(*TRAIN, "--out", "runs/x") == (2, "", "error: no model of that name\n")


def test_prepare_passes_the_tasks_options(run, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "irpo.tasks.preparing.prepare", lambda task, out, **given: calls.append((task, out, given)) or {}
    )
    monkeypatch.setattr("irpo.tasks.preparing.summary", lambda card: "so it is")
    words = ["prepare", "--task", "arc", "--data", "d", "--out", str(tmp_path), "--seed", "3", "list_size=10"]
    code, out, _ = run(*words, "--processes", "2")
    ((task, folder, given),) = calls
    assert (task.list_size, task.data, task.seed, folder) == (10, "d", 3, tmp_path)
    spec = {"list_size": 10, "name": "arc", "data": "d", "seed": 3}
    assert given == {"task_spec": spec, "skip_bad_rows": False, "layout": Layout("jsonl", 10_000, 2)}
    assert code == 0
    assert "so it is" in out


def test_prepare_refuses_an_option_without_a_value(run, pipeline):
    assert "write option=value" in run("prepare", "--task", "arc", "--out", "x", "candidates")[2]


def test_train_sorts_files_from_overrides(run, pipeline, tmp_path):
    assert run(*TRAIN, "training.learning_rate=2e-5", "--out", str(tmp_path), "--resume")[0] == 0
    ((name, (config, out), kwargs),) = pipeline.calls
    assert (name, out, kwargs) == ("train", tmp_path, {"resume": True})
    assert config.training.learning_rate == 2e-5


def test_evaluate_takes_the_runs_own_task(run, pipeline, tmp_path):
    assert run(*TRAIN, "task.eval_lists=5", "--out", "x")[0] == 0
    config = pipeline.calls.pop()[1][0]
    from irpo.config.schema import to_yaml

    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert run("evaluate", "--model", str(tmp_path), "--out", "x", "eval_lists=7", "--mode", "score")[0] == 0
    ((_, (model, spec, _out, settings), _),) = pipeline.calls
    assert (model, spec["name"], spec["eval_lists"], settings.modes) == (
        str(tmp_path),
        "world",
        7,
        ({"name": "score"},),
    )


def test_evaluate_needs_a_task_for_a_model_that_is_no_run(run, pipeline):
    code, _, err = run("evaluate", "--model", "embedded", "--out", "x")
    assert code == 2
    assert err.startswith("error: --task is needed: 'embedded' is not a finished run's folder")


ALL_MODES = tuple({"name": name} for name in ("score", "generate", "constrain"))


def test_evaluate_measures_all_modes_unless_told(run, pipeline):
    run("evaluate", "--model", "embedded", "--task", "world", "--out", "x", "--max-lists", "4", "--style", "label")
    ((_, (_, spec, _out, settings), chosen),) = pipeline.calls
    assert (spec, settings.modes, settings.max_lists) == ({"name": "world"}, ALL_MODES, 4)
    own = {"strength": None, "strength_by": None, "engine": "transformers"}  # the run's
    assert chosen == {"style": "label", "like": None, "max_tokens": None, "skip_bad_rows": False} | own


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            ["--mode", "guess"],
            "unknown ranking mode 'guess'; choose from constrain, generate, generate_strengthened, label, score, "
            "setwise, tournament, window",
        ),
        (["--style", "prose"], "unknown style 'prose'; choose from text, label, response, pointwise"),
    ],
)
def test_an_unknown_mode_or_style_lists_the_choices(run, pipeline, flag, said):
    code, _, err = run("evaluate", "--model", "embedded", "--task", "world", "--out", "x", *flag)
    assert (code, err) == (2, f"error: {said}\n")
    assert pipeline.calls == []


def test_rank_prints_documents_as_they_are(run, pipeline, tmp_path):
    file = tmp_path / "docs.txt"
    file.write_text("a\n\n[b]old\n")
    code, out, _ = run("rank", "--model", "embedded", "which?", "--file", str(file))
    assert code == 0
    assert "[b]old" in out
    assert "0.2500" in out
    own = dict.fromkeys(("style", "max_tokens", "strength", "strength_by")) | {"engine": "transformers"}
    assert pipeline.calls == [
        ("rank", ("embedded", "which?", (Document("a"), Document("[b]old")), {"name": "score"}), own)
    ]


def test_rank_prints_json(run, pipeline):
    _, out, _ = run("rank", "--model", "embedded", "which?", "a", "b", "--json")
    assert [row["rank"] for row in json.loads(out)] == [1, 2]


def test_rank_shows_the_best_few_of_documents_with_ids(run, pipeline, tmp_path):
    file = tmp_path / "docs.jsonl"
    file.write_text('{"text": "a", "id": "x"}\n\n{"text": "b"}\n')
    _, out, _ = run("rank", "--model", "embedded", "which?", "c", "--file", str(file), "--top-n", "1", "--json")
    assert [row["rank"] for row in json.loads(out)] == [1]
    assert pipeline.calls[0][1][2] == (Document("c"), Document("a", "x"), Document("b"))


@pytest.mark.parametrize(
    ("documents", "message"), [([], "there is no document to rank"), (["a", " "], "document 2: text is empty")]
)
def test_rank_needs_documents(run, pipeline, documents, message):
    code, _, err = run("rank", "--model", "embedded", "which?", *documents)
    assert (code, pipeline.calls) == (2, [])
    assert message in err


def test_rank_names_a_file_that_is_not_there(run, pipeline, tmp_path):
    code, _, err = run("rank", "--model", "embedded", "which?", "--file", str(tmp_path / "no.txt"))
    assert code == 2
    assert "no.txt: there is no such file" in err


def test_quickstart_writes_to_runs_by_default(run, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "irpo.quickstart", types.SimpleNamespace(run=lambda *args: calls.append(args)))
    run("quickstart")
    assert calls == [(Path("runs/quickstart"), None)]


def test_list_refuses_an_unknown_kind(run):
    code, _, err = run("list", "losses")
    assert (code, err.strip()) == (
        2,
        "error: unknown kind of plug-in 'losses'; choose from objectives, metrics, scorers, tasks, modes, "
        "on_policy, rewards, samplers, engines",
    )


def test_list_shows_every_kind_with_options_and_defaults(run):
    code, out, _ = run("list", "--json")
    assert code == 0
    found = {kind: {row["name"]: row for row in rows} for kind, rows in json.loads(out).items()}
    assert set(found["objectives"]) >= {"irpo", "sft", "dpo", "sdpo"}
    assert "beta=1.0" in found["objectives"]["irpo"]["options"]
    assert "metric=ndcg" in found["objectives"]["irpo"]["options"]
    assert set(found["metrics"]) >= {"ndcg", "map", "mrr", "precision", "edcg"}
    assert set(found["scorers"]) >= {"independent", "list", "label"}
    tasks = {"redial", "inspired", "hotpotqa", "musique", "arc", "commonsenseqa", "jsonl", "world"}
    assert set(found["tasks"]) >= tasks
    assert all(row["what it does"] for rows in found.values() for row in rows.values())


def test_list_shows_the_users_plugins(run, tmp_path, monkeypatch):
    (tmp_path / "my_metrics_for_irpo.py").write_text(
        "from dataclasses import dataclass\n"
        "from irpo.positional import POSITIONAL_METRICS\n"
        "@POSITIONAL_METRICS.register('my_own')\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    'Mine alone.'\n"
        "    strict: bool = True\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, out, _ = run("list", "metric", "--plugin", "my_metrics_for_irpo", "--json")
    from irpo.positional import POSITIONAL_METRICS

    POSITIONAL_METRICS._classes.pop("my_own")
    sys.modules.pop("my_metrics_for_irpo")
    assert code == 0
    assert {"name": "my_own", "options": "strict=true", "what it does": "Mine alone."} in json.loads(out)["metrics"]


def test_doctor_tries_four_bits_and_attention(run):
    _, out, _ = run("doctor", "--json")
    checks = {check["topic"]: check for check in json.loads(out)}
    assert checks["4-bit (nf4)"]["detail"].startswith("works: quantized")
    assert checks["attention sdpa"]["state"] == checks["attention eager"]["state"] == "ok"
    assert checks["torch"]["state"] == "ok"


def test_doctor_says_why_four_bits_do_not_work(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what `import` sees where it is not installed
    _, out, _ = run("doctor", "--json")
    four = next(check for check in json.loads(out) if check["topic"] == "4-bit (nf4)")
    assert four["state"] == "optional"
    assert "does not work: import of bitsandbytes" in four["detail"]


def test_main_is_the_console_script():
    assert isinstance(cli.app, typer.Typer)
    assert python("import importlib.metadata as m; print(m.entry_points(group='console_scripts')['irpo'].value)") == (
        "irpo.cli:main"
    )
