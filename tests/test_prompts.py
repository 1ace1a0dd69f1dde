"""The shipped templates: one for each task and style, each of which shows everything and asks for a whole list."""

from __future__ import annotations

from pathlib import Path

import pytest

from irpo.prompting.prompts import STYLES, load_template
from irpo.resources import prompts_dir
from irpo.tasks import TASKS
from irpo.types import Style, UserError

ALL = sorted(prompts_dir().glob("*.jinja"))
FILES = [path for path in ALL if path.name.split(".")[1] in STYLES]  # which ask for a list
QUERY = "Which of these, {{ said }} the <b>seeker</b> & co?"
TEXTS = ("Heat (1995)", "Alien", 'Aliens "2"', "caf\u00e9 \u2013 100 %")
NAMES = ("A", "B", "C", "D")


def render(path: Path, texts: tuple[str, ...] = TEXTS) -> str:
    task, style = path.name.split(".")[:2]
    template = load_template(path.parent, task, style)  # type: ignore[arg-type]
    return template.render(QUERY, texts, NAMES[: len(texts)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shows_the_query_and_every_candidate_once_as_it_is(path: Path) -> None:
    lines = render(path).split("\n")
    assert sum(QUERY in line for line in lines) == 1
    marks = [f"[{name}]" for name in NAMES] if ".label." in path.name else ["-"] * len(TEXTS)
    pairs = list(zip(marks, TEXTS, strict=True))
    behind = path.name == "behind.label.jinja"  # where texts are kept between queries, labels stand behind them
    shown = [f"{text} {mark}" if behind else f"{mark} {text}" for mark, text in pairs]
    start = lines.index(shown[0])
    assert lines[start : start + len(TEXTS)] == shown


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_asks_for_all_candidates_each_once(path: Path) -> None:
    request = render(path).split("\n")[-1]
    assert f"all {len(TEXTS)}" in request
    assert "each once" in request
    assert ("[B] > [A] > ..." if ".label." in path.name else "exactly as written") in request


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_is_short(path: Path) -> None:
    """Words of our own, a candidate's mark aside: every list pays for them."""
    own = render(path, TEXTS[:2]).replace(QUERY, "")
    assert len(own.split()) <= 55


# Tasks of any data, whose queries are no questions of one kind.
GENERAL = ("beir", "ir_datasets", "jsonl", "mteb", "preferences", "prepared", "table", "trec")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_has_both_styles(task: str, style: Style) -> None:
    own = "default" if task in GENERAL else task
    assert load_template(prompts_dir(), task, style).name == f"{own}.{style}.jinja"


def test_no_two_templates_are_alike() -> None:
    sources = [path.read_text(encoding="utf-8") for path in ALL]
    assert len(set(sources)) == len(sources)


def test_a_prompt_for_responses_holds_the_query_alone() -> None:
    assert render(prompts_dir() / "preferences.response.jinja") == QUERY


@pytest.mark.parametrize(("text", "missing"), [("Hi there", "query"), ("{{ query }}", "candidates"), ("", "query")])
def test_a_template_that_does_not_show_what_it_is_about_is_refused(tmp_path: Path, text: str, missing: str) -> None:
    (tmp_path / "mine.jinja").write_text(text)
    with pytest.raises(UserError, match=f"mine.jinja: it never shows '{missing}'"):
        load_template(tmp_path, str(tmp_path / "mine.jinja"), "text")
