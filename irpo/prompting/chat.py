"""A tokenizer's chat template, rendered as transformers renders it and within the limits of our own templates."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.utils import Namespace

from irpo.prompting.sandbox import Range, Sandbox, limited, paid_for, within_limit


class _Generation(Extension):
    """`{% generation %}`, by which templates mark what a model says, shows what is inside."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        found: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return found


class _Namespace(Namespace):
    """Jinja's, without names that lead to Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own, *rest = args
        for name in (given := dict(*rest, **kwargs)):
            _require_public(name)
        Namespace.__init__(own, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no {name!r}")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _mapping(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


@functools.cache
def _chat() -> Sandbox:
    """What chat templates are written for: transformers' environment."""
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = paid_for(_tojson)
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "namespace": _Namespace,
        "dict": _mapping,
    }
    return made


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    return _chat().from_string(source)


def render_chat(source: str, values: Mapping[str, Any]) -> str:
    """A chat template's text, as transformers renders it; `SecurityError` where it goes beyond the limits."""
    with limited():
        return "".join(within_limit(_compiled(source).generate({**values, "range": Range()})))
