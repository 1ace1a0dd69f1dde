"""A report read back from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from irpo.compare.page import Report
from irpo.types import UserError

T = TypeVar("T")


def read_report(told: Mapping[str, Any]) -> Report:
    """The report of a `report.json`, which is its `as_dict`; `UserError` where a part is missing or unknown."""
    return _object(Report, told, "report")


def _object(kind: type[T], told: Any, place: str) -> T:
    if not isinstance(told, Mapping):
        raise UserError(f"{place}: this is no object; the file is damaged or not a report's")
    hints = _hints(cast("Any", kind))
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    wrong = sorted((needed - told.keys()) | (told.keys() - hints.keys()))
    if wrong:
        raise UserError(f"{place}: {', '.join(wrong)} missing or unknown; was it written by another version?")
    return kind(**{name: _value(hints[name], value, f"{place}.{name}") for name, value in told.items()})


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(hint: Any, told: Any, place: str) -> Any:
    """What JSON made of a value, as the field's type has it: its lists are tuples, its keys of numbers numbers."""
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint, told, place)
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        if not isinstance(told, list | tuple):
            raise UserError(f"{place}: this is no list; the file is damaged or not a report's")
        kinds = [inner[0]] * len(told) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(told):
            raise UserError(f"{place}: {len(told)} values where {len(kinds)} stand; the file is damaged")
        return tuple(_value(kind, one, f"{place}[{i}]") for i, (kind, one) in enumerate(zip(kinds, told, strict=True)))
    if get_origin(hint) is Mapping and inner[0] is int:
        return {int(key): one for key, one in told.items()}
    if get_origin(hint) is Mapping and isinstance(told, Mapping):
        return {key: _value(inner[1], one, f"{place}.{key}") for key, one in told.items()}
    return told
