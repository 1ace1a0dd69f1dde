"""Names that README and guides give are there: configurations, files, extras, targets, keys, plug-ins, hub ids.

`test_guides.py` puts a small model and small data in the place of those that a page names, and does not run what stands
in a sentence in part; here a page is read as it stands.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import pytest
import yaml
from markdown_it import MarkdownIt
from pydantic import BaseModel
from told import PAGES, ROOT, commands

from irpo import words
from irpo.catalogue import kinds, registry_of
from irpo.config.layers import PLUGINS, find_config, parse_value
from irpo.config.schema import RunConfig
from irpo.guiding import guide
from irpo.launching import launch_file
from irpo.resources import configs_dir
from irpo.types import UserError

WRITTEN = {"mine.yaml", "my.yaml", "config.yaml"}  # a user's own, and a run's
THEIRS = {"evaluate.py", "train_rankllm.py", "model.archive"}  # of other packages, with which a page compares
FOLDERS = "|".join(path.name for path in sorted(configs_dir().iterdir()) if path.is_dir())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
FLAGS = {"--mode": "modes", "--engine": "engines"}
PLACEHOLDER = r"[A-Z_]+|\.\.\."
NAMED = PLUGINS | {(*keys, "name"): kind for keys, kind in PLUGINS.items()} | {("method", "objectives"): "objectives"}


def unknown_files(text: str) -> list[str]:
    """Configurations and files of the repository that a text names and that are not there."""
    wrong = []
    for layer in re.findall(rf"(?<![\w./-])(?:configs/)?(?:{FOLDERS})/[\w.-]+\.ya?ml", text):
        try:
            find_config(layer)
        except UserError:
            wrong.append(layer)
    shipped = {path.name for path in configs_dir().rglob("*.y*ml")} | WRITTEN
    wrong += [name for name in re.findall(r"(?<![\w./-])[\w.-]+\.ya?ml", text) if name not in shipped]
    places = re.findall(r"(?<![\w./~$-])(?:irpo|configs|prompts|benchmarks|tests)/[\w./*-]*[\w/*]", text)
    own = THEIRS.union(re.findall(r"```python\n# (\S+\.py)\n", text))  # or written by the page
    places += [name for name in re.findall(r"\bpython ([\w./-]+\.py)\b", text) if name not in own]
    return wrong + [place for place in places if not any(ROOT.glob(place.rstrip("/")))]


def unknown_extras(text: str) -> list[str]:
    """What `pip install` is told to install beside the package, and pyproject.toml has no such extra."""
    named = re.findall(r"pip install [^`\n]*?(?:irpo|\.)\[([\w,]+)\]", text)
    return [extra for several in named for extra in several.split(",") if extra not in EXTRAS]


def unknown_models(text: str) -> list[str]:
    """Models of the hub that a page takes for a shipped one's base."""
    bases = {yaml.safe_load(path.read_text("utf-8"))["model"]["name"] for path in (configs_dir() / "models").iterdir()}
    return [name for name in re.findall(r"meta-llama/[\w.-]+", text) if name not in bases]


def wrong_words(given: list[str]) -> list[str]:
    """What is wrong with the names among a command's words, or among those of a piece of one.

    Where it loads plug-ins of the page's own, their names are not known here.
    """
    own = any(word.startswith(("plugins=", "--plugin")) for word in given)
    wrong = []
    for before, word in pairwise(["", *given]):
        key, _, value = word.partition("=")
        try:
            if not own and not re.fullmatch(PLACEHOLDER, value or word) and word not in WRITTEN:
                require_name(before, word)
            if re.fullmatch(r"\w+(\.\w+)+(?<!\.yaml)", key) and key not in THEIRS:
                require_key(tuple(key.split(".")))
        except UserError as error:
            wrong.append(f"{before} {word}: {error}".strip())
    return wrong


def require_name(before: str, word: str) -> None:
    """`UserError` where a word, by the one before it or by its key, names something that there is not."""
    key, equals, value = word.partition("=")
    if before in FLAGS:
        registry_of(FLAGS[before]).build(words.mode_of(word.replace(", ...", "")))
    elif before == "--task":
        registry_of("tasks").get(word)
    elif before == "--launch":
        launch_file(word)
    elif before == "list":
        kinds(word)
    elif before == "guide":
        guide(word)
    elif before == "make" and word not in TARGETS:
        raise UserError("the Makefile has no such target")
    elif equals and (kind := NAMED.get(tuple(key.split(".")))):
        spec = parse_value(value, word)
        for one in spec if isinstance(spec, list) else [spec]:
            registry_of(kind).get(one["name"] if isinstance(one, dict) else one)


def require_key(keys: tuple[str, ...]) -> None:
    """`UserError` where a dotted key begins with a section of the configuration and is no setting of it."""
    fields: dict = RunConfig.model_fields
    if keys[0] not in fields:
        return
    for end, key in enumerate(keys):
        if keys[:end] in PLUGINS:
            registry = registry_of(PLUGINS[keys[:end]])
            options = {"name"}.union(*(registry.options(name) for name in registry))
            if key not in options:
                raise UserError(f"no {registry.kind} has an option {key!r}")
            return
        if key not in fields:
            raise UserError(f"no key {key!r}")
        of = (fields[key].annotation, *get_args(fields[key].annotation))
        fields = next((kind.model_fields for kind in of if isinstance(kind, type) and issubclass(kind, BaseModel)), {})


def worded(page: str) -> Iterator[tuple[int, list[str]]]:
    """The words of a page's commands, and of every piece of code in a sentence or table, with their lines."""
    for command in commands(page):
        if command.kind != "inline":
            yield command.line, command.words
    for token in MarkdownIt().enable("table").parse(PAGES[page].read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.count("'") % 2 == child.content.count('"') % 2 == 0:
                whole = re.match(r"[\w.]+=\{", child.content)  # which a shell would want quoted
                yield (token.map or [0])[0] + 1, [child.content] if whole else shlex.split(child.content)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = PAGES[page].read_text(encoding="utf-8")
    wrong = [f"{page}: {name}" for unknown in (unknown_files, unknown_extras, unknown_models) for name in unknown(text)]
    wrong += [f"{page}:{line}: {reason}" for line, given in worded(page) for reason in wrong_words(given)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("unknown", "text"),
    [
        (unknown_files, "irpo train models/llama9.yaml tasks/redial.yaml"),
        (unknown_files, "[configs/suites/nine.yaml, models/embedded.yaml]"),
        (unknown_files, "`methods/irpo.yaml`, `nine.yaml`"),
        (unknown_files, "`python benchmarks/nine.py --write`"),
        (unknown_files, "see `irpo/nine/` and `configs/methods/`"),
        (unknown_extras, "pip install 'irpo[serve,nine]'"),
        (unknown_extras, "pip install -c constraints.txt -e '.[nine]'"),
        (unknown_models, "--model meta-llama/Llama-9 --like runs/x"),
    ],
)
def test_a_name_that_is_not_there_is_found(unknown, text):
    assert len(set(unknown(text))) == 1
    assert unknown(re.sub(r"\S*\b(?:nine|llama9|Llama-9)\b[^\s`,]*", "", text)) == []


@pytest.mark.parametrize(
    "told",
    [
        "irpo prepare --task nine",
        "irpo evaluate --mode nine",
        "--mode '{name: window, sizes: 20}'",
        "irpo serve --engine nine",
        "irpo train ... --launch nine",
        "irpo list nine",
        "make nine",
        "irpo guide nine",
        "irpo train ... task.name=nine",
        "method.objective={name: nine, beta: 1}",
        "'method.objectives=[{name: irpo}, {name: nine}]'",
        "method.scorer=nine",
        "training.nine=1",
        "method.objective.nine",
        "irpo train ... plugins=[mine] training.nine=1",
    ],
)
def test_a_word_that_names_nothing_is_found(told):
    assert len(wrong_words(shlex.split(told))) == 1
