"""The user's turn as a Jinja template: a file for each task and style, rendered in a sandbox with limits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jinja2
import jinja2.meta

from irpo.prompting import rank_llm
from irpo.prompting.sandbox import Range, Sandbox, limited, within_limit
from irpo.types import Labels, Style, UserError

_TRIAL = tuple(f"candidate {j}" for j in range(1, 21))


_ENVIRONMENT = Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)


class PromptTemplate(Protocol):
    """What puts a list into words."""

    @property
    def source(self) -> str:
        """All that decides what it renders: a run's key holds its digest."""

    @property
    def name(self) -> str:
        """For messages and reports."""

    @property
    def published(self) -> bool:
        """Whether it is kept to the letter, its markup too, as another's ranker was trained with it."""

    @property
    def labels(self) -> Labels | None:
        """The labels that it asks for; None: those that it is given."""

    def render(self, query: str, texts: Sequence[str], names: Sequence[str]) -> str:
        """The user's turn; `UserError` where that cannot be."""
        ...

    def turns(self, query: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
        """(the system's turn, "" where there is none, the user's turn); as `render`."""
        ...


@dataclass(frozen=True)
class Template:
    """A Jinja template with the variables `query`, `candidates` (each with `.name` and `.text`) and `count`.

    What it sets as `system` is a turn of its own before the user's.
    """

    source: str
    name: str = "inline"

    @property
    def published(self) -> bool:
        """No: it goes with any markup."""
        return False

    @property
    def labels(self) -> Labels | None:
        """None: it shows whatever labels candidates have."""
        return None

    def render(self, query: str, texts: Sequence[str], names: Sequence[str]) -> str:
        """The user's turn; `UserError` where the template is broken, whatever it does."""
        return self.turns(query, texts, names)[1]

    def turns(self, query: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
        """(the system's turn, "" where the template sets none, the user's turn); as `render`."""
        candidates = [{"text": text, "name": name} for text, name in zip(texts, names, strict=True)]
        try:
            with limited():
                compiled = _compiled(self.source)
                values = {"query": query, "candidates": candidates, "count": len(texts), "range": Range()}
                context = compiled.new_context(values)
                user = "".join(within_limit(compiled.root_render_func(context))).strip()
            return str(context.vars.get("system", "")).strip(), user
        except Exception as error:  # noqa: BLE001 - a template is a program of the user's: it may fail in any way
            said = str(error).split("\n")[0] or type(error).__name__
            raise UserError(f"template {self.name}: {said}{_place(error)}") from None


def _place(error: Exception) -> str:
    """` (line 3)`, the deepest of the template's own lines that an error passed; "" where there is none."""
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        line = line if template is None else template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


def load_template(folder: Path, task: str, style: Style, *, or_default: bool = True) -> PromptTemplate:
    """`<task>.<style>.jinja` of a folder, else `default.<style>.jinja`; a path to a file is taken as it is.

    `rank_llm:NAME` and files of YAML are templates of another form (`irpo.prompting.rank_llm`).

    A name that a user gave is not replaced by the default: `or_default` is False.

    It is rendered once, so that a broken one is found before anything is loaded.
    """
    if rank_llm.is_named(task):
        return rank_llm.load(task, style)
    given = Path(task)
    choices = [given] if given.suffix == ".jinja" else [folder / f"{n}.{style}.jinja" for n in (task, "default")]
    for path in choices if or_default else choices[:1]:
        if path.is_file():
            template = Template(_read(path), name=path.name)
            template.render("query", _TRIAL, _TRIAL)
            _require_shown(template, style)
            return template
    raise UserError(
        f"no prompt template {choices[0]}; a template is a .jinja file, rank_llm:NAME or a .yaml of its form"
    )


def _require_shown(template: Template, style: Style) -> None:
    """`UserError` where a template does not read what a prompt is about."""
    read = jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(template.source))
    for name in ("query",) if style == "response" else ("query", "candidates"):
        if name not in read:
            raise UserError(f"template {template.name}: it never shows {name!r}; a prompt in style {style!r} needs it")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"template {path}: not UTF-8 text (byte {error.start + 1})") from None
    except OSError as error:
        raise UserError(f"template {path}: {error.strerror}") from None
