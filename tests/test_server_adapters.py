"""Several adapters on one base: each ranks as its run does alone, and what shares no base is refused in one line."""

from __future__ import annotations

import json
import math

import pytest
from commands import refused
from hub_stand_in import standing_in
from hub_users import point_at
from safetensors.torch import load_file, save_file
from served import FILMS, QUERY
from small_runs import config_of
from tiny import tiny_model, tiny_tokenizer, with_adapter

from irpo.config.schema import RUN_CONFIG, to_yaml
from irpo.ranking.choosing import Choice
from irpo.ranking.reranker import Reranker
from irpo.runs import ADAPTER, CHOICE, FULL, save_model
from irpo.runs.key import KEY
from irpo.scoring.strength import Strength
from irpo.server.adapters import public_name, shared_base
from irpo.server.limits import Refused
from irpo.server.rankers import load_rankers
from irpo.types import UserError

TOKENIZER = tiny_tokenizer()
REQUESTS = [(QUERY, FILMS), ("another film", FILMS[::-1][:3])]


def saved_base(folder, seed=0):
    model = tiny_model(seed=seed, attention="eager")
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def saved_run(folder, base, seed, strength=None, *overrides):
    """A run's folder: an adapter of the base that has learnt something, and how it ranks."""
    folder.mkdir()
    how = [] if strength is None else [f"ranking.strength={'reward' if math.isinf(strength.value) else strength.value}"]
    config = config_of(f"model.name={base}", "prompt.style=text", "method.scorer=independent", *how, *overrides)
    (folder / RUN_CONFIG).write_text(to_yaml(config), encoding="utf-8")
    if strength is not None:
        (folder / CHOICE).write_text(json.dumps(Choice(strength, temperature=3.0).as_dict()), encoding="utf-8")
    model = tiny_model(seed=0, attention="eager")
    save_model(with_adapter(model, seed=seed), TOKENIZER, folder, tuning="lora")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    base = saved_base(home / "base")
    saved_run(home / "films", base, 1)
    saved_run(home / "books", base, 2, Strength(2.0))
    saved_run(home / "songs", base, 3, Strength(math.inf), "prompt.max_tokens=300")
    return home


@pytest.fixture(scope="module")
def strangers(home, tmp_path_factory):
    """Runs that cannot share the base: of another, in 4 bits, without an adapter, on a run, torn."""
    folder = tmp_path_factory.mktemp("strangers")
    saved_run(folder / "other", saved_base(folder / "base", seed=5), 1)
    saved_run(folder / "four", home / "base", 1, None, "model.quantization=nf4")
    (saved_run(folder / "whole", home / "base", 1) / ADAPTER).rename(folder / "whole" / FULL)
    saved_run(folder / "later", home / "films", 1)
    file = saved_run(folder / "torn", home / "base", 1) / ADAPTER / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, {"format": "pt"})
    return folder


def run(home, name):
    return str(home / name)


@pytest.mark.parametrize("first", ["base", "films"])
def test_each_ranks_as_its_run_alone_in_any_order(home, first):
    others = [name for name in ("films", "books", "songs") if name != first]
    together = load_rankers(run(home, first), {name: home / name for name in others})
    assert together.names == [first, *others]
    alone = {name: Reranker.load(run(home, name)) for name in (first, *others)}
    wanted = {name: ranker.rank_many(REQUESTS) for name, ranker in alone.items()}
    for name in (*others, first, *reversed(others), first, first, *others):
        found = together.rank(name, REQUESTS)
        for rows, expected in zip(found, wanted[name], strict=True):
            assert [row.index for row in rows] == [row.index for row in expected]
            assert [row.score for row in rows] == pytest.approx([row.score for row in expected], abs=1e-5)
            assert (rows[0].probability is None) == (expected[0].probability is None)
    tables = [[row.score for row in sorted(rows[0], key=lambda row: row.index)] for rows in wanted.values()]
    assert all(one != pytest.approx(other, abs=1e-3) for one in tables for other in tables if one is not other)


def test_all_share_one_base_one_lock_and_their_own_prompt(home):
    served = load_rankers(run(home, "films"), {"books": home / "books", "songs": home / "songs"}).served
    assert len({id(each.reranker.model) for each in served}) == 1
    assert len({id(each.reranker.lock) for each in served}) == 1
    assert [each.reranker.builder.max_tokens for each in served] == [512, 512, 300]
    assert [each.reranker.strength.value for each in served] == [1, 2, math.inf]


def test_a_run_may_have_several_names(home):
    films, books = home / "films", home / "books"
    rankers = load_rankers(str(films), {"again": films, "b": books, "c": books})
    found = {name: rankers.rank(name, REQUESTS) for name in rankers.names}
    assert found["films"] == found["again"]
    assert found["b"] == found["c"] != found["films"]


def test_a_name_that_nobody_has_is_told_those_there_are(home):
    rankers = load_rankers(run(home, "films"), {"b": home / "books"})
    with pytest.raises(Refused, match="choose from films, b") as error:
        rankers.find("books")
    assert error.value.status == 404


@pytest.mark.parametrize(
    ("name", "told"),
    [("/data/runs/films", "films"), ("meta-llama/Llama-3.2-3B@abc", "meta-llama/Llama-3.2-3B@abc"), ("embedded",) * 2],
)
def test_the_models_public_name_is_no_path(name, told):
    assert public_name(name) == told


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("other", "its base is"),
        ("four", "model.quantization is 'nf4', and 'none' in --model"),
        ("whole", "has no adapter"),
        ("later", "its base is"),
        ("base", "no run"),
        ("torn", "damaged, or was made for another"),
    ],
)
def test_a_run_that_shares_no_base_is_refused_in_one_line(home, strangers, irpo, name, says):
    code, out, err = irpo("serve", "--model", home / "films", "--adapter", f"x={strangers / name}")
    told = [line for line in err.splitlines(keepends=True) if not line.startswith("loading ")]
    refused((code, out, "".join(told)), says, name)


def test_a_name_is_given_once(home, irpo):
    model, books = ("serve", "--model", home / "films"), home / "books"
    refused(irpo(*model, "--adapter", f"films={books}"), "--adapter 'films'", "name of its own")
    refused(irpo(*model, "--adapter", f"x={books}", "--adapter", f"x={home / 'songs'}"), "x is given twice")


# ---- a base of the hub -----------------------------------------------------------------------------------------------


def on_hub(folder, base, seed, commit):
    """A run on a base of the hub as it was at a commit; its adapter was made for the folder of that."""
    run = saved_run(folder, base, seed)
    (run / RUN_CONFIG).write_text((run / RUN_CONFIG).read_text().replace(str(base), "ann/base"), encoding="utf-8")
    (run / KEY).write_text(json.dumps({"key": f"{seed}", "contents": {}, "commit": commit}))
    return run


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """Two runs on a base of the hub, which has moved on since; the commits."""
    with standing_in() as hub:
        was = hub.put("ann/base", saved_base(tmp_path / "base"))
        now = hub.put("ann/base", saved_base(tmp_path / "later", seed=5))
        for seed, name in enumerate(("films", "books"), start=1):
            on_hub(tmp_path / name, tmp_path / "base", seed, was)
        point_at(hub, tmp_path / "cache", monkeypatch)
        yield was, now


@pytest.mark.parametrize("first", ["films", "ann/base", "ranker.yaml"])
def test_a_base_of_the_hub_is_as_its_runs_began_with_it(tmp_path, moved, first):
    ranker = "model: {name: ann/base, dtype: float32}\nprompt: {style: text}\nmethod: {scorer: independent}\n"
    (tmp_path / "ranker.yaml").write_text(ranker)
    model = first if first == "ann/base" else run(tmp_path, first)
    together = load_rankers(model, {"b": tmp_path / "books"})
    alone = f"ann/base@{moved[0]}" if first != "films" else model
    for name, which in ((together.names[0], alone), ("b", run(tmp_path, "books"))):
        wanted = Reranker.load(which).rank_many(REQUESTS)
        for rows, expected in zip(together.rank(name, REQUESTS), wanted, strict=True):
            assert [row.score for row in rows] == pytest.approx([row.score for row in expected], abs=1e-5)


def test_runs_on_two_commits_of_a_base_share_none(tmp_path, moved):
    was, now = moved
    on_hub(tmp_path / "new", tmp_path / "later", 3, now)
    for model in (run(tmp_path, "films"), f"ann/base@{was}", "ann/base"):
        with pytest.raises(UserError, match=f"x=.*: its base is 'ann/base@{now}', not 'ann/base@{was}'; all share"):
            shared_base(model, {"b": tmp_path / "books", "x": tmp_path / "new"})


def test_a_rankers_configuration_loads_its_model_as_the_runs_did(home, tmp_path):
    (tmp_path / "four.yaml").write_text(f"model: {{name: {home / 'base'}, quantization: nf4}}\n")
    with pytest.raises(UserError, match=r"x=.*: model.quantization is 'none', and 'nf4' in --model .*four.yaml"):
        shared_base(run(tmp_path, "four.yaml"), {"x": home / "films"})
