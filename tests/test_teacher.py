"""A teacher's scores from a file to a loss: read, kept with their candidates, asked for, and shown to no evaluation."""

import json
from dataclasses import replace

import jsonschema
import pytest
import torch
from handmade import a_list, build, write_lines
from training_lists import TEMPLATE, TOKENIZER, encoded, examples, learned, method, taught, trainer

from irpo.config.schema import load_config
from irpo.online.rounds import require_sound
from irpo.prompting.prompts import PromptBuilder
from irpo.scoring.forward import Scores
from irpo.scoring.tokens import encode, prompted
from irpo.tasks.jsonl import SCHEMA, list_as_json, parse_list
from irpo.training.job import method_of, prepare_job, split_training
from irpo.training.method import Noise, table_of
from irpo.types import UserError


def scored_row(name="q1", teacher=(0.5, -2, 1e-3), labels=(1, 0, 0)):
    """A row of the jsonl task with a teacher; without labels where they are None."""
    row = a_list(name, labels or [0] * len(teacher))
    for candidate, score in zip(row["candidates"], teacher, strict=True):
        if labels is None:
            del candidate["relevance"]
        if score is not None:
            candidate["teacher"] = score
    return row


def test_what_a_row_says_is_read_and_written_back():
    example = parse_list(scored_row())
    assert example.teacher == (0.5, -2.0, 0.001)
    assert parse_list(list_as_json(example)) == example
    assert parse_list(a_list()).teacher is None
    assert "teacher" not in json.dumps(list_as_json(parse_list(a_list())))


BAD = [
    (scored_row(teacher=(1, None, 2)), "candidate 'c1' has no teacher score, and others do"),
    (scored_row(teacher=(1, "high", 2)), "candidate 2: 'teacher' is 'high'; it must be a number"),
    (scored_row(teacher=(1, True, 2)), "candidate 2: 'teacher' is True; it must be a number"),
    (scored_row(teacher=(1, 10**400, 2)), "a score is a number from -1e+09 to 1e+09"),
]


@pytest.mark.parametrize(("row", "said"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_score_is_one_clear_line_with_its_place(tmp_path, row, said):
    path = write_lines(tmp_path / "train.jsonl", [scored_row("fine"), row])
    with pytest.raises(UserError, match=r"train\.jsonl:2: ") as error:
        build("jsonl", path)
    assert said in str(error.value)
    assert not jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(row)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_score_is_finite(tmp_path, number):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(scored_row()).replace("0.5", number) + "\n")
    with pytest.raises(UserError, match=r"jsonl:1: .*a score is a number"):
        build("jsonl", path)


def test_lists_to_train_on_may_have_a_teacher_alone_and_others_not(tmp_path):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for row in (scored_row(), scored_row(labels=None), scored_row(labels=(0, 0, 0))):
        assert validator.is_valid(row)
        write_lines(tmp_path / "train.jsonl", [row])
        assert build("jsonl", tmp_path)["train"][0].teacher == (0.5, -2.0, 0.001)
    half = scored_row()
    del half["candidates"][1]["relevance"]
    write_lines(tmp_path / "train.jsonl", [half])
    assert not validator.is_valid(half)
    with pytest.raises(UserError, match="candidate 2: the row has no 'relevance'"):
        build("jsonl", tmp_path)
    write_lines(tmp_path / "train.jsonl", [scored_row()])
    write_lines(tmp_path / "eval.jsonl", [scored_row("e", labels=None)])
    with pytest.raises(UserError, match=r"eval\.jsonl:1: .*no relevant candidate"):
        build("jsonl", tmp_path)


def test_a_shuffled_list_keeps_each_score_with_its_candidate(tmp_path):
    row = scored_row(teacher=range(8), labels=[1] + [0] * 7)
    write_lines(tmp_path / "train.jsonl", [row])
    example = build("jsonl", tmp_path, shuffle=True)["train"][0]
    assert example.teacher != tuple(range(8))
    assert [f"c{score:.0f}" for score in example.teacher] == [c.id for c in example.candidates]


def test_what_is_selected_is_selected_with_its_scores():
    item = taught(encoded())[2]
    assert item.only([3, 0]).teacher == (13.0, 10.0)
    assert encoded()[2].only([3, 0]).teacher == ()


def test_the_scores_stand_in_the_table_beside_their_candidates():
    lists, labels = taught(encoded()), method("kl")
    batch = labels.batch(lists, 0)
    for row, item in zip(batch.teacher, lists, strict=True):
        assert row[: len(item.bodies)].tolist() == list(item.teacher)
        assert not row[len(item.bodies) :].any()
    shape = (*batch.mask.shape[:1], 1, *batch.mask.shape[1:])
    scores = Scores(torch.zeros(shape), batch.mask[:, None], None)
    assert table_of(batch, scores, torch.zeros(shape), Noise()).teacher is batch.teacher
    assert labels.batch([*lists[:3], encoded()[3]], 0).teacher is None


def test_the_slots_of_a_list_share_its_teacher():
    walk = method("ranknet", "stepwise")
    batch = walk.batch(taught(encoded("label"))[:3], 0)
    shape = (3, batch.ranks, batch.mask.shape[1])
    tables = table_of(batch, Scores(torch.zeros(shape), torch.ones(shape).bool(), None), torch.zeros(shape), Noise())
    torch.testing.assert_close(tables.teacher.view(shape), batch.teacher[:, None].expand(shape))


@pytest.mark.parametrize("name", ["kl", "margin_mse", "ranknet"])
@pytest.mark.parametrize("labels", [True, False])
def test_a_student_comes_to_rank_as_its_teacher_does(tmp_path, name, labels):
    lists = taught(item if labels else item.without_labels() for item in encoded(count=4))
    run = trainer(tmp_path, method({"name": name, "beta": 0.1}), items=lists, updates=8)
    before = learned(run.model)
    run.go(None)
    lines = [line for line in map(json.loads, run.log_file.read_text().splitlines()) if "loss" in line]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["teacher_pairs"] > lines[0]["teacher_pairs"]
    assert "train_NDCG@10" not in lines[0]  # of labels, which nothing reads
    assert any(not torch.equal(before[key], now) for key, now in learned(run.model).items())


def test_a_loss_without_its_teacher_names_the_line(tmp_path):
    rows = [scored_row(f"q{i}") for i in range(3)] + [a_list("bare", [1, 0, 0])]
    config = load_config(
        ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/kl.yaml"],
        [f"task.data={write_lines(tmp_path / 'train.jsonl', rows)}", "training.validation_fraction=0"],
    )
    with pytest.raises(UserError) as error:
        prepare_job(config)
    said = "train.jsonl:4: list 'bare' has no teacher scores (key 'teacher' of its candidates); KL learns from them"
    assert str(error.value).endswith(said)


@pytest.mark.parametrize(
    ("of", "reader"),
    [
        (method("dpo"), "DPO learns from labels"),
        (method("kl", nll_weight=0.1), "method.nll_weight above 0 learns from labels"),
    ],
)
def test_labels_are_asked_for_where_they_are_read(of, reader):
    lists = [replace(item.without_labels(), teacher=(1.0,) * len(item.bodies)) for item in encoded(count=2)]
    with pytest.raises(UserError, match=f"x:1: list 'list-0' has teacher scores alone; {reader}"):
        of.require_labels(lists, {"list-0": "x:1"})
    method("kl").require_labels(lists)


def test_lists_without_labels_validate_nothing():
    """Those of a unit that validates serve nobody; the split of labelled lists is what it was."""
    lists = [replace(e, group=f"g{i % 5}") for i, e in enumerate(examples(20))]
    known = split_training(lists, 0.5, 100)
    assert known.validation
    bare = []
    for i, e in enumerate(lists):
        scored = tuple(replace(c, relevance=0, teacher=1.0) for c in e.candidates)
        bare.append(replace(e, id=f"bare-{i}", candidates=scored, group=f"g{i % 5}" if i % 2 else f"h{i}"))
    mixed = split_training([*lists, *bare], 0.5, 100)
    assert mixed.validation == known.validation
    held = {e.unit for e in known.validation}
    assert mixed.train == (*known.train, *(e for e in bare if e.unit not in held))
    assert split_training(bare, 0.5, 100).train == tuple(bare)


def test_evaluation_sees_no_teacher():
    scored = [replace(e, candidates=tuple(replace(c, teacher=7.5) for c in e.candidates)) for e in examples(2)]
    builder = PromptBuilder(TOKENIZER, TEMPLATE, "text")
    for asked, shown in zip(
        prompted(builder, scored, labels=False), prompted(builder, examples(2), labels=False), strict=True
    ):
        assert asked == shown
        assert asked.example.teacher is None
    training = prompted(builder, scored, labels=True)
    assert [p.tokens.teacher for p in training] == [(7.5,) * len(e.candidates) for e in scored]
    assert [p.prompt for p in training] == [p.prompt for p in prompted(builder, examples(2), labels=True)]
    assert training[0].tokens.without_labels().teacher == ()
    plain = encode(TOKENIZER, training[0].prompt, scored[0].relevance, id=scored[0].id)
    assert replace(training[0].tokens, teacher=()) == plain


def test_answers_that_are_drawn_have_no_teacher():
    layers = ["models/embedded.yaml", "tasks/world.yaml", "methods/larpo.yaml", "methods/kl.yaml"]
    config = load_config(layers, ["method.objective={name: kl}"])
    with pytest.raises(UserError, match="draws answers that no teacher has scored"):
        require_sound(config, method_of(config))
