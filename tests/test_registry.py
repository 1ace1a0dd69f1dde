"""Plug-ins: registered once, built from a name or a mapping, every mistake named."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from irpo.registry import Registry, load_plugins, plugin_field
from irpo.types import UnknownName, UserError

METRICS: Registry[object] = Registry("metric")
LOSSES: Registry[object] = Registry("loss")


@METRICS.register("flat")
@dataclass(frozen=True)
class Flat:
    height: float = 1.0


@METRICS.register("cut")
@dataclass(frozen=True)
class Cut:
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k = {self.k}; a cut-off is at least 1")


@LOSSES.register("weighted")
@dataclass(frozen=True)
class Weighted:
    beta: float = 1.0
    metric: object = plugin_field(METRICS, "flat")


def test_a_name_a_mapping_and_a_built_plugin_are_all_accepted():
    assert METRICS.build("flat") == METRICS.build({"name": "flat"}) == METRICS.build(Flat()) == Flat(1.0)
    assert METRICS.build("flat", height=2) == METRICS.build({"name": "flat", "height": 2}) == Flat(2.0)


def test_names_are_sorted_and_membership_works():
    assert list(METRICS) == ["cut", "flat"]
    assert "flat" in METRICS
    assert "sharp" not in METRICS


def test_a_plugin_can_hold_one_of_another_kind():
    assert LOSSES.build("weighted") == Weighted(1.0, Flat())
    assert LOSSES.build({"name": "weighted", "metric": {"name": "cut", "k": 5}}) == Weighted(1.0, Cut(5))


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UnknownName, match="unknown metric 'sharp'; choose from cut, flat"):
        METRICS.build("sharp")
    with pytest.raises(UnknownName, match="unknown metric 'sharp'"):
        LOSSES.build({"name": "weighted", "metric": "sharp"})


def test_an_unknown_option_lists_the_options():
    with pytest.raises(UnknownName, match="unknown option 'width' of metric 'flat'; its options are: height"):
        METRICS.build("flat", width=2)


def test_a_mapping_without_a_name_is_refused():
    with pytest.raises(UserError, match="has no 'name'; choose from cut, flat"):
        METRICS.build({"k": 3})


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(UserError, match="metric 'cut': k = 'three'"):
        METRICS.build("cut", k="three")


def test_a_missing_option_is_named():
    with pytest.raises(UserError, match=r"metric 'cut' needs k: give metric.k="):
        METRICS.build("cut")


def test_a_plugins_own_check_passes_through():
    with pytest.raises(UserError, match="at least 1"):
        METRICS.build("cut", k=0)


def test_a_name_is_registered_once_and_the_same_class_may_come_again():
    METRICS.register("flat")(Flat)  # a module that is reloaded
    with pytest.raises(UserError, match="metric 'flat' is registered twice"):
        METRICS.register("flat")(Cut)


def test_only_frozen_dataclasses_register():
    with pytest.raises(TypeError, match="must be a frozen dataclass"):
        METRICS.register("plain")(type("Plain", (), {}))


def test_the_users_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "my_plugins_for_irpo.py").write_text("LOADED = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["my_plugins_for_irpo"])
    assert sys.modules.pop("my_plugins_for_irpo").LOADED
    with pytest.raises(UserError, match="plugins: cannot import 'no_such_module_of_mine'"):
        load_plugins(["no_such_module_of_mine"])
