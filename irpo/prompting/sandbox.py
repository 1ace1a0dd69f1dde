"""Jinja's sandbox with limits, for templates that somebody else may have written: a user's, a run's, a model's own.

Jinja sees to it that a template reaches nothing but what it is given. This sees to it that it ends, and soon: loops,
calls, the letters that it makes and what its steps look through share one budget for each rendering, and no single step
may be large. What that does not foresee ends after seconds of computing, looked at with every step that is paid for.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST = 1_000_000  # characters of a text, turns of all loops over `range`, and the largest number in a call
_BUDGET = 20 * MOST  # characters made on the way, of one rendering; a turn of a loop and a call take some as well
_TURN, _CALL = 4, 100  # by the time that they take
_WIDTH = re.compile(r"[0-9]{7}|%[-#0 +]*\*")  # of a format: seven digits, or one that is an argument
_LETTERS = 16  # of a text are searched or compared while one is made
_SECONDS = 5.0  # of computing, of one rendering
_BITS = 20_000  # of a whole number
_WIDEST = 100  # of an indentation or a tabulator
_DEEP = 200  # lists in lists
_FREE = frozenset({"count", "d", "default", "first", "last", "length"})  # filters that look through nothing
_COMPARING = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})  # tests that do, by their names and the words for them
_COMPARING |= {"eq", "equalto", "ne", "ge", "gt", "greaterthan", "le", "lt", "lessthan"}
_SLOW = frozenset({"do_urlize", "do_wordwrap", "do_striptags", "do_pprint"})  # filters, as jinja calls them
_SLOWLY = 100_000  # letters that they take


@dataclass
class _Budget:
    """What a rendering may still spend, and the time of its thread at which it ends."""

    left: int = _BUDGET
    until: float = field(default_factory=lambda: time.thread_time() + _SECONDS)


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited() -> Iterator[None]:
    """One rendering, with a budget of its own."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _spend(amount: int) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.left -= amount
        if budget.left < 0:
            raise SecurityError(f"loops and texts that take more than {_BUDGET} characters on the way are refused")
        if time.thread_time() > budget.until:
            raise SecurityError(f"a rendering of more than {_SECONDS:.0f} seconds is refused")


class Sandbox(ImmutableSandboxedEnvironment):
    """Refuses what would fill the memory or run for minutes."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})  # never computed while the template is compiled, too

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_shown, **options)
        self.filters = {name: paid_for(function, name not in _FREE) for name, function in self.filters.items()}
        # No template can write such names.
        self.filters |= {"counted ": _counted, "joined ": paid_for(_joined, reads=False)}
        self.filters |= {"read ": _looked_through, "cut ": _cut, "among ": _among}
        self.tests |= {name: _reading(self.tests[name]) for name in _COMPARING}
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
            _read(right)
        return _paid(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`function(...)`, where no number and no width of a format is large."""
        form = getattr(getattr(function, "__wrapped__", None), "__self__", None)  # of str.format, as sandboxes give it
        if isinstance(form, str):
            _require_narrow(form)
            _read((args, kwargs))
        _spend(_CALL)
        own = getattr(function, "__self__", None)
        parts = [None if isinstance(own, dict) else own, *args]  # a dictionary is not looked through by its methods
        _require_small(parts, kwargs)
        if getattr(function, "__name__", "") == "expandtabs":
            _require_narrow_by(args, kwargs)
        if isinstance(own, str | list | tuple | dict | LoopContext):
            _read_all((*parts, *kwargs.values()))
        return _paid(super().call(context, function, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`, for which the argument is looked through."""
        if not isinstance(argument, str | int):
            _read(argument)
        return super().getitem(obj, argument)


class _Counting(NodeTransformer):
    """Every loop takes its turns from the budget, `a ~ b` its letters, and a comparison what it looks through."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        text = nodes.Const(sum(len(part.data) for part in node.find_all(nodes.TemplateData)), lineno=node.lineno)
        node.iter = nodes.Filter(node.iter, "counted ", [text], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "joined ", [], [], None, None, lineno=node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _through("read ", node.expr)
        for operand in node.ops:
            operand.expr = _through("among " if operand.op in ("in", "notin") else "read ", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _through("cut ", node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _through("read ", node.key)
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
    """The node behind a filter of ours, unless it stands there as a value."""
    return node if isinstance(node, nodes.Const) else nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


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
    else:
        _read(value)
    return value


@jinja2.pass_context
def _looked_through(_context: Any, value: Any) -> Any:
    """A side of a comparison, which is paid for."""
    _read(value)
    return value


@jinja2.pass_context
def _among(_context: Any, values: Any) -> Any:
    """What `in` looks through; where that has keys it is a single look."""
    if not isinstance(values, dict):
        _read(values)
    return values


@jinja2.pass_context
def _cut(_context: Any, value: Any) -> Any:
    """What a part is cut from, whose elements or letters are paid for as if they were all in it."""
    if isinstance(value, str):
        _read(value)
    elif isinstance(value, list | tuple):
        _spend(_TURN + len(value))
    return value


def _read(value: Any) -> None:
    """Pay for a step that looks through a value: elements, letters of texts in them, and a share of a text's own."""
    budget = _budget.get()
    if budget is not None:
        _spend(_TURN + (len(value) // _LETTERS if isinstance(value, str) else _size(value, budget.left)))


def _read_all(values: Iterable[Any]) -> None:
    for value in values:
        _read(value)


def _size(value: Any, most: int) -> int:
    """Elements (`_TURN` each) and letters in a value, repeated ones too; stops above `most`."""
    total, within = 0, [iter((value,))]
    while within and total <= most:
        for part in within[-1]:
            total += _TURN
            if isinstance(part, str):
                total += len(part)
            elif inside := _parts(part):
                within.append(iter(inside))
                break
            if total > most:
                break
        else:
            within.pop()
        if len(within) > _DEEP:
            raise SecurityError(f"more than {_DEEP} lists in each other are refused")
    return total


def _parts(value: Any) -> Collection[Any]:
    """What a value holds: for a `dict` its keys and values, for a namespace its values."""
    if value is None or isinstance(value, int | float | bytes):
        return ()
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    if isinstance(value, Namespace):
        return _parts(object.__getattribute__(value, "_Namespace__attrs"))
    return value if isinstance(value, Collection) and not isinstance(value, Context) else ()


def _joined(parts: Sequence[Any]) -> str:
    _read_all(part for part in parts if not isinstance(part, str))
    return "".join(map(str, parts))


def _paid(made: Any) -> Any:
    """What a step made, its letters or parts taken from the budget; those that are yet to be made, as they are."""
    if isinstance(made, GeneratorType):
        return _counted(None, made, 0)
    if isinstance(made, int) and made.bit_length() > _BITS:
        raise SecurityError(f"a whole number of more than {_BITS} bits is refused")
    _spend(_TURN + (len(made) if isinstance(made, str | list | tuple) else 0))
    return made


def _repeated(left: Any, right: Any) -> int:
    """Parts of `left * right` where one of them is a text or a list; 0 for numbers."""
    return next((len(a) * b for a, b in ((left, right), (right, left)) if hasattr(a, "__len__") and _is_int(b)), 0)


def _is_int(value: Any) -> bool:
    return isinstance(value, int)


def _require_narrow(form: str) -> None:
    if _WIDTH.search(form) or sum(map(int, re.findall(r"\d+", form, re.ASCII))) > 10 * MOST:
        raise SecurityError("a format that wide is refused")


def _require_narrow_by(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """`SecurityError` for a large number where each line or tabulator would become as wide."""
    if any(_is_int(value) and value > _WIDEST for value in (*args, *kwargs.values())):
        raise SecurityError(f"lines indented by more than {_WIDEST} are refused")


def _require_small(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """`SecurityError` for a large number, and where texts that replace or join each other would give a large one."""
    most = 1
    for value in (*args, *kwargs.values()):
        if _is_int(value) and abs(value) > MOST:
            raise SecurityError(f"a number above {MOST} is refused in a call")
        if isinstance(value, str | list | tuple | dict):
            held = () if isinstance(value, str) else value.values() if isinstance(value, dict) else value
            inside = sum(len(part) for part in held if isinstance(part, str))
            most *= max(1, len(value), inside)
    if most > 100 * MOST:
        raise SecurityError(f"texts that could give more than {100 * MOST} characters are refused in a call")


def paid_for(function: Callable[..., Any], reads: bool = True) -> Callable[..., Any]:
    """A filter that refuses large numbers, and pays for what it looks through (where it `reads`) and makes."""
    name = function.__name__

    @functools.wraps(function)
    def limited_(*args: Any, **kwargs: Any) -> Any:
        _require_small(args, kwargs)
        if name == "do_format":
            _require_narrow(str(args[0]))
            _read((args, kwargs))
        if name in ("do_indent", "do_tojson", "_tojson"):
            _require_narrow_by(args, kwargs)
        if name in _SLOW:
            _spend_more((args, kwargs))
        if reads:
            _read_all((*args, *kwargs.values()))
        return _paid(function(*args, **kwargs))

    return limited_


def _spend_more(given: Any) -> None:
    """For filters that take far longer than others for a text."""
    letters = _size(given, _SLOWLY)
    if letters > _SLOWLY:
        raise SecurityError(f"a text of more than {_SLOWLY} characters is refused in this filter")
    _spend(20 * letters)


def _reading(function: Any) -> Callable[..., Any]:
    """A test that pays for what it looks through."""

    @functools.wraps(function)
    def reading_(*args: Any) -> Any:
        _read_all(args)
        return function(*args)

    return reading_


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


def within_limit(parts: Iterator[str]) -> Iterator[str]:
    """The parts of a rendered text, as long as they are not too much."""
    total = 0
    for part in parts:
        total += len(part)
        if total > 10 * MOST:
            raise SecurityError(f"a text of more than {10 * MOST} characters is refused")
        yield part
