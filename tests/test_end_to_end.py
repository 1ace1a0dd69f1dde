"""From each dataset's own files to an evaluated ranker, by the commands that a user types."""

import json
import os
from pathlib import Path

import pytest

from irpo.cli import app
from irpo.evaluation import RESULTS

DATA = Path(os.environ.get("IRPO_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDERS = {
    "redial": "redial",
    "inspired": "inspired",
    "hotpotqa": "hotpotqa",
    "musique": "musique",
    "arc": "arc_challenge",
    "commonsenseqa": "commonsenseqa",
}
MODES = ("score", "generate", "constrain")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no data: ../shared/data is absent and IRPO_DATA is not set")


def irpo(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module", params=FOLDERS)
def prepared(request, tmp_path_factory):
    """(task, the folder of its prepared lists), made by `irpo prepare` from the authors' files."""
    out = tmp_path_factory.mktemp("lists") / request.param
    irpo("prepare", "--task", request.param, "--data", DATA / "sample" / FOLDERS[request.param], "--out", out)
    return request.param, out


@needs_data
@pytest.mark.parametrize("style", ["text", "label"])
def test_prepare_train_evaluate(prepared, style, tmp_path):
    task, lists = prepared
    card = json.loads((lists / "card.json").read_text())
    assert card["splits"]["train"]["lists"] > 50
    run = tmp_path / "run"
    irpo(
        *("train", "models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml", f"task.data={lists}"),
        *(f"prompt.style={style}", f"prompt.template={task}", "prompt.max_tokens=640", "training.updates=20"),
        *("training.lists_per_update=2", "training.max_validation_lists=4"),
        *("training.evaluate_every=10", "--out", run),
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert max(line["update"] for line in lines) == 20
    first = next(line for line in lines if line["update"])  # before it stands the measure of the start
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5)  # the reference has rows of its own
    out = tmp_path / "evaluation"
    modes = [word for mode in MODES for word in ("--mode", mode)]
    irpo("evaluate", "--model", run, "--out", out, "--max-lists", 4, *modes)
    rows = {row["name"]: row for row in json.loads((out / RESULTS).read_text())["rows"]}
    assert {
        "score",
        "generate strict",
        "generate repaired",
        "constrain",
        "random",
        "input order",
        "BM25",
    } <= rows.keys()
    for row in rows.values():
        assert all(0 <= value <= 1 for value in row["measures"].values())
    assert rows["constrain"]["coverage"] == rows["constrain"]["exact_permutations"] == 1.0
    for name in ("report.md", "qrels.txt", "score.run", "constrain.run", "generations.jsonl", "per_query.jsonl"):
        assert (out / name).stat().st_size > 0


@needs_data
def test_straight_from_the_authors_files(tmp_path):
    """`train` builds the lists itself where the task is the dataset's, as in the README."""
    irpo(
        *("train", "models/embedded.yaml", "tasks/arc.yaml", "methods/sft.yaml"),
        *(f"task.data={DATA / 'sample' / 'arc_challenge'}", "prompt.style=label", "training.updates=1"),
        *("training.lists_per_update=2", "training.max_validation_lists=2"),
        *("--out", tmp_path / "run"),
    )
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "sha256" in card
    assert "validation NDCG@10" in card
