"""The reference on disk: shared, never stale, made anew where it is damaged."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from training_lists import TOKENIZER, encoded, learned, method, trainer

from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.models import LoraOptions, add_lora
from irpo.training import reference
from irpo.training.arguments import Loop
from irpo.training.reference import model_key, reference_tables

ITEMS = encoded()
INDEPENDENT = SCORERS.build("independent")


def tables(model, items, cache, scorer=INDEPENDENT, length="sum"):
    return reference_tables(model, items, scorer, length=length, pad_id=0, tokens_per_batch=100, cache=cache)


def files(cache):
    return sorted(cache.glob("*/*.safetensors"))


def test_the_tables_are_the_scores(tmp_path):
    model = tiny_model()
    for _ in range(2):  # computed, then read
        found = tables(model, ITEMS, tmp_path)
        for item, row in zip(ITEMS, score_lists(model, TOKENIZER, ITEMS, INDEPENDENT), strict=True):
            torch.testing.assert_close(found[item.id][0], row, atol=1e-5, rtol=1e-5)


def test_what_is_known_is_not_computed_again(tmp_path, monkeypatch, capsys):
    model = tiny_model()
    tables(model, ITEMS[:5], tmp_path)
    assert "0 of 5 lists" in capsys.readouterr().err
    tables(model, ITEMS, tmp_path)
    assert "5 of 8 lists" in capsys.readouterr().err
    monkeypatch.setattr("irpo.training.reference.score_batch", lambda *_, **__: pytest.fail("computed again"))
    tables(model, ITEMS, tmp_path)
    assert len(files(tmp_path)) == 2  # what the second call made, beside the first


def test_other_weights_prompts_scorers_and_lengths_are_not_taken_for_these(tmp_path):
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        other.get_input_embeddings().weight[3, 1] += 1
    first = tables(model, ITEMS, tmp_path)
    assert model_key(model) != model_key(other)
    tables(other, ITEMS, tmp_path)
    assert len({path.parent for path in files(tmp_path)}) == 2
    changed = [replace(ITEMS[0], prompt=(*ITEMS[0].prompt[:-1], 7)), *ITEMS[1:]]
    again = tables(model, changed, tmp_path)
    assert not torch.equal(again[ITEMS[0].id], first[ITEMS[0].id])
    assert not torch.equal(tables(model, ITEMS, tmp_path, length="mean")["list-0"], first["list-0"])
    assert not torch.equal(tables(model, ITEMS, tmp_path, SCORERS.build("list"))["list-0"], first["list-0"])


def test_a_fresh_adapter_is_no_other_model_and_a_trained_one_is(tmp_path):
    keys = [model_key(tiny_model())]
    for seed in (0, 1):
        adapted = add_lora(tiny_model(), LoraOptions(r=4), seed=seed)
        keys.append(model_key(adapted))
    assert len(set(keys)) == 1
    with torch.no_grad():
        next(p for name, p in adapted.named_parameters() if "lora_B" in name).add_(1)
    assert model_key(adapted) != keys[0]


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_a_damaged_file_is_said_and_made_anew(damage, tmp_path, capsys):
    model = tiny_model()
    expected = tables(model, ITEMS, tmp_path)
    path = files(tmp_path)[0]
    data = path.read_bytes()
    broken = {"cut": data[:-9], "flip": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "text": b"not a tensor"}[damage]
    path.write_bytes(broken)
    capsys.readouterr()
    found = tables(model, ITEMS, tmp_path)
    assert "damaged and made anew" in capsys.readouterr().err
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    tables(model, ITEMS, tmp_path)
    assert "8 of 8 lists" in capsys.readouterr().err


def test_methods_and_seeds_share_it_and_learn_the_same_as_with_adapters_off(tmp_path, capsys):
    cache = tmp_path / "cache"
    for objective in ("irpo", "dpo"):
        weights = []
        for kind in ("adapters_off", "precomputed"):
            of = method(objective, reference=kind)
            run = trainer(tmp_path / objective / kind, of, updates=3, loop=Loop(reference_cache=cache))
            run.go(None)
            weights.append(learned(run.model))
        torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-4)
    assert "8 of 8 lists" in capsys.readouterr().err
    assert len(files(cache)) == 1


def test_what_a_process_that_died_had_computed_is_kept(tmp_path, monkeypatch, capsys):
    model, real, calls = tiny_model(), reference.score_batch, []

    def dying(*given, **named):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(len(given[1]))
        return real(*given, **named)

    monkeypatch.setattr(reference, "score_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        tables(model, ITEMS, tmp_path)
    monkeypatch.setattr(reference, "score_batch", real)
    tables(model, ITEMS, tmp_path)
    assert 0 < sum(calls) < len(ITEMS)
    assert f"{sum(calls)} of 8 lists" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_once_and_done_without(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_text("a file, where the folder would be")
    found = tables(tiny_model(), ITEMS, tmp_path / "cache")
    expected = tables(tiny_model(), ITEMS, None)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert capsys.readouterr().err.count("not kept on disk") == 1
