"""Long lists by parts, from end to end with the embedded model: evaluate, rank, `Reranker`, suites."""

from __future__ import annotations

import json

import pytest
from ranked_lists import BUILDER, TOKENIZER, example
from test_going import Killed, watched_calls
from tiny import tiny_model

from irpo.compare.measuring import Bench, Protocol
from irpo.evaluation import Evaluation, evaluate
from irpo.evaluation.going import GOING, Going
from irpo.evaluation.report import overview
from irpo.evaluation.running import EvaluationOptions, ranked
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.ranking.reranker import Reranker
from irpo.scorers import SCORERS
from irpo.tasks.world import film_list
from irpo.types import Candidate, RankingExample, UserError

RERANKER = Reranker(tiny_model(), TOKENIZER, BUILDER, SCORERS.build("independent"))
FILMS = [film_list(f"long/{i}", 12).example() for i in range(6)]
PROMPTS = {  # of a list of 12
    "{name: window, size: 4, stride: 2, by: constrain}": 5,
    "{name: tournament, size: 4, keep: 2}": 3 + 2 + 1,
    "{name: setwise, size: 4, k: 2, sort: bubble, by: label}": 4 + 4,
    "label": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The lists as a user's own."""
    made = tmp_path_factory.mktemp("lists")
    rows = [
        {
            "id": e.id,
            "query": e.query,
            "candidates": [{k: getattr(c, k) for k in ("id", "text", "relevance")} for c in e.candidates],
        }
        for e in FILMS
    ]
    (made / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def test_evaluate_measures_them_like_any_mode(folder, irpo, tmp_path):
    words = [word for mode in PROMPTS for word in ("--mode", mode)]
    common = ("--model", "embedded", "--task", "jsonl", "--data", folder, "--style", "label", "--out", "found")
    code, out, err = irpo("evaluate", *common, *words)
    assert code == 0, err
    rows = [row for row in json.loads((tmp_path / "found" / "results.json").read_text())["rows"] if not row["baseline"]]
    assert [row["prompts"] for row in rows] == list(PROMPTS.values())
    assert [row["coverage"] for row in rows] == pytest.approx([1, 1, 2 / 12, 1])
    assert "│ prompts" in out or "┃ prompts" in out
    assert "- prompts: that the model was given for a list" in (tmp_path / "found" / "report.md").read_text()
    for line in (tmp_path / "found" / "per_query.jsonl").read_text().splitlines():
        told = json.loads(line)
        ids = sorted(c.id for e in FILMS if e.id == told["id"] for c in e.candidates)
        assert all(sorted(row["order"]) == ids for row in told["rows"].values())


def test_one_window_for_the_whole_list_is_the_inner_mode():
    ranker, by = RERANKER.ranker, RANKING_MODES.build("score")
    whole = RANKING_MODES.build({"name": "window", "size": 12, "stride": 6, "start": "given"})
    lists = [example(f"q{i}") for i in range(3)]
    assert [x.ranking for x in whole(ranker, lists)] == [x.ranking for x in by(ranker, lists)]
    assert [x.prompts for x in whole(ranker, lists)] == [1, 1, 1]


def test_a_mode_that_is_written_twice_is_ranked_once():
    options = EvaluationOptions(("window", {"name": "window", "size": 20}, {"name": "window", "size": 4, "stride": 2}))
    assert len(options.built) == 2


def test_options_in_a_configuration_are_checked_where_they_stand(irpo, tmp_path):
    (tmp_path / "mine.yaml").write_text("evaluation:\n  modes:\n  - score\n  - {name: window, stride: 30}\n")
    layers = ("models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml", "mine.yaml")
    code, _, err = irpo("train", *layers, "--out", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "mine.yaml:4: " in err
    assert "stride is 30 and size 20" in err


def test_label_is_the_scorer_of_that_name_whatever_the_run_has():
    ranker = Ranker(tiny_model(), PromptBuilder(TOKENIZER, BUILDER.template, "label"), SCORERS.build("independent"))
    as_run = Ranker(tiny_model(), ranker.builder, SCORERS.build("label"))
    lists = [example(f"q{i}") for i in range(2)]
    assert RANKING_MODES.build("label")(ranker, lists) == RANKING_MODES.build("score")(as_run, lists)


@pytest.mark.parametrize("mode", ["label", "{name: window, by: label}"])
def test_label_without_labels_in_the_prompt_is_one_clear_line(mode, irpo):
    code, _, err = irpo("rank", "--model", "embedded", "--mode", mode, "a western", "Cold War", "Dark Days")
    assert code == 2
    assert err == (
        "error: mode 'label' works with prompt.style 'label' alone, and this prompt's is 'text': --style label, or "
        "another mode\n"
    )


def test_rank_takes_options_and_says_what_was_not_sorted(irpo):
    words = ("rank", "--model", "embedded", "--json", "a western", *(c.text for c in FILMS[0].candidates))
    code, out, err = irpo(*words, "--mode", "{name: setwise, size: 3, k: 2}")
    assert code == 0, err
    rows = json.loads(out)
    assert sorted(row["index"] for row in rows) == list(range(12))
    found = RERANKER.rank("a western", [c.text for c in FILMS[0].candidates], {"name": "setwise", "size": 3, "k": 2})
    assert [row.named for row in found] == [True, True, *[False] * 10]
    for wrong, said in (
        ("{name: window, size", "is not a YAML value"),
        ("[window]", "give a mode's name, or with options"),
    ):
        code, _, err = irpo(*words, "--mode", wrong)
        assert (code, said in err, err.count("\n")) == (2, True, 1)


def test_a_list_that_no_prompt_holds_is_ranked_by_windows(tmp_path):
    texts = tuple(f"The film number {i} tells of ships and stars and much else" for i in range(40))
    of = [
        RankingExample("long", "best movies", tuple(Candidate(str(i), t, float(i == 3)) for i, t in enumerate(texts)))
    ]
    small = PromptBuilder(TOKENIZER, BUILDER.template, "text", 200)
    options = EvaluationOptions(({"name": "window", "size": 4, "stride": 3},), going=tmp_path / GOING)
    with pytest.raises(UserError, match="40 candidates need at least"):
        evaluate(of, small, RERANKER.model, RERANKER.scorer, EvaluationOptions(("score",), going=tmp_path / GOING))
    found = evaluate(of, small, RERANKER.model, RERANKER.scorer, options)
    (lists,) = [row.lists for row in found.rows if row.lists]
    assert sorted(lists[0].ranking.order) == list(range(40))
    assert (lists[0].prompts, min(lists[0].cut) > 0) == (13, True)
    assert found.summary.setting.prompts_cut == 1


def test_one_that_was_killed_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("irpo.evaluation.going._TOGETHER", 2)
    mode = RANKING_MODES.build({"name": "window", "size": 3, "stride": 2})
    lists = [example(f"q{i}") for i in range(5)]

    def go():
        return ranked(mode, RERANKER.ranker, lists, Going.of(tmp_path, RERANKER.ranker, lists, whole=False))[0]

    whole = ranked(mode, RERANKER.ranker, lists)[0]
    with monkeypatch.context() as patch:
        watched_calls(patch, mode, dies_after=2)
        with pytest.raises(Killed):
            go()
    assert go() == whole
    assert "going on: 4 of 5 lists of mode window (size=3, stride=2, passes=1, by=score" in capsys.readouterr().err


def test_another_inner_mode_and_a_longer_prompt_are_another_evaluation(tmp_path):
    lists = [example()]
    modes = [RANKING_MODES.build({"name": "window", "size": 3, "stride": 2, "by": by}) for by in ("score", "constrain")]
    rankers = [
        RERANKER.ranker,
        Reranker(
            RERANKER.model, TOKENIZER, PromptBuilder(TOKENIZER, BUILDER.template, "text", 999), RERANKER.scorer
        ).ranker,
    ]
    paths = {Going.of(tmp_path, r, lists, whole=False).kept(mode).path for r in rankers for mode in modes}
    assert len(paths) == 4


def test_a_suite_tells_two_settings_of_a_mode_apart(tmp_path):
    modes = ({"name": "score"}, *({"name": "window", "size": 3, "stride": stride} for stride in (1, 3)))
    lists = [example(f"q{i}") for i in range(3)]
    rows, _ = Bench(RERANKER, lists, Protocol(modes, ("NDCG@10",), ("1",)), tmp_path, None).rows()
    told = {row.mode: (row.passes, row.values.shape) for row in rows}
    assert told == {
        "score": (1, (1, 3)),
        "window (size=3, stride=1, passes=1, by=score, start=chance)": (4, (1, 3)),
        "window (size=3, stride=3, passes=1, by=score, start=chance)": (2, (1, 3)),
    }


def test_a_table_of_whole_lists_alone_has_no_column_of_prompts():
    found: Evaluation = evaluate([example()], BUILDER, RERANKER.model, RERANKER.scorer, EvaluationOptions(("score",)))
    assert "prompts" not in overview(found.summary).header
    assert [row.prompts for row in found.summary.rows][:2] == [1, None]
