"""A user's mistake: one line that says where, what was given and what is allowed; exit code 2; nothing left behind."""

import json

import pytest

GOOD = {
    "id": "q",
    "query": "which?",
    "candidates": [{"id": "a", "text": "yes", "relevance": 1}, {"id": "b", "text": "no", "relevance": 0}],
}
TRAIN = ["train", "models/embedded.yaml", "methods/irpo.yaml"]


def with_candidates(*candidates):
    return json.dumps(GOOD | {"id": "bad", "candidates": list(candidates)})


A, B = GOOD["candidates"]
BAD_LINES = {
    "broken JSON": ('{"id": "q2", "query": ', "broken JSON"),
    "a label below 0": (with_candidates(A, B | {"relevance": -1}), "relevance"),
    "no relevant item": (with_candidates(A | {"relevance": 0}, B), "no relevant candidate"),
    "one candidate": (with_candidates(A), "candidate"),
    "an unknown key": (json.dumps(GOOD | {"id": "bad", "querry": "x"}), "querry"),
}


@pytest.fixture
def command(irpo):
    """Runs `irpo ...` in an empty folder; gives (exit code, stderr)."""

    def run(*words):
        code, _, err = irpo(*words)
        return code, err

    return run


def one_line(code, err):
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("kind", BAD_LINES)
@pytest.mark.parametrize("job", ["prepare", "train"])
def test_a_broken_row(command, tmp_path, kind, job):
    line, says = BAD_LINES[kind]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    out = tmp_path / "out"
    words = {
        "prepare": ("prepare", "--task", "jsonl", "--data", "data"),
        "train": (*TRAIN, "tasks/jsonl.yaml", "task.data=data"),
    }[job]
    err = one_line(*command(*words, "--out", out))
    assert "train.jsonl:2" in err
    assert says in err
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_broken_rows_are_skipped_and_counted_when_asked(command, tmp_path):
    path = tmp_path / "data" / "train.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join([json.dumps(GOOD), *(line for line, _ in BAD_LINES.values())]))
    code, _ = command("prepare", "--task", "jsonl", "--data", path.parent, "--out", tmp_path / "out", "--skip-bad-rows")
    assert code == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["bad_rows"]["count"] == len(BAD_LINES)
    assert card["splits"]["train"]["lists"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prepare", "--task", "jsonl", "--data", "nowhere"), "nowhere"),
        (("prepare", "--task", "arcc", "--data", "."), "unknown task 'arcc'; choose from arc,"),
        ((*TRAIN, "tasks/world.yaml", "training.learning_rat=1"), "unknown key 'training.learning_rat'"),
        ((*TRAIN, "tasks/world.yaml", "method.objective=irpoo"), "unknown objective 'irpoo'; choose from"),
        ((*TRAIN, "tasks/world.yaml", "method.scorer=independant"), "unknown scorer 'independant'; choose from"),
        ((*TRAIN, "tasks/world.yaml", "method.objective.gama=1"), "unknown option 'gama' of objective 'irpo'"),
        ((*TRAIN, "tasks/world.yaml", "method.scorer=label"), "set prompt.style to 'label'"),
        ((*TRAIN, "tasks/world.yaml", "model.name=no/model"), "cannot load model 'no/model'"),
        ((*TRAIN, "tasks/world.yaml", "training.report_to=[nobody]"), "'nobody' is not installed"),
        ((*TRAIN, "tasks/world.yaml", "model.dtype=float16"), "choose bfloat16 or float32"),
        ((*TRAIN, "tasks/nothing.yaml"), "no configuration file 'tasks/nothing.yaml'"),
        (("evaluate", "--model", "no/model", "--task", "world"), "cannot load model 'no/model'"),
    ],
)
def test_a_wrong_word(command, tmp_path, words, says):
    out = tmp_path / "out"
    code, err = command(*words, "--out", out)
    last = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(last) == 1
    assert says in last[0]
    assert not out.exists()


def test_a_folder_that_is_someone_elses_is_left_alone(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    one_line(*command(*TRAIN, "tasks/world.yaml", "--out", "mine"))
    one_line(*command("quickstart", "--out", "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
