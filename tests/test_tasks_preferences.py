"""Response-ranking data: every form of a row, what becomes of scores, and the style that such lists are put in."""

from __future__ import annotations

import json

import pytest
from tiny import tiny_model, tiny_tokenizer

from irpo.evaluation import EvaluationOptions, evaluate
from irpo.prompting.prompts import PromptBuilder, end_of_turn, load_template
from irpo.resources import prompts_dir
from irpo.scorers import SCORERS
from irpo.scoring.forward import score_lists
from irpo.scoring.tokens import encode
from irpo.tasks import TASKS, Intake, build_lists
from irpo.tasks.preferences import labels_from_scores, parse_row
from irpo.types import UserError

ULTRA = {
    "source": "hand-written",
    "instruction": "Name a planet.",
    "models": ["a", "b", "c"],
    "completions": [
        {"model": "a", "response": "Mars.", "overall_score": 8.5, "annotations": {}},
        {"model": "b", "response": "The Moon.", "overall_score": 2.0, "annotations": {}},
        {"model": "c", "response": "Venus,\n\nI think.", "overall_score": 6.0, "annotations": {}},
    ],
}
PAIR = {"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}
USER = {"role": "user", "content": "Say hello."}
TALK = [USER, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "Please."}]


def said(text):
    return {"role": "assistant", "content": text}


def build(tmp_path, *rows, intake=None, **options):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build_lists(TASKS.build({"name": "preferences", "data": str(tmp_path), **options}), intake or Intake())


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [USER], "chosen": [said("Hello!")], "rejected": [said("No.")]},
        {
            "prompt": "Say hello.",
            "chosen": [USER, said("Hello!")],
            "rejected": [USER, said("No.")],
            "score_chosen": 9.0,
        },
        {"chosen": [USER, said("Hello!")], "rejected": [USER, said("No.")]},
        {"instruction": "Say hello.", "responses": ["Hello!", "No."], "scores": [1, 0]},
        {"question": "Say hello.", "completions": [{"text": "Hello!", "score": "1"}, {"text": "No.", "score": 0.0}]},
        {
            "input": "Say hello.",
            "generations": [{"content": [said("Hello!")], "rating": 1}, {"content": "No.", "rating": 0}],
        },
    ],
)
def test_every_form_of_a_row(row):
    assert parse_row(row) == ("Say hello.", ["Hello!", "No."], [1.0, 0.0])


def test_a_longer_conversation_names_who_speaks():
    prompt, *_ = parse_row({"chosen": [*TALK, said("Hello!")], "rejected": [*TALK, said("No.")]})
    assert prompt == "user: Say hello.\n\nassistant: Why?\n\nuser: Please."


def test_scores_become_labels(tmp_path):
    (example,) = build(tmp_path, ULTRA, eval_fraction=0.0)["train"]
    assert example.query == "Name a planet."
    assert {c.text: c.relevance for c in example.candidates} == {"Mars.": 2, "Venus,\n\nI think.": 1, "The Moon.": 0}
    (example,) = build(tmp_path, ULTRA, eval_fraction=0.0, labels="difference")["train"]
    assert sorted(example.relevance) == [0.0, 4.0, 6.5]


def test_labels_from_scores_keep_the_order_and_begin_at_0():
    assert labels_from_scores([-2.5, 3.0, 3.0], "rank") == [0, 1, 1]
    assert labels_from_scores([-2.5, 3.0, 3.0], "difference") == [0, 5.5, 5.5]
    assert labels_from_scores([-2.5, 3.0, 3.0], "best") == [0, 1, 1]
    assert labels_from_scores([4.0, 4.0], "best") == labels_from_scores([4.0, 4.0], "rank") == [0, 0]


def test_order_does_not_tell_the_label(tmp_path):
    rows = [{**PAIR, "prompt": f"Say hello, {n}."} for n in range(40)]
    lists = build(tmp_path, *rows, eval_fraction=0.0)["train"]
    first = sum(example.relevance[0] for example in lists)
    assert 8 < first < 32
    assert build(tmp_path, *rows, eval_fraction=0.0)["train"] == lists


def test_rows_that_rank_nothing_are_counted(tmp_path):
    intake = Intake()
    tied = {"prompt": "p", "responses": ["a", "b"], "scores": [3, 3]}
    twins = {"prompt": "p", "responses": ["a", "a "], "scores": [3, 4]}
    assert len(build(tmp_path, PAIR, tied, twins, intake=intake, eval_fraction=0.0)["train"]) == 1
    assert intake.dropped["train"] == {"all responses have the same score": 1, "fewer than two different responses": 1}


def test_rows_are_set_aside_where_there_is_no_evaluation_split(tmp_path):
    rows = [{**PAIR, "prompt": f"Say hello, {n}."} for n in range(60)]
    lists = build(tmp_path, *rows, eval_fraction=0.3)
    assert 8 <= len(lists["eval"]) <= 30
    assert len(lists["train"]) + len(lists["eval"]) == 60
    turned = build(tmp_path, *reversed(rows), eval_fraction=0.3)
    assert {e.id for e in turned["eval"]} == {e.id for e in lists["eval"]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p"}, "neither 'chosen' and 'rejected' nor one of responses"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"chosen": [USER, said("a")], "rejected": [said("b"), said("c")]}, "do not begin with the same"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1]}, "'scores' has 1 numbers for 2 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1, "high"]}, "'scores' is 'high'"),
        ({"prompt": "p", "completions": [{"response": "a"}]}, "item 1: the row has no 'score'"),
        ({"prompt": " ", "responses": ["a", "b"], "scores": [1, 2]}, "'prompt' is empty"),
        ({"prompt": [3], "responses": ["a", "b"], "scores": [1, 2]}, "a message is 3"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path, row, said):
    with pytest.raises(UserError, match=f"train.jsonl:1: .*{said}"):
        build(tmp_path, row)


def builder(max_tokens=400):
    tokenizer = tiny_tokenizer()
    return PromptBuilder(tokenizer, load_template(prompts_dir(), "preferences", "response"), "response", max_tokens)


def item_of(example, max_tokens=400):
    made = builder(max_tokens)
    return encode(made.tokenizer, made.build(example), example.relevance, id=example.id)


def test_a_response_is_a_whole_answer_and_not_in_the_prompt(tmp_path):
    (example,) = build(tmp_path, ULTRA, eval_fraction=0.0)["train"]
    tokenizer = builder().tokenizer
    item = item_of(example)
    assert tokenizer.decode(item.prompt) == "<|bos|><|user|>\nName a planet.<|end|>\n<|assistant|>\n"
    assert item.heads == ((),) * 3
    assert item.tail == ()
    for text, body in zip(example.texts, item.bodies, strict=True):
        assert body[-1] == end_of_turn(tokenizer) == item.end
        assert tokenizer.decode(body[:-1]) == text


def test_long_responses_and_prompts_fit_the_budget(tmp_path):
    long = {"prompt": "why " * 300, "chosen": "because " * 200, "rejected": "no"}
    (example,) = build(tmp_path, long, eval_fraction=0.0)["train"]
    prompt = builder(100).build(example)
    item = item_of(example, 100)
    assert len(item.prompt) + max(map(len, item.bodies)) <= 100
    assert prompt.candidate_tokens_cut > 0
    assert prompt.query_tokens_cut > 0
    assert max(map(len, item.bodies)) >= 50
    assert "no" in prompt.names


def test_a_list_is_asked_of_no_response(tmp_path):
    (example,) = build(tmp_path, ULTRA, eval_fraction=0.0)["train"]
    item = item_of(example)
    with pytest.raises(UserError, match="scorer 'list' needs an answer that lists"):
        SCORERS.build("list").layout(item)
    with pytest.raises(UserError, match=r"set evaluation\.modes to \[score\]"):
        evaluate([example], builder(), tiny_model(), SCORERS.build("independent"))


def test_responses_are_ranked_by_their_likelihood(tmp_path):
    (example,) = build(tmp_path, ULTRA, eval_fraction=0.0)["train"]
    model, made = tiny_model(), builder()
    found = evaluate([example], made, model, SCORERS.build("independent"), EvaluationOptions(("score",)))
    scores = score_lists(model, made.tokenizer, [item_of(example).without_labels()], SCORERS.build("independent"))[0]
    order = sorted(range(3), key=lambda j: -scores[j].item())
    assert list(found.rows[0].rankings[example.id].order) == order
