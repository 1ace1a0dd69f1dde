"""The benchmarks compare the same things: losses agree, and every peer runs."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from memory import apart
from peers import expanded, expanded_loss, limit, trl_pairs
from setting import Case, our_step, our_trainer, show, step_of
from throughput import operations

from irpo.scorers import SCORERS
from irpo.scoring.batching import make_batch
from irpo.scoring.models import four_bit_layers

CASE = Case("8m", prompt=12, candidates=4, tokens=3, lists=2)
TINY = "--quick --shape 8m --prompt 12 --candidates 4 --tokens 3 --repetitions 1"


def lines_of(script, arguments, monkeypatch, capsys):
    """What a script prints, read back."""
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    importlib.import_module(script).main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("script", ["throughput", "memory", "ranking", "scaling"])
def test_every_script_says_what_it_takes(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as found:
        importlib.import_module(script).main()
    assert found.value.code == 0
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "more", "against"),
    [
        ("throughput", "--only limit", {"limit", "adapters_off"}),
        ("throughput", "--only expanded", {"expanded"}),
        ("ranking", "", {"free_generation"}),
        ("scaling", "", {"limit"}),
    ],
)
def test_a_tiny_case_ends_in_lines(script, more, against, monkeypatch, capsys):
    lines = lines_of(script, f"{TINY} {more}", monkeypatch, capsys)
    assert {line["against"] for line in lines} == against
    assert all(line["benchmark"] == script and line["ours"] > 0 and line["ratio"] > 0 for line in lines)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of resident memory are read from Linux")
def test_a_step_needs_memory_in_a_process_of_its_own():
    assert apart(CASE, "ours") > 0


@pytest.mark.parametrize("work", [expanded, limit])
def test_a_peer_gives_the_adapter_a_gradient(work):
    model = CASE.model()
    work(model, CASE.items())()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_list_at_a_time_has_the_gradient_of_all_at_once():
    model, items = CASE.model(), CASE.items()
    learn = [p for p in model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(expanded_loss(model, items), learn)
    expanded(model, items)()
    torch.testing.assert_close([p.grad for p in learn], list(whole), rtol=1e-3, atol=1e-5)


def test_g12_models_are_drawn_where_they_stay_and_quantized_in_place(monkeypatch):
    """No weights on a CPU first, none on a disk: a 3B shape would be made there ten times."""
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", None)
    model = Case("tiny", tuning="nf4", prompt=12, candidates=4, tokens=3).model()
    assert four_bit_layers(model) == 14
    our_step(model, Case("tiny", prompt=12, candidates=4, tokens=3).items(), "adapters_off")()
    assert all(p.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_operations_leave_the_embedding_out():
    model, batch = CASE.model(), make_batch(CASE.items(), SCORERS.build("independent"))
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    table = 16000 * 256
    layer = 4 * 256 * 256 + 3 * 256 * 768 + 2 * 256
    frozen = 4 * layer + 256  # four layers and the last norm
    expected = (4 * (frozen + learn) + 2 * learn) * batch.tokens + 4 * table * len(batch.cells)
    assert operations(model, batch) == expected


def test_whole_sequences_with_full_logits_have_our_loss():
    model, items = CASE.model(), CASE.items()
    trainer = our_trainer(model, items, "adapters_off")
    with torch.no_grad():
        ours = trainer.compute_loss(model, trainer.method.batch(items, 0), num_items_in_batch=len(items))
        theirs = expanded_loss(model, items)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)


def test_g11_logits_of_answers_alone_where_all_would_be_too_large(monkeypatch):
    """At a vocabulary of 128,000 the logits of every token take 107 GB; the loss is the same without them."""
    model, items = CASE.model(), CASE.items()
    with torch.no_grad():
        every = float(expanded_loss(model, items))
        monkeypatch.setattr("peers.FULL_LOGITS", 0)
        assert float(expanded_loss(model, items)) == pytest.approx(every, abs=1e-4)
    work = expanded(model, items)
    work()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("defaults", [False, True])
def test_trl_takes_a_step_on_our_pair(defaults):
    pytest.importorskip("trl")
    model, items = CASE.model(), CASE.items()
    loss = step_of(model, trl_pairs(model, items[0], 1, defaults=defaults))()
    assert loss > 0
    assert our_step(CASE.model(), items, "precomputed")() > 0


def test_trl_takes_a_list_in_batches_of_its_own():
    pytest.importorskip("trl")
    case = Case("8m", prompt=6, candidates=12, tokens=2)  # 2 x 10 pairs: batches of 8, 8 and 4
    model = case.model()
    assert step_of(model, trl_pairs(model, case.items()[0], None, defaults=False))() > 0


def test_a_line_is_json_with_a_ratio_above_1_where_we_are_better(capsys):
    show("throughput", "case", "limit", (0.5, 1.0), "s/step")
    expected = '{"benchmark": "throughput", "case": "case", "against": "limit", "ours": 0.5, "theirs": 1.0, '
    assert capsys.readouterr().out == expected + '"unit": "s/step", "ratio": 2.0}\n'


def test_one_command_for_a_card_runs_on_a_cpu(monkeypatch, capsys):
    """Every stage of `on_gpu.py` finds something or says why not; none fails."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = lines_of("on_gpu", "--shape tiny --minutes 30", monkeypatch, capsys)
    assert not [line for line in lines if "error" in line]
    found = {line["stage"].split()[0] for line in lines}
    assert {"machine", "doctor", "float32_parity", "parity", "four_bits", "steps", "throughput", "modes"} <= found
    apart = [line["worst"] for line in lines if "worst" in line]
    assert len(apart) == 6
    assert max(apart) < 1e-3
    (steps,) = [line for line in lines if "last_loss" in line]
    assert steps["last_loss"] < steps["first_loss"]
    assert steps["finite"]


def test_a_stage_that_fails_leaves_a_line_and_the_next_goes_on(capsys, tmp_path):
    on_gpu = importlib.import_module("on_gpu")
    clock = on_gpu.Clock(minutes=1, lines=tmp_path / "lines.jsonl")

    def half():
        yield {"found": 1}
        raise RuntimeError("out of\nluck")

    def waits():
        yield {"found": 2}
        time.sleep(30)

    for stage in (
        on_gpu.Stage("half", half),
        on_gpu.Stage("waits", waits, most=1),
        on_gpu.Stage("late", half, least=99),
    ):
        clock.run(stage)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("found") for line in lines] == [1, None, None, 2, None, None, None]
    assert (lines[1]["error"], lines[1]["reason"]) == ("RuntimeError", "out of luck")
    assert lines[4]["error"] == "TimeoutError"
    assert "left" in lines[6]["skipped"]
    assert (tmp_path / "lines.jsonl").read_text().count("\n") == len(lines)


def test_the_collection_of_long_lists_loses_no_judgement(tmp_path):
    """What BM25 leaves out counts in the ideal; every setting of the grid can be built."""
    bench = importlib.import_module("long_lists")
    bench.write_beir(tmp_path, 5)
    lists, judged = bench.beir_lists(tmp_path), (tmp_path / "qrels" / "test.tsv").read_text().splitlines()[1:]
    for example in lists.examples:
        assert len(example.candidates) == 100
        labels = sorted(float(line.split("\t")[2]) for line in judged if line.split("\t")[0] == example.id)
        assert sorted(y for y in (*example.relevance, *lists.missed[example.id]) if y) == labels
    best = {e.id: sorted(range(100), key=lambda j: -e.relevance[j]) for e in lists.examples}
    assert 0.9 < lists.measured(best)["ndcg@10"] <= 1
    specs = [spec for model in bench.MODELS for spec in bench.settings_of(lists, model, quick=False)]
    assert len({bench.RANKING_MODES.described(bench.RANKING_MODES.build(spec)) for spec in specs}) > 30


def test_the_study_of_blocks_concludes_nothing_where_an_arm_is_at_chance():
    study = importlib.import_module("block_study")

    def lines(candidates, **means):
        for arm, mean in ({"random": 0.1} | {f"trained, {name}": mean for name, mean in means.items()}).items():
            told = {"tau": 0.5, "rank by fifth": [0.5] * 5} if "," in arm else {}
            lists = {str(n): [f"wish {n}", mean + 0.02 * (n % 3 - 1)] for n in range(12)}
            yield {"style": "text", "candidates": candidates, "trial": False, "arm": arm, "lists": lists} | told

    rows = list(study.table([*lines(10, full=0.5, block=0.4), *lines(100, full=0.1, block=0.3)]))
    said = {tuple(cell.strip() for cell in row.split("|")[2:4]): row.split("|")[6].strip() for row in rows[2:]}
    assert said["10", "trained, block"].startswith("-0.100, q = ")
    assert said["100", "trained, full"] == "at chance"
    assert said["100", "trained, block"] == "full is at chance"
    assert said["100", "random"] == said["10", "trained, full"] == ""
