"""Tables on disk: whole shards that nobody overwrites, read where they lie, gone on with after a death."""

import hashlib
import json
import multiprocessing

import pytest
import torch
from tiny import tiny_model
from training_lists import encoded

from irpo.scorers import SCORERS
from irpo.training import reference, tables
from irpo.training.reference import Scoring, reference_tables, stored_references
from irpo.training.tables import Shelf, Writer, write_shard, writing
from irpo.types import UserError


def key(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def table(number):
    """(I, K) of several shapes."""
    return torch.arange(float((1 + number % 3) * (2 + number % 4))).reshape(1 + number % 3, -1) - number


def filled(folder, numbers):
    with writing(folder) as writer:
        writer.add((key(number), table(number)) for number in numbers)


def found(folder, numbers):
    return Shelf(folder).tables([key(number) for number in numbers])


def test_what_was_written_is_read_to_the_bit_and_what_was_not_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST", 7)
    with writing(tmp_path) as writer:
        for number in range(40):
            writer.add([(key(number), table(number))])
    assert len(list(tmp_path.iterdir())) == 6  # of 7 each, and the last
    assert len(Shelf(tmp_path)) == 40
    for number, read in enumerate(found(tmp_path, range(40))):
        assert torch.equal(read, table(number))
    assert found(tmp_path, [40, 3, 41])[::2] == [None, None]
    assert Shelf(tmp_path).has([key(3), key(40)]) == [True, False]


def test_nothing_is_there_and_nothing_is_asked(tmp_path):
    assert found(tmp_path / "none", [1, 2]) == [None, None]
    filled(tmp_path, [1])
    assert found(tmp_path, []) == []


def test_a_key_that_ends_in_zeros_is_no_other(tmp_path):
    keys = ["00" * 16, "01" + "00" * 15, "ff" * 15 + "00"]
    write_shard(tmp_path, [(each, torch.full((1, 2), float(i))) for i, each in enumerate(keys)])
    assert [int(read[0, 0]) for read in Shelf(tmp_path).tables(keys)] == [0, 1, 2]


def test_a_shard_is_written_after_a_minute_however_few_its_tables(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tables.time, "monotonic", lambda: clock[0])
    writer = Writer(tmp_path)
    writer.add([(key(0), table(0))])
    assert not tmp_path.exists() or not list(tmp_path.iterdir())
    clock[0] = 61.0
    writer.add([(key(1), table(1))])
    assert len(found(tmp_path, [0, 1])) == 2


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_shard_goes_alone(damage, tmp_path, capsys):
    paths = [write_shard(tmp_path, [(key(number), table(number))]) for number in range(3)]
    data = paths[1].read_bytes()
    broken = {"cut": data[:-1], "flip": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}[damage]
    paths[1].write_bytes(broken)
    read = found(tmp_path, range(3))
    assert [each is None for each in read] == [False, True, False]
    assert capsys.readouterr().err == (
        f"reference: {paths[1]} is damaged and made anew (its content does not fit its name)\n"
    )
    filled(tmp_path, [1])
    assert torch.equal(found(tmp_path, [1])[0], table(1))


def test_several_processes_add_at_once(tmp_path):
    """What they write overlaps; nothing is lost or doubled."""

    def adding(start):
        for at in range(start, 60, 10):
            filled(tmp_path, range(at, min(at + 20, 60)))

    processes = [multiprocessing.get_context("fork").Process(target=adding, args=(start,)) for start in (0, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(Shelf(tmp_path)) == 60
    assert all(torch.equal(read, table(n)) for n, read in enumerate(found(tmp_path, range(60))))


ITEMS = encoded()
SCORING = Scoring(SCORERS.build("independent"), "sum", 0, 10**4)


def chunks():
    return iter([ITEMS[:3], ITEMS[3:6], ITEMS[6:]])


def stored(cache, lists=chunks):
    return stored_references(tiny_model(), lists, SCORING, told="these", cache=cache)


def test_stored_references_are_those_in_memory(tmp_path):
    known = stored(tmp_path)(ITEMS[2:5])
    assert list(known) == [item.id for item in ITEMS[2:5]]
    for item in ITEMS[2:5]:
        scorer = SCORING.scorer
        alone = reference_tables(
            tiny_model(), ITEMS, scorer, length="sum", pad_id=0, tokens_per_batch=10**4, cache=None
        )
        torch.testing.assert_close(known[item.id], alone[item.id])


def test_a_fill_that_dies_goes_on_and_one_that_is_whole_is_not_gone_through(tmp_path, monkeypatch, capsys):
    def dying():
        yield ITEMS[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, dying)
    stored(tmp_path)
    assert "3 of 8 lists" in capsys.readouterr().err
    stored(tmp_path, lambda: pytest.fail("gone through again"))
    (shard, *_) = sorted(tmp_path.glob("*/*.safetensors"))
    shard.write_bytes(b"damaged")
    stored(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert "damaged and made anew" in lines[1]
    assert "of 8 lists" in lines[2]
    assert "0 of 8" not in lines[2]


def test_two_processes_take_a_half_each(tmp_path, monkeypatch, capsys):
    """One after the other here, as far as each can go alone; together they have all."""
    for rank in (0, 1):
        monkeypatch.setattr(reference, "share", lambda items, rank=rank: list(items[rank::2]))
        stored(tmp_path, lambda: chunks())
        for mark in tmp_path.glob("*/*.complete"):
            mark.unlink()
    said = [line for line in capsys.readouterr().err.splitlines() if "computed" in line]
    assert ["0 of 5" in said[0], "0 of 3" in said[1]] == [True, True]
    assert len(stored(tmp_path, lambda: iter(()))(ITEMS)) == 8


def test_what_is_lacking_and_what_cannot_be_written_is_said(tmp_path):
    known = stored(tmp_path, lambda: iter([ITEMS[:3]]))
    with pytest.raises(UserError, match=r"list 'list-5' are not there.*\$IRPO_CACHE must be a folder that they share"):
        known(ITEMS[4:6][1:])
    (tmp_path / "file").write_text(json.dumps("no folder"))
    with pytest.raises(UserError, match="the reference's scores cannot be written"):
        stored(tmp_path / "file")
