"""Lists that stay on disk: the same to train and to validate on, every one once an epoch, and the same training."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_runs import SMALL
from training_lists import TEMPLATE, TOKENIZER, encoded, examples, learned, method, trainer

from irpo import pipeline
from irpo.config.schema import load_config
from irpo.progress import bars
from irpo.prompting.prompts import PromptBuilder, Template
from irpo.runs.checkpoints import last_whole
from irpo.scoring.tokens import prompted
from irpo.tasks import TASKS
from irpo.tasks.preparing import prepare
from irpo.tasks.shards import ShardedLists
from irpo.training import stream as streams
from irpo.training.arguments import Loop
from irpo.training.job import prepare_job, split_training
from irpo.training.logbook import Logbook, Progress
from irpo.training.stream import Stream, put, stream_of, survey, validating
from irpo.types import UserError

BUILDER = PromptBuilder(TOKENIZER, TEMPLATE, "text")
COUNT, FRACTION = 40, 0.3


def graded(count=COUNT):
    """Lists of which two and two belong together."""
    return [replace(e, group=f"wish {i // 2}") for i, e in enumerate(examples(count))]


def bare(example):
    """The list with a teacher's scores alone."""
    return replace(example, candidates=tuple(replace(c, relevance=0.0, teacher=1.5) for c in example.candidates))


def on_disk(folder, lists):
    source = folder / "source"
    source.mkdir(parents=True)
    rows = [
        {
            "id": e.id,
            "query": e.query,
            "group": e.group,
            "candidates": [
                {"id": c.id, "text": c.text, "relevance": c.relevance}
                | ({} if c.teacher is None else {"teacher": c.teacher})
                for c in e.candidates
            ],
        }
        for e in lists
    ]
    (source / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"name": "jsonl", "data": str(source)}
    prepare(TASKS.build(spec), folder / "lists", task_spec=spec)
    return ShardedLists.of(folder / "lists", "train")


def surveyed(lists, cache, check=lambda _: None):
    return survey(lists, FRACTION, check, told="", cache=cache)


def streamed(folder, lists=None, *, processes=0, each=4, seed=0) -> Stream:
    lists = on_disk(folder, graded() if lists is None else lists)
    training = SimpleNamespace(validation_fraction=FRACTION, shuffle_buffer=8, lists_per_update=each)
    config = SimpleNamespace(training=training, seed=seed)
    return stream_of(lists, surveyed(lists, folder), BUILDER, config, processes=processes)


MIXED = [bare(e) if i % 3 == 0 else e for i, e in enumerate(graded())]


@pytest.mark.parametrize("lists", [graded(), MIXED, [bare(e) for e in graded()]], ids=["labels", "mixed", "teacher"])
def test_what_is_trained_on_and_what_validates_is_as_in_memory(lists, tmp_path):
    disk = on_disk(tmp_path, lists)
    found = surveyed(disk, tmp_path)
    expected = split_training(lists, FRACTION, 5)
    assert tuple(e for e in disk if found.trains(e, FRACTION)) == expected.train
    assert found.train == len(expected.train)
    assert tuple(validating(disk, FRACTION, 5, found)) == expected.validation


def test_the_lists_are_gone_through_once_for_their_labels_and_not_again(tmp_path):
    lists = graded()
    lists[7] = replace(lists[7], candidates=tuple(replace(c, relevance=9.0) for c in lists[7].candidates))
    disk, of = on_disk(tmp_path, lists), method("point_sigmoid")

    def check(example):
        of.require_labels([example], {example.id: example.where})

    with pytest.raises(UserError, match=r"train.jsonl:byte \d+: list 'list-7' .*9"):
        surveyed(disk, tmp_path / "cache", check)
    found = surveyed(disk, tmp_path / "cache")
    assert surveyed(disk, tmp_path / "cache", lambda _: pytest.fail("read again")) == found


def ids(updates):
    return [[item.id for item in update] for update in updates]


def test_every_list_once_an_epoch_and_each_epoch_in_another_order(tmp_path):
    stream = streamed(tmp_path)
    every = {e.id for e in stream.lists if stream.survey.trains(e, FRACTION)}
    count = stream.updates
    epochs = [ids(itertools.islice(stream.from_update(count * epoch), count)) for epoch in (0, 1)]
    for epoch in epochs:
        flat = [name for update in epoch for name in update]
        assert sorted(flat) == sorted(every)
        assert all(len(update) == 4 for update in epoch[:-1])
    assert epochs[0] != epochs[1]
    both = ids(itertools.islice(stream.from_update(0), 2 * count))
    assert both == epochs[0] + epochs[1]
    assert ids(itertools.islice(replace(stream, seed=1).from_update(0), count)) != epochs[0]


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_change_nothing_wherever_one_begins(processes, tmp_path):
    stream = streamed(tmp_path)
    expected = list(itertools.islice(stream.from_update(0), 2 * stream.updates))
    ahead = replace(stream, processes=processes)
    for first in (0, 5, stream.updates + 1):
        coming = ahead.from_update(first)
        assert list(itertools.islice(coming, 2 * stream.updates - first)) == expected[first:]
        coming.close()
    assert list(itertools.chain(*ahead.chunks())) == list(itertools.chain(*stream.chunks()))


def test_what_was_trained_on_is_passed_over_without_encoding_it(tmp_path, monkeypatch):
    stream, put_as_tokens = streamed(tmp_path), []
    monkeypatch.setattr(streams, "prompted", lambda b, some, **k: put_as_tokens.extend(some) or prompted(b, some, **k))
    next(stream.from_update(4))
    assert len(put_as_tokens) == 4


def test_lists_in_memory_are_put_alike_by_any_number_of_processes(monkeypatch):
    monkeypatch.setattr(streams, "PORTION", 3)
    lists = graded(20)
    assert put(BUILDER, lists, 3) == put(BUILDER, lists, 0) == tuple(prompted(BUILDER, lists, labels=True))


def told(run):
    """What a log says of training: all but times and memory."""
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    lines = [line for line in lines if "train_runtime" not in line]
    clocks = ("tokens_per_s", "lists_per_s", "waiting", "peak_memory_mb", "eval_seconds")
    assert all(0 <= line["waiting"] <= 1 for line in lines if "loss" in line)
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


def test_training_is_the_same_ahead_or_not_and_after_a_break(tmp_path):
    """Over two epochs; the run that goes on had died after a checkpoint in the middle of the second."""
    stream = streamed(tmp_path, each=8)
    updates = 2 * stream.updates
    settings = {"updates": updates, "evaluate_every": stream.updates + 1, "validation": encoded(count=3)}
    of, found = method("pair_logistic"), {}
    for processes in (0, 1, 3):
        run = trainer(tmp_path / str(processes), of, items=replace(stream, processes=processes), **settings)
        run.go(None)
        found[processes] = (told(run), learned(run.model))
    for log, weights in found.values():
        assert log == found[0][0]
        assert all(torch.equal(weights[name], value) for name, value in found[0][1].items())
    checkpoint = last_whole(tmp_path / "3" / "checkpoints")
    first = checkpoint.with_name(f"checkpoint-{stream.updates + 1}")
    again = trainer(tmp_path / "3", of, items=replace(stream, processes=1), **settings)
    again.go(first)
    assert told(again) == found[0][0]
    assert all(torch.equal(learned(again.model)[name], value) for name, value in found[0][1].items())


@pytest.mark.parametrize("waits", [True, False])
def test_who_waits_for_lists_is_told_where_processes_would_help(waits, capsys, tmp_path):
    progress, state = Progress(Logbook(tmp_path), waits=waits), SimpleNamespace(global_step=1, max_steps=9)
    with bars():
        progress.on_train_begin(None, state, None)
        progress.on_log(None, state, None, logs={"loss": 2.0, "waiting": 0.31})
        progress.on_log(None, state, None, logs={"loss": 1.0, "waiting": 0.02})
        progress.on_train_end(None, state, None)
    first, second = (line.partition(": ")[2] for line in capsys.readouterr().err.splitlines())
    assert first == "loss 2" + ", waiting for lists 31% of the time" * waits
    assert second == "loss 1"


def test_no_process_is_left_where_training_ends(tmp_path):
    import psutil

    others = set(psutil.Process().children())
    run = trainer(tmp_path, method("dpo"), items=streamed(tmp_path, processes=2), updates=2)
    run.go(None)
    assert set(psutil.Process().children()) <= others


def test_a_template_that_fails_in_a_process_is_one_line(tmp_path):
    broken, stream = Template("{{ 1 / (candidates | length - 5) }}"), streamed(tmp_path, graded(12))
    messages = []
    for processes in (0, 2):
        builder = PromptBuilder(TOKENIZER, broken, "text")
        with pytest.raises(UserError) as caught:
            list(itertools.islice(replace(stream, builder=builder, processes=processes).from_update(0), 3))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]


@pytest.mark.parametrize("reference", ["adapters_off", "precomputed"])
def test_a_reference_of_lists_on_disk_teaches_the_same(reference, tmp_path):
    stream = streamed(tmp_path)
    items = [item for update in itertools.islice(stream.from_update(0), 2) for item in update]
    cache = Loop(reference_cache=tmp_path / "cache")
    run = trainer(tmp_path / "disk", method("irpo", reference=reference), items=stream, updates=2, loop=cache)
    run.go(None)
    memory = trainer(tmp_path / "memory", method("irpo", reference="adapters_off"), items=items, updates=2)
    memory._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(items)
    memory.go(None)
    torch.testing.assert_close(learned(run.model), learned(memory.model), atol=1e-6, rtol=1e-4)


PREPARED = ["models/embedded.yaml", "methods/irpo.yaml"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.name=world"], r"run `irpo prepare` first.*the task is 'world'"),
        (["task.name=prepared", "online.method=iterative"], "online.method draws from lists in memory"),
        (["task.name=prepared", "training.max_lists=5"], "set training.updates instead"),
    ],
)
def test_what_a_stream_does_not_go_with(overrides, said):
    with pytest.raises(UserError, match=said) as caught:
        load_config(PREPARED, ["training.shuffle_buffer=100", *overrides])
    assert "\n" not in str(caught.value)


def test_lists_that_are_in_memory_already_are_no_stream(tmp_path):
    config = load_config(PREPARED, ["task.name=prepared", f"task.data={tmp_path}", "training.shuffle_buffer=9"])
    with pytest.raises(UserError, match="here they are in memory"):
        prepare_job(config, ({"train": []}, {}))


def test_a_run_from_disk_and_one_that_went_on(tmp_path, monkeypatch):
    """As a user has it: prepare, train, die, resume; the job's own checks, card and key."""
    monkeypatch.setenv("IRPO_CACHE", str(tmp_path / "cache"))
    spec = {"name": "world", "train_lists": 60, "eval_lists": 4}
    prepare(TASKS.build(spec), tmp_path / "lists", task_spec=spec)
    small = [s for s in SMALL if not s.startswith("task.")]
    overrides = [*small, "task.name=prepared", f"task.data={tmp_path / 'lists'}", "training.shuffle_buffer=20"]
    config = load_config(PREPARED, overrides)
    pipeline.train(config, tmp_path / "whole", advises=False)

    real = pipeline.trainer_of

    def dying(*given):
        run = real(*given)
        taken = run._save_checkpoint
        run._save_checkpoint = lambda *a: (taken(*a), (_ for _ in ()).throw(KeyboardInterrupt))
        return run

    monkeypatch.setattr(pipeline, "trainer_of", dying)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(config, tmp_path / "torn", advises=False)
    monkeypatch.setattr(pipeline, "trainer_of", real)
    ahead = load_config(PREPARED, [*overrides, "training.encoding_processes=2"])
    pipeline.train(ahead, tmp_path / "torn", resume=True, advises=False)
    whole, torn = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "torn")
    )
    assert whole == torn
