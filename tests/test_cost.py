"""What training cost: over checkpoints and rounds, without validation, and energy by counters that wrap."""

import json
import time

import pytest
from small_runs import config_of
from training_lists import encoded, method, trainer

from irpo import pipeline
from irpo.training import cost
from irpo.training.cost import Cost, Meter, Nvml, Rapl, read_cost, total_cost, write_cost
from irpo.types import UserError

ITEMS = encoded(count=8)


class Counter:
    """A device that has used ten joules more whenever it is asked."""

    def __init__(self, *, dies_at=None):
        self.asked, self.dies_at = 0, dies_at

    def joules(self):
        self.asked += 1
        return None if self.asked == self.dies_at else 10.0 * self.asked


def run_of(out, updates=4):
    return trainer(out, method("dpo"), items=ITEMS, validation=ITEMS[:4], updates=updates, evaluate_every=2)


def interrupted(out):
    """A run that dies in its fourth update, after the checkpoint of the second."""
    run = run_of(out)
    step = run.training_step

    def dying(*args, **kwargs):
        if run.state.global_step == 3:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    run.training_step = dying
    with pytest.raises(KeyboardInterrupt):
        run.go(None)
    return f"{out}/checkpoints/checkpoint-2"


def tokens_of(run, items):
    return sum(batch.tokens for batch in run.method.batches(items, 0, 99999))


def test_costs_add_up():
    assert Cost(1.5, 10, 7, 2.0) + Cost(2.0, 5, 3, 0.5) == Cost(3.5, 15, 7, 2.5)
    assert (Cost(1.0, 1, 1, None) + Cost(1.0, 1, 1, 4.0)).joules is None
    assert Cost() + Cost(1.0, 2, 3, 4.0) == Cost(1.0, 2, 3, 4.0)


def test_a_run_that_goes_on_costs_what_its_updates_cost(tmp_path):
    whole = run_of(tmp_path / "whole")
    whole.go(None)
    checkpoint = interrupted(tmp_path / "broken")
    half = read_cost(tmp_path / "broken" / "checkpoints" / "checkpoint-2")
    again = run_of(tmp_path / "broken")
    again.go(checkpoint)
    expected, found = whole.meter.read(), again.meter.read()
    assert found.tokens == expected.tokens == 2 * tokens_of(whole, ITEMS)  # four updates of half the lists
    assert found.seconds > half["seconds"] > 0
    assert found.peak_bytes >= half["peak_bytes"] > 2**20


def test_after_a_checkpoint_without_a_cost_it_is_not_known(tmp_path):
    """As runs have it that began before there was one."""
    checkpoint = interrupted(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-2" / "cost.json").unlink()
    run = run_of(tmp_path)
    run.go(checkpoint)
    assert run.state.global_step == 4
    assert run.meter.read() is None
    assert read_cost(tmp_path / "checkpoints" / "checkpoint-4") is None


def test_what_is_not_known_takes_the_place_of_an_earlier_cost(tmp_path):
    write_cost(tmp_path, Cost(1.0, 2, 3, None))
    assert read_cost(tmp_path) == {"seconds": 1.0, "tokens": 2, "peak_bytes": 3, "joules": None}
    write_cost(tmp_path, None)
    assert read_cost(tmp_path) is None


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"seconds": 1.0}'])
def test_a_torn_cost_is_none(tmp_path, torn):
    (tmp_path / "cost.json").write_text(torn)
    assert read_cost(tmp_path) is None


def test_pauses_cost_nothing():
    meter = Meter(Counter())
    with meter.paused():  # at 10 and 20 joules
        time.sleep(0.2)
    spent = meter.spent()  # at 30
    assert spent.seconds < 0.1
    assert spent.joules == 30 - (20 - 10)


def test_energy_that_is_not_all_told_is_not_known():
    meter = Meter(Counter(dies_at=2))
    with meter.paused():
        pass
    assert meter.spent().joules is None
    assert Meter(None).spent().joules is None


def test_validation_costs_nothing(tmp_path):
    run = run_of(tmp_path)
    measure = run.validation.look

    def slow(*args):
        time.sleep(0.5)
        return measure(*args)

    run.validation.look = slow
    start = run.meter.spent().seconds
    run.evaluate()
    assert run.meter.spent().seconds - start < 0.4


def package(root, name, label, microjoules):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("9000000\n")


def test_a_packages_counter_wraps(tmp_path):
    package(tmp_path, "intel-rapl:0", "package-0", 8_000_000)
    package(tmp_path, "intel-rapl:0:0", "core", 1_000_000)  # a part of the package
    package(tmp_path, "intel-rapl:1", "psys", 5_000_000)  # holds the package
    counter = Rapl.open(tmp_path)
    package(tmp_path, "intel-rapl:0", "package-0", 8_500_000)
    package(tmp_path, "intel-rapl:1", "psys", 7_000_000)
    assert counter.joules() == pytest.approx(0.5)
    package(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    assert counter.joules() == pytest.approx(0.5 + 0.5 + 1.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert counter.joules() is None


def test_without_a_counter_there_is_no_energy(tmp_path):
    assert Rapl.open(tmp_path) is None
    assert Rapl.open(tmp_path / "missing") is None


def test_a_gpu_tells_millijoules():
    class Library:
        class NVMLError(Exception):
            pass

        told = 5000.0

        def nvmlDeviceGetTotalEnergyConsumption(self, handle):
            if self.told is None:
                raise self.NVMLError
            return self.told

    library = Library()
    counter = Nvml(library, object(), 4000.0)
    assert counter.joules() == 1.0
    library.told = None
    assert counter.joules() is None


def test_a_run_of_rounds_costs_what_they_cost(tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    for number, folder in enumerate(folders):
        write_cost(folder, Cost(1.0, 10 * number, number, 2.0))
    assert total_cost(folders) == Cost(3.0, 30, 2, 6.0)
    (folders[1] / "cost.json").unlink()
    assert total_cost(folders) is None


def test_a_run_leaves_its_cost_and_a_longer_one_adds_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "energy_counter", Counter)
    pipeline.train(config_of("training.updates=2", "training.evaluate_every=1"), tmp_path / "run")
    short = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert short == read_cost(tmp_path / "run")
    assert short["joules"] > 0
    pipeline.train(config_of("training.updates=4", "training.evaluate_every=1"), tmp_path / "run", resume=True)
    longer = read_cost(tmp_path / "run")
    assert all(longer[name] > short[name] for name in ("seconds", "tokens", "joules"))


def test_a_longer_run_that_has_not_ended_has_no_cost_yet(tmp_path, monkeypatch):
    out = tmp_path / "run"
    pipeline.train(config_of("training.updates=2"), out)

    def dying(*_):
        raise UserError("no more")

    monkeypatch.setattr(pipeline, "trainer_of", dying)
    with pytest.raises(UserError, match="no more"):
        pipeline.train(config_of("training.updates=4"), out, resume=True)
    assert read_cost(out) is None
