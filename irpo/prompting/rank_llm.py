"""Prompts of published listwise rerankers, read where they lie: in the package `rank_llm`, or in a user's file.

Its templates are files of YAML: a system's message, and a user's turn of prefix, one body a candidate and suffix, with
the fields of `str.format`. The package is found and read, never imported, so that nothing it needs has to be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Formatter

import yaml

from irpo.files import read_text
from irpo.types import Labels, Style, UserError

PACKAGE = "rank_llm"
_NAMED = f"{PACKAGE}:"
_METHOD = "singleturn_listwise"
_WHOLE = frozenset({"query", "num"})  # fields of prefix and suffix
_SECTIONS: dict[str, frozenset[str]] = {
    "method": frozenset(),
    "system_message": frozenset(),
    "prefix": _WHOLE,
    "body": frozenset({"rank", "candidate"}),
    "suffix": _WHOLE,
}
_PATTERNS = ("output_validation_regex", "output_extraction_regex")
_IDENTIFIER = re.compile(r"\[(\d+)\]")
_LITERAL = re.compile(r"""\s*r?(["'])(.*)\1\s*""", re.DOTALL)  # patterns are written as Python's raw strings


@dataclass(frozen=True)
class ListwiseTemplate:
    """A template of `rank_llm` for one user's turn.

    As there, "[3]" within a query or a candidate becomes "(3)": it would be read as a label. Unlike there, texts are
    cut by tokens to fit, not by words, and their characters are left as they are.
    """

    source: str  # the whole file
    name: str
    system: str  # "": there is no such turn
    prefix: str
    body: str
    suffix: str
    labels: Labels | None  # which its answers have; None: the file does not say

    @property
    def published(self) -> bool:
        """Yes: the rankers that it was written for were trained with it."""
        return True

    def turns(self, query: str, texts: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
        """(the system's turn, the user's turn)."""
        return self.system, self.render(query, texts, names)

    def render(self, query: str, texts: Sequence[str], names: Sequence[str]) -> str:
        """Prefix, a body for each candidate, suffix, with nothing between them."""
        whole = {"query": _apart(query), "num": len(texts)}
        bodies = (self.body.format(rank=name, candidate=_apart(text)) for text, name in zip(texts, names, strict=True))
        return "".join([self.prefix.format(**whole), *bodies, self.suffix.format(**whole)])


def is_named(template: str) -> bool:
    """Whether this names a template of the package or a file of its form.

    >>> is_named("rank_llm:rank_zephyr_template"), is_named("mine.yaml"), is_named("arc")
    (True, True, False)
    """
    return template.startswith(_NAMED) or Path(template).suffix in (".yaml", ".yml")


def load(template: str, style: Style) -> ListwiseTemplate:
    """`rank_llm:NAME` from the installed package, or a file; `UserError` where it is not there or not of this form."""
    if style != "label":
        raise UserError(f"template {template}: it labels its candidates; set prompt.style to 'label'")
    path = _in_package(template.removeprefix(_NAMED)) if template.startswith(_NAMED) else Path(template)
    source = read_text(path)
    sections = _sections(path, source)
    return ListwiseTemplate(
        source,
        path.name,
        sections.get("system_message", ""),
        sections.get("prefix", ""),
        sections["body"],
        sections.get("suffix", ""),
        _labels(path, sections.get("output_validation_regex")),
    )


def _in_package(name: str) -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"template {_NAMED}{name}: the package {PACKAGE} is not installed; `pip install --no-deps rank-llm` is "
            "enough (its files are read, it is not run), or give a file of the same form: prompt.template=FILE.yaml"
        )
    folder = Path(spec.submodule_search_locations[0]) / "rerank" / "prompt_templates"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise UserError(f"template {_NAMED}{name}: {PACKAGE} has {', '.join(known) or 'no templates of YAML'}")
    return known[name]


def _sections(path: Path, source: str) -> dict[str, str]:
    """The sections, each a text, with no field that we cannot fill."""
    try:
        given = yaml.safe_load(source)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"template {path}: broken YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        raise UserError(f"template {path}: it must map names of sections to texts")
    if given.get("method") != _METHOD:
        raise UserError(f"template {path}: method is {given.get('method')!r}; what can be read is {_METHOD!r}")
    if unknown := [name for name in given if name not in (*_SECTIONS, *_PATTERNS)]:
        raise UserError(f"template {path}: unknown section {unknown[0]!r}; there are {', '.join(_SECTIONS)}")
    _require_fields(path, given)
    return given


def _require_fields(path: Path, given: Mapping[str, str]) -> None:
    """`UserError` unless the sections have the fields that are needed, and no others."""
    used = {name: _fields(path, name, given[name]) for name in ("prefix", "body", "suffix") if name in given}
    for name, fields in used.items():
        if strange := sorted(fields - _SECTIONS[name]):
            known = ", ".join(f"{{{field}}}" for field in sorted(_SECTIONS[name]))
            raise UserError(f"template {path}: {name} has {{{strange[0]}}}; what can be filled in is {known}")
    if used.get("body") != _SECTIONS["body"]:
        raise UserError(f"template {path}: body needs {{rank}} and {{candidate}}")
    if not any("query" in used.get(name, ()) for name in ("prefix", "suffix")):
        raise UserError(f"template {path}: neither prefix nor suffix shows {{query}}")


def _fields(path: Path, section: str, text: str) -> frozenset[str]:
    """The names in braces, with what is written beside them: `{num:03d}` is a field of its own, and unknown."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"template {path}: {section}: {error}") from None
    return frozenset(
        name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
        for _, name, form, conversion in parts
        if name is not None
    )


def _labels(path: Path, written: str | None) -> Labels | None:
    """Which labels an answer has, by the pattern that a good one matches."""
    if written is None:
        return None
    literal = _LITERAL.fullmatch(written)
    try:
        pattern = re.compile(literal[2] if literal else written)
    except re.error as error:
        raise UserError(f"template {path}: output_validation_regex: {error}") from None
    answers: tuple[tuple[Labels, str], ...] = (("numbers", "[2] > [1]"), ("letters", "[B] > [A]"))
    for labels, answer in answers:
        if pattern.fullmatch(answer):
            return labels
    raise UserError(f"template {path}: its answers are neither of the form [2] > [1] nor [B] > [A]")


def _apart(text: str) -> str:
    return _IDENTIFIER.sub(r"(\1)", text)
