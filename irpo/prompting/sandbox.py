"""Jinja's sandbox with limits, for templates that somebody else may have written: a user's, a run's, a model's own.

Jinja sees to it that a template reaches nothing but what it is given. This sees to it that it ends, and soon: loops,
calls and the letters that it makes share one budget for each rendering, and no single step may be large.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST = 1_000_000  # characters of a text, turns of all loops over `range`, and the largest number in a call
_BUDGET = 20 * MOST  # characters made on the way, of one rendering; a turn of a loop and a call take some as well
_TURN, _CALL = 4, 100  # by the time that they take
_WIDTH = re.compile(r"\d{7}|%[-#0 +]*\*")  # of a format: seven digits, or one that is an argument
_left: ContextVar[list[int] | None] = ContextVar("left", default=None)


@contextmanager
def limited() -> Iterator[None]:
    """One rendering, with a budget of its own."""
    token = _left.set([_BUDGET])
    try:
        yield
    finally:
        _left.reset(token)


def _spend(amount: int) -> None:
    left = _left.get()
    if left is not None:
        left[0] -= amount
        if left[0] < 0:
            raise SecurityError(f"loops and texts that take more than {_BUDGET} characters on the way are refused")


class Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what would fill the memory or run for minutes."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})  # never computed while the template is compiled, too

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_shown, **options)
        self.filters = {name: _limited(function) for name, function in self.filters.items()}
        self.filters |= {"counted ": _counted, "joined ": _limited(_joined)}  # no template can write such a name
        del self.globals["lipsum"]  # random, and as long as asked for

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, where its result is small."""
        if operator == "**" and (not isinstance(left, int | float) or abs(right) * len(f"{left}") > 1000):
            raise SecurityError(f"a power as high as {right} is refused")
        if operator == "*" and _repeated(left, right) > MOST:
            raise SecurityError(f"a text or list of more than {MOST} parts is refused")
        if operator == "%" and isinstance(left, str):
            _require_narrow(left)
        return _paid(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`function(...)`, where no number and no width of a format is large."""
        form = getattr(getattr(function, "__wrapped__", None), "__self__", None)  # of str.format, as sandboxes give it
        if isinstance(form, str):
            _require_narrow(form)
        _spend(_CALL)
        _require_small([getattr(function, "__self__", None), *args], kwargs)
        return _paid(super().call(context, function, *args, **kwargs))


class _Counting(NodeTransformer):
    """Every loop takes its turns from the budget, and `a ~ b` its letters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        text = nodes.Const(sum(len(part.data) for part in node.find_all(nodes.TemplateData)), lineno=node.lineno)
        node.iter = nodes.Filter(node.iter, "counted ", [text], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "joined ", [], [], None, None, lineno=node.lineno)


@jinja2.pass_context  # so that it is not run while the template is compiled
def _counted(_context: Any, values: Any, text: int) -> Iterator[Any]:
    """A loop's values; `text` is what a turn of it may write that is no value."""
    for value in values:
        _spend(_TURN + text)
        yield value


def _shown(value: Any) -> Any:
    """What stands in `{{ }}`, which a macro or a block may gather as often as it likes."""
    if isinstance(value, str):
        _spend(len(value))
    return value


def _joined(parts: Sequence[Any]) -> str:
    return "".join(map(str, parts))


def _paid(made: Any) -> Any:
    """What a step made, its letters or parts taken from the budget."""
    _spend(_TURN + (len(made) if isinstance(made, str | list | tuple) else 0))
    return made


def _repeated(left: Any, right: Any) -> int:
    """Parts of `left * right` where one of them is a text or a list; 0 for numbers."""
    return next((len(a) * b for a, b in ((left, right), (right, left)) if hasattr(a, "__len__") and _is_int(b)), 0)


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _require_narrow(form: str) -> None:
    if _WIDTH.search(form):
        raise SecurityError("a format that wide is refused")


def _require_small(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """`SecurityError` for a large number, and where texts that replace or join each other would give a large one."""
    most = 1
    for value in (*args, *kwargs.values()):
        if _is_int(value) and abs(value) > MOST:
            raise SecurityError(f"a number above {MOST} is refused in a call")
        if isinstance(value, str | list | tuple):
            inside = sum(len(part) for part in value if isinstance(part, str)) if not isinstance(value, str) else 0
            most *= max(1, len(value), inside)
    if most > 100 * MOST:
        raise SecurityError(f"texts that could give more than {100 * MOST} characters are refused in a call")


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses large numbers, and pays for what it makes."""

    @functools.wraps(function)
    def limited_(*args: Any, **kwargs: Any) -> Any:
        _require_small(args, kwargs)
        if function.__name__ == "do_format":
            _require_narrow(str(args[0]))
        return _paid(function(*args, **kwargs))

    return limited_


class Range:
    """`range` for one rendering, whose loops share a limit: two of them, one in the other, may be long as well."""

    def __init__(self) -> None:
        self._left = MOST

    def __call__(self, *bounds: int) -> range:
        found = range(*bounds)
        self._left -= len(found)
        if self._left < 0:
            raise SecurityError(f"loops over more than {MOST} numbers are refused")
        return found


# --- chat templates ---------------------------------------------------------------------------------------------------


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
    made.filters["tojson"] = _limited(_tojson)
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


def within_limit(parts: Iterator[str]) -> Iterator[str]:
    """The parts of a rendered text, as long as they are not too much."""
    total = 0
    for part in parts:
        total += len(part)
        if total > 10 * MOST:
            raise SecurityError(f"a text of more than {10 * MOST} characters is refused")
        yield part
