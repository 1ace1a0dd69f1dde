"""Runs as folders of their own: merged or with their adapter, they rank as the run does, and say where they do not."""

import json
import math

import pytest
import torch
from commands import refused
from safetensors import safe_open
from saved_runs import saved_run, tiny_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from vllm_fake import fake_vllm

from irpo.export.merging import merged_model, plan_of
from irpo.export.writing import export
from irpo.ranking.reranker import Reranker
from irpo.runs.exported import EXPORT
from irpo.scoring.strength import Strength

DOCUMENTS = ["Heat (1995)", "Alien (1979)", "Spaceballs (1987)", "The Matrix (1999)"]
QUERY = "a funny film about space"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def merged(run):
    """In float32, so that nothing but the merging itself is rounded."""
    return export(plan_of(str(run), merge=True, dtype="float32"), run.parent / "merged", lists=4)


def ranked(name, **how):
    return [(row.text, row.score, row.probability) for row in Reranker.load(str(name), **how).rank(QUERY, DOCUMENTS)]


def close(ours, theirs, tolerance=2e-4):
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert [row[1] for row in ours] == pytest.approx([row[1] for row in theirs], abs=tolerance)


def test_a_merged_folder_is_a_plain_model_of_transformers(run, merged):
    model = AutoModelForCausalLM.from_pretrained(merged.folder)
    tokenizer = AutoTokenizer.from_pretrained(merged.folder)
    ids = torch.tensor([tokenizer("Rank these films.").input_ids])
    ours = merged_model(plan_of(str(run), merge=True, dtype="float32"))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, ours(ids).logits, rtol=0, atol=1e-6)
        adapted = Reranker.load(str(run)).model(ids).logits
        torch.testing.assert_close(model(ids).logits, adapted, rtol=0, atol=2e-4)
    assert tokenizer.chat_template == Reranker.load(str(run)).tokenizer.chat_template


def test_it_ranks_as_its_run_does_from_itself_alone(run, merged):
    close(ranked(merged.folder), ranked(run))
    found = merged.difference
    assert (found.lists, found.reordered, found.of) == (4, 0, "evaluation lists")
    assert found.tau == pytest.approx(1)
    assert found.largest < 2e-4
    assert found.before == found.after


def test_bfloat16_is_the_default_and_what_it_costs_is_told(irpo, run, tmp_path):
    code, _, err = irpo("export", "--model", run, "--merge", "--out", tmp_path / "out", "--lists", 3)
    assert code == 0, err
    assert "re-scored 3 evaluation lists: scores differ by" in err
    told = json.loads((tmp_path / "out" / EXPORT).read_text())
    assert 0 < told["difference"]["mean"] <= told["difference"]["largest"] < 1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert str(run.parent) not in "".join(
        p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in (".json", ".md", ".yaml")
    )


def test_without_merge_adapter_strength_and_temperature_travel(tmp_path):
    run = saved_run(tmp_path / "run", strength=Strength(3.0), temperature=2.5)
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    assert ranked(out) == ranked(run)
    assert ranked(out)[0][2] is not None
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "config.json").exists()


def test_a_strength_by_adapter_is_merged_and_one_by_logits_is_refused(irpo, tmp_path):
    run = saved_run(tmp_path / "scaled", strength=Strength(2.0, "adapter"), temperature=1.5)
    out = export(plan_of(str(run), merge=True, dtype="float32"), tmp_path / "merged", lists=0).folder
    close(ranked(out), ranked(run), 1e-3)
    assert [row[2] for row in ranked(out)] == pytest.approx([row[2] for row in ranked(run)], abs=1e-3)

    run = saved_run(tmp_path / "by logits", strength=Strength(math.inf))
    words = ("export", "--model", run, "--merge", "--out", tmp_path / "not")
    err = refused(
        irpo(*words), "ranks at strength reward by logits", "a merged model has none to switch off", "add --strength 1"
    )
    assert "adapter (what is merged" not in err  # a reward has no likeness in an adapter
    assert not (tmp_path / "not").exists()
    code, _, err = irpo(*words, "--strength", 1, "--lists", 2)
    assert code == 0, err


@pytest.mark.parametrize(
    ("model", "ranker", "shown"), [("embedded", None, 1), ("another", None, 0), ("embedded", "runs/y", 0)]
)
def test_a_card_calls_untrained_what_the_run_began_with(irpo, tmp_path, model, ranker, shown):
    run = saved_run(tmp_path / "run")
    row = {"name": "score", "mode": "score", "measures": {"NDCG@10": 0.8123}, "interval": [0.79, 0.83]}
    told = {"lists": 40, "main_measure": "NDCG@10", "rows": [row]}
    about = {"task": "world", "lists_sha256": "0"}
    for name, of in (
        ("evaluation", {"model": "embedded", "ranker": str(run)}),
        ("base", {"model": model, "ranker": ranker}),
    ):
        (run / name).mkdir()
        of = {key: value for key, value in of.items() if value is not None}
        (run / name / "results.json").write_text(json.dumps(told | {"about": about | of}))
    code, _, err = irpo("export", "--model", run, "--out", tmp_path / "out")
    assert code == 0, err
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("| untrained | score |") == shown
    assert card.count("| this ranker | score |") == 1


def test_a_change_of_strength_is_told_apart_from_what_merging_costs(irpo, tmp_path):
    run = saved_run(tmp_path / "half", strength=Strength(0.5))
    row = {"name": "score", "mode": "score", "measures": {"NDCG@10": 0.8123}, "interval": [0.79, 0.83]}
    told = {"about": {"task": "world"}, "lists": 40, "main_measure": "NDCG@10", "rows": [row]}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text(json.dumps(told))
    words = ("export", "--model", run, "--merge", "--strength", 1, "--dtype", "float32", "--lists", 3)
    code, _, err = irpo(*words, "--out", tmp_path / "out")
    assert code == 0, err
    assert "strength 1 in the place of the run's 0.5 by logits, re-scored 3 evaluation lists" in err
    assert "merged at strength 1, re-scored 3 evaluation lists" in err
    told = json.loads((tmp_path / "out" / EXPORT).read_text())
    merging, change = told["difference"], told["by_strength"]
    assert merging["largest"] < 2e-4 < change["largest"]
    assert change["after"] == merging["before"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| the run, at strength 0.5 by logits | score | 0.8123 | 0.7900 to 0.8300 |" in card
    assert f"| this ranker, on 3 lists | score | {merging['after']:.4f} | |" in card
    assert "| this ranker |" not in card


def test_four_bits_merge_into_the_base_as_it_was(tmp_path):
    run = saved_run(tmp_path / "nf4", "model.quantization=nf4")
    done = export(plan_of(str(run), merge=True, dtype="float32"), tmp_path / "out", lists=3)
    assert done.difference.mean > 0  # the base that the adapter saw was rounded to 4 bits
    assert "whose base was in 4 bits while it was trained" in (done.folder / "README.md").read_text()
    assert Reranker.load(str(done.folder)).model.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "strength.json", "ranker.yaml", "world.label.jinja", "model.safetensors"]
)
def test_what_is_not_as_it_was_exported_is_named(irpo, merged, name):
    path = merged.folder / name
    before = path.read_bytes()
    try:
        path.write_bytes(before + b" ")
        refused(irpo("rank", "--model", merged.folder, "q", "a", "b"), f"{name} is not as it was exported")
        path.unlink()
        assert irpo("rank", "--model", merged.folder, "q", "a", "b")[0] == 2
    finally:
        path.write_bytes(before)


def test_an_adapter_alone_does_not_rank_on_another_base(irpo, run, tmp_path):
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    told = json.loads((out / EXPORT).read_text())
    told["base"]["fingerprint"] = "of another release"
    (out / EXPORT).write_text(json.dumps(told))
    refused(
        irpo("rank", "--model", out, "q", "a", "b"),
        "its base 'embedded' is not the one that its adapter was trained on",
    )


def test_a_base_that_travels_with_nobody_asks_to_be_merged(irpo, tmp_path):
    run = saved_run(tmp_path / "run", base=tiny_base(tmp_path / "base"))
    refused(irpo("export", "--model", run, "--out", tmp_path / "out"), "is a folder of this machine", "add --merge")
    assert export(plan_of(str(run), merge=True), tmp_path / "out", lists=0).folder.is_dir()


def test_weights_that_were_all_trained_have_one_strength(irpo, tmp_path):
    run = saved_run(tmp_path / "full", "model.tuning=full", "method.reference=precomputed")
    words = ("export", "--model", run, "--out", tmp_path / "out", "--lists", 0)
    for how in ("logits", "adapter"):
        more = ("--strength", 2, "--strength-by", how)
        refused(irpo(*words, *more), "strength 2 needs a LoRA adapter", "leave the strength at 1")
        assert not (tmp_path / "out").exists()
    code, _, err = irpo(*words, "--strength", 1, "--dtype", "float32")
    assert code == 0, err
    assert len(ranked(tmp_path / "out")) == len(DOCUMENTS)


@pytest.mark.parametrize(("scale", "told"), [(3, "strength 3 by adapter, which its weights hold,"), (1, "strength 1,")])
def test_a_card_says_what_was_merged(irpo, run, tmp_path, scale, told):
    scaled = ("--strength", scale, "--strength-by", "adapter")
    code, _, err = irpo("export", "--model", run, "--merge", "--lists", 0, "--out", tmp_path / "out", *scaled)
    assert code == 0, err
    assert f"It ranks at {told} by the prompt" in (tmp_path / "out" / "README.md").read_text()


def test_a_card_names_each_dataset_of_the_hub_once(irpo, tmp_path):
    run = saved_run(tmp_path / "run")
    read = ("hub:mteb/scidocs/corpus/test", "hub:mteb/scidocs/queries/test", "hub:allenai/ai2_arc/train", "mine.jsonl")
    (run / "data_card.json").write_text(json.dumps({"sources": {name: {} for name in (*read, "hub:squad/train")}}))
    assert irpo("export", "--model", run, "--out", tmp_path / "out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "datasets:\n- allenai/ai2_arc\n- mteb/scidocs\n- squad\n" in card


def test_mistakes_are_one_line(irpo, run, tmp_path):
    for more in (("--dtype", "bfloat16"), ("--lists", 50)):
        refused(irpo("export", "--model", run, "--out", tmp_path / "x", *more), f"{more[0]} is of merged weights")
    refused(irpo("export", "--model", "embedded", "--out", tmp_path / "x"), "this is no run's folder")
    refused(irpo("export", "--model", run, "--out", run, "--merge"), "a run lies there; give another folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    refused(irpo("export", "--model", run, "--out", tmp_path / "mine"), "notes.txt lies there, and no export.json says")
    refused(irpo("export", "--model", run, "--out", tmp_path / "x", "--dtype", "int8"), "choose from bfloat16")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((run / "config.yaml").read_text())
    refused(irpo("export", "--model", tmp_path / "begun", "--out", tmp_path / "x"), "the run has not finished")
    refused(irpo("push", run, "no owner"), "is no hub id; write OWNER/NAME")


def test_lists_that_are_not_there_leave_the_rest(irpo, tmp_path):
    run = saved_run(tmp_path / "run", "task.name=jsonl", f"task.data={tmp_path / 'gone'}")
    code, _, err = irpo("export", "--model", run, "--merge", "--out", tmp_path / "out")
    assert code == 0, err
    assert "note: not re-scored, for the run's lists are not there" in err


def test_a_merged_folder_is_measured_as_its_run(irpo, run, merged, tmp_path):
    task = ("--task", "world", "--mode", "score", "train_lists=60", "eval_lists=4")
    found = []
    for model in (run, merged.folder):
        code, _, err = irpo("evaluate", "--model", model, "--out", tmp_path / model.name, *task)
        assert code == 0, err
        found.append(json.loads((tmp_path / model.name / "results.json").read_text()))
    assert found[0]["rows"][0]["measures"] == found[1]["rows"][0]["measures"]
    assert {k: v for k, v in found[0]["setting"].items() if k != "engine"} == {
        k: v for k, v in found[1]["setting"].items() if k != "engine"
    }


def test_vllm_finds_what_it_reads_in_a_merged_folder(merged, monkeypatch):
    """Against the stand-in of its library: vLLM itself runs on no machine of this project's."""
    llm = fake_vllm(monkeypatch)
    close(ranked(merged.folder, engine="vllm"), ranked(merged.folder), 1e-3)
    (made,) = llm.made
    assert not made.arguments.get("enable_lora")
    config = json.loads((merged.folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"quantization_config", "auto_map"} & config.keys()
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(merged.folder)).state_dict()
    with safe_open(merged.folder / "model.safetensors", "pt") as weights:
        tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
        assert set(weights.keys()) | tied == set(plain)
    assert (merged.folder / "generation_config.json").is_file()


# ---- the folder that it comes into -----------------------------------------------------------------------------------


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_second_export_replaces_what_the_first_wrote_and_nothing_else(irpo, run, tmp_path):
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    adapter = names(out)
    (out / "notes.txt").write_text("mine")
    (out / "evaluation").mkdir()
    (out / "evaluation" / "results.json").write_text("{}")
    (out / "README.md").write_text("my card")
    (tmp_path / "link").symlink_to("out")
    code, _, err = irpo("export", "--model", run, "--merge", "--out", tmp_path / "link", "--lists", 0)
    assert code == 0, err
    assert "README.md was edited since it was written, and stays as it is" in err
    assert (out / "README.md").read_text() == "my card"
    assert (out / "evaluation" / "results.json").is_file()
    assert {"notes.txt", "evaluation", "README.md"} == names(out) - set(
        json.loads((out / EXPORT).read_text())["files"]
    ) - {EXPORT}
    assert "adapter_config.json" in adapter - names(out)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == {"out", "link"}
    (out / "README.md").unlink()
    export(plan_of(str(run), merge=False), out)
    code, _, err = irpo("export", "--model", run, "--out", out, "--license", "mit")
    assert "edited" not in err  # as it was written, it is replaced
    assert "license: mit" in (out / "README.md").read_text()
    assert names(out) == adapter | {"notes.txt", "evaluation"}


def test_an_export_does_not_come_over_files_of_others(irpo, run, tmp_path):
    out = export(plan_of(str(run), merge=False), tmp_path / "out").folder
    for name, says in (("config.json", "which the export there does not list"), ("generation_config.json", "")):
        (out / name).write_text("mine")
        refused(irpo("export", "--model", run, "--merge", "--out", out, "--lists", 0), f"{name} lies there", says)
        assert (out / name).read_text() == "mine"
        assert (out / "adapter_config.json").is_file()
        (out / name).unlink()
    (out / EXPORT).rename(out / f".{EXPORT}.going")  # a process died while it replaced them
    export(plan_of(str(run), merge=True), out, lists=0)
    assert "adapter_config.json" not in names(out)
    assert ranked(out)


@pytest.mark.parametrize("name", ["adapter_config.json", "pytorch_model.bin", "chat_template.json", "tokenizer.model"])
def test_a_file_that_is_read_and_not_listed_is_refused(irpo, merged, name):
    more = merged.folder / name
    more.touch()
    try:
        refused(
            irpo("rank", "--model", merged.folder, "q", "a", "b"), f"{name} lies there, which {EXPORT} does not list"
        )
    finally:
        more.unlink()
    (merged.folder / "notes.txt").touch()
    assert irpo("rank", "--model", merged.folder, "q", "a", "b")[0] == 0
    (merged.folder / "notes.txt").unlink()
