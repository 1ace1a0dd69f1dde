"""Every command and snippet of README and guides is run on the embedded model, or read where it cannot be run.

A command runs in this process, in a folder of its page, after the substitutions of `SUBSTITUTES` and, where it trains,
with `SHORT` behind it; `test_guides_names.py` looks for what it names as it stands. Those of `READ_ONLY` are parsed:
their flags exist, and their layers make a configuration. The tutorial, `own_data.md`, is not here: `test_tutorial.py`
runs it as it stands.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
import yaml
from handmade import write_lines
from small_collection import write_beir, write_trec
from told import PAGES, PROGRAMS, ROOT, Told, blocks, commands, snippets

import irpo as package
from irpo import api, cli
from irpo.catalogue import kinds, registry_of
from irpo.config.schema import load_config
from irpo.guiding import guide, show
from irpo.types import UserError

ELSEWHERE = {"own_data.md": "test_tutorial.py", "several_devices.md": "test_several_devices.py"}
TESTED = [page for page in PAGES if page not in ELSEWHERE]

SHORT = [
    *("prompt.max_tokens=512", "model.lora.r=2", "model.lora.targets=[q_proj]", "training.lists_per_update=2"),
    *("training.updates=1", "training.evaluate_every=1", "training.max_validation_lists=2", "ranking.strength=1"),
]
ONLINE = ["online.rounds=1", "online.updates_per_round=1", "online.min_valid=1", "online.samples=2"]

# What a word becomes, the first that fits: no GPU, no download, no dataset's own files, one small trained run.
SUBSTITUTES = (
    (r"models/(?!embedded)[\w.-]+\.yaml", "models/embedded.yaml"),
    (r"meta-llama/.*", "embedded"),
    (r"tasks/(redial|hotpotqa|inspired|musique|arc|commonsenseqa)\.yaml", "tasks/jsonl.yaml"),
    (r"(redial|hotpotqa|inspired|musique|arc|commonsenseqa)", "jsonl"),
    (r"(task\.data=)?(FOLDER|DATA|lists/?)", r"\1{lists}"),
    (r"(task\.data=)?lists\.jsonl", r"\1{lists}/train.jsonl"),
    (r"(task\.data=)?((judged|films|pairs)\.csv|scifact/|documents\.txt)", r"\1{work}/\2"),
    (r"runs/(a|\w+/base)(/evaluation)?", "{run}/base"),
    (r"runs/(b|x|first)/evaluation", "{run}/evaluation"),
    (r"(model\.name=)?runs/(x|sft|first|paper|mine)", r"\1{run}"),
)

# Snippets that are not run, and why.
NOT_RUN = {
    "cohere.ClientV2": "it asks a server: test_server_clients.py has the same call",
    "mteb.get_tasks": "it downloads a task: test_integrations_mteb.py runs one of its own",
}

# Why a command is read and not run.
READ_ONLY = {
    "not ours, or it installs": lambda words: words[0] != "irpo",
    "it takes minutes, and tests of its own run it": lambda words: (
        words[1] in ("quickstart", "report") or (words[1] == "compare" and "--dry-run" not in words)
    ),
    "it serves until it is stopped: test_tutorial.py": lambda words: words[1] == "serve",
    "several processes: test_several_devices.py, test_prepare_shards.py": lambda words: (
        "--processes" in words and words[1] != "estimate"
    ),
    "vLLM: test_vllm_evaluate.py": lambda words: "--engine" in words or "--engine-url" in words,
    "a checkpoint of the hub: test_rank_llm.py": lambda words: any("rankers/" in word for word in words),
    "the hub, test_hub.py, or an export, test_export.py": lambda words: (
        words[1] in ("push", "export") or "task.data=hub" in words or "OWNER/NAME" in words
    ),
    "it downloads: test_tasks_ir_datasets.py": lambda words: "ir_datasets" in words,
    "typer's own: test_completing.py": lambda words: words[1].startswith("--"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Lists in the forms that pages name, and a run that was trained on them and measured."""
    home = tmp_path_factory.mktemp("work")
    world = {"name": "world", "train_lists": 24, "eval_lists": 3}
    api.prepare(world, home / "lists")
    api.prepare(world, home / "shards", format="parquet")
    rows = [{"prompt": f"say {n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(12)]
    write_lines(home / "preferences" / "train.jsonl", rows)
    table = [f"{query},{place}{query},{place}" for query in "abcdefghijklmnop" for place in range(3)]
    (home / "judged.csv").write_text("\n".join(["query,text,label", *table, ""]))
    (home / "films.csv").write_text("\n".join(["search,title,grade", *table, ""]))
    (home / "pairs.csv").write_text(
        "\n".join(["question,good,bad", *(f"{q},\"['{q} 1']\",\"['{q} 2']\"" for q in "abc"), ""])
    )
    (home / "documents.txt").write_text("Heat (1995)\nAlien (1979)\nUp (2009)\n")
    write_beir(home / "scifact")
    write_trec(home / "trec")
    shutil.copy(home / "trec" / "bm25.run", home / "scifact")
    oils = [{"id": f"{n}", "text": f"oil of kind {n}", "relevance": float(n == 0)} for n in range(4)]
    for split, kind in (("train", "lamp"), ("eval", "hinge")):
        named = [[{**oil, "text": f"{oil['text']} for a {kind} {m}"} for oil in oils] for m in range(3)]
        lists = [{"id": f"{kind}{m}", "query": f"oil for a {kind} {m}", "candidates": c} for m, c in enumerate(named)]
        write_lines(home / "oils" / f"{split}.jsonl", lists)
    layers = ["models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml", f"task.data={home / 'lists'}"]
    api.train([*layers, *SHORT], home / "run")
    for name, model in (("evaluation", str(home / "run")), ("base", "embedded")):
        api.evaluate(model, home / "run" / name, modes=["score"], like=str(home / "run") if name == "base" else None)
    return home


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, and registries that are as they were afterwards."""
    for kind in kinds(None):
        registry = registry_of(kind)
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "smooth")):
            del sys.modules[name]


def substituted(words: list[str], work: Path, place: Path) -> list[str]:
    """The words as they are run."""
    names = {"lists": work / "lists", "run": work / "run", "work": work}
    if any(word.startswith("training.shuffle_buffer") for word in words):
        names["lists"] = work / "shards"
    if "tasks/preferences.yaml" in words:
        names["lists"] = work / "preferences"
    if "trec" in words:
        names["lists"] = work / "trec"
    if words[0] == "mine":
        names["lists"] = work / "oils"
    found = []
    words = [*words, "--out", "OUT"] if words[0] == "train" and "--out" not in words else words
    for before, word in zip(["", *words], words, strict=False):
        rule = next(((p, to) for p, to in SUBSTITUTES if re.fullmatch(p, word)), None)
        if before == "--out":
            found.append(str(place / f"out-{len(list(place.iterdir()))}"))
        elif word == "...":
            layers = ("models/embedded.yaml", "tasks/jsonl.yaml", "methods/irpo.yaml")
            missing = [layer for layer in layers if not any(w.startswith(layer.split("/")[0] + "/") for w in words)]
            found += [*missing, f"task.data={names['lists']}"]
        else:
            found.append(re.sub(rule[0], rule[1], word).format(**names) if rule else word)
    return found


def short(words: list[str]) -> list[str]:
    """Fewer updates, fewer lists: what makes a command take seconds."""
    if words[0] == "train":
        return [*words, *SHORT, *(ONLINE if any("iterative" in word for word in words) else [])]
    if "suites/paper.yaml" in words:
        return [*words, "--only", "method=base"]  # training on 2 billion parameters is simulated for minutes
    return [*words, "--max-lists", "2"] if words[0] == "evaluate" else words


def parsed(words: list[str]) -> dict:
    """What the command makes of its words; a usage error where it takes them not."""
    command = typer.main.get_command(cli.app).commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def is_fragment(told: Told) -> bool:
    """A command that is named in a sentence, without all that it needs."""
    words = [word for word in told.words[1:] if word != "..."]
    if told.kind != "inline":
        return False
    command = typer.main.get_command(cli.app).commands[words[0]]
    known = {flag for parameter in command.params for flag in getattr(parameter, "opts", ())}
    assert all(word in known for word in words if word.startswith("--")), told
    needed = any(parameter.required for parameter in command.params)
    return len(words) == 1 or (needed and "--out" not in words and "..." not in told.words and words[0] != "estimate")


def check_read(told: Told) -> None:
    """A command that is not run: its flags are taken, its layers found."""
    words = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", told.text), comments=True)  # [--flag VALUE] may be left out
    if words[0] != "irpo":
        program = words[0]
        assert program in ("make", "pip", "curl", "hf", "docker") or shutil.which(program) or program == "sbatch", told
        if program == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), told
        return
    if words[1].startswith("--"):
        assert words[1] in ("--install-completion", "--show-completion"), told
        return
    given = parsed(words[1:])
    if words[1] == "train":
        load_config([w for w in given["layers"] if "=" not in w], [w for w in given["layers"] if "=" in w])


def lay_files(page: str, work: Path, place: Path) -> None:
    """The files that a page shows: modules by their first line, a suite as `mine.yaml`."""
    for block in blocks(page):
        named = re.match(r"# (\S+\.py)\n", block.text) if block.kind == "python" else None
        if named:
            (place / named[1]).parent.mkdir(exist_ok=True)
            (place / named[1]).write_text(block.text)
        if block.kind == "yaml" and "models" in (suite := yaml.safe_load(block.text)):
            data = str(work / "lists")
            text = re.sub(r"task\.data: (FOLDER|lists)", f"task.data: {data}", block.text)
            (place / "mine.yaml").write_text(re.sub(*SUBSTITUTES[0], text))
            assert suite["methods"]


@pytest.mark.parametrize("page", TESTED)
def test_every_command_is_run_or_read(page, work, place, irpo, monkeypatch):
    monkeypatch.chdir(place)
    lay_files(page, work, place)
    wrong = []
    for told in commands(page):
        if told.words[0] == "irpo" and not told.words[1].startswith("--") and is_fragment(told):
            continue
        if any(fits(told.words) for fits in READ_ONLY.values()):
            check_read(told)
            continue
        code, _, err = irpo(*short(substituted(told.words[1:], work, place)))
        if code != 0:
            wrong.append(f"{told}\n    {err.splitlines()[-1]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page) and page not in ELSEWHERE])
def test_every_snippet_is_run(page, work, place, capsys):
    import torch

    lay_files(page, work, place)
    shutil.copy(work / "judged.csv", place)
    policy, labels = torch.tensor([[-3.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    space = {"prompt": "A film?", "candidates": ["Heat", "Alien"], "policy": policy, "reference": policy}
    space |= {"relevance": labels, "irpo": package, "__name__": "snippet"}
    for told in snippets(page):
        text = told.text.replace("FOLDER", str(work / "lists"))
        text = text.replace('"methods/irpo.yaml", ', f'"methods/irpo.yaml", *{SHORT!r}, ')
        if not re.match(r"# \S+\.py\n", told.text) and not any(word in text for word in NOT_RUN):
            exec(compile(text, f"{page}:{told.line}", "exec"), space)


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_block_of_commands_is_a_command_that_is_known(page):
    for block in blocks(page):
        if block.kind in ("sh", "bash", "console"):
            told = [command for command in commands(page) if (command.line, command.kind) == (block.line, block.kind)]
            lines = [line for line in block.text.splitlines() if line.strip() and not line.startswith((" ", "#"))]
            assert len(told) == len(lines), f"{block}: not all of it begins with one of {PROGRAMS}"


def test_every_page_that_is_tested_elsewhere_is_named_there():
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text(encoding="utf-8")


# --- `irpo guide` -----------------------------------------------------------------------------------------------------


def test_every_guide_is_listed_by_its_heading_and_shown(irpo):
    code, listed, _ = irpo("guide")
    lines = dict(line.split(maxsplit=1) for line in listed.splitlines()[: len(PAGES) - 1])
    assert code == 0
    assert sorted(lines) == sorted(path.stem for path in PAGES.values() if path.name != "README.md")
    assert max(map(len, listed.splitlines())) <= 80
    for name, title in lines.items():
        assert f"# {title}" in irpo("guide", name)[1]


def test_a_guide_is_plain_in_a_file_and_laid_out_in_a_terminal(irpo, monkeypatch):
    plain = irpo("guide", "method")[1]
    assert "| what you have, or want | take |" in plain
    assert "<!--" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", irpo("guide", "method")[1])
    assert "| what you have" not in shown
    assert "what you have, or want" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ("README.md", "several_devices.md", "sizing.md")]
)
def test_no_command_of_a_guide_is_broken_by_a_narrow_terminal(page):
    assert all(len(line) <= 76 for block in blocks(page) if block.kind == "sh" for line in block.text.splitlines())


def test_an_unknown_topic_is_one_line_with_what_was_meant(irpo):
    code, _, err = irpo("guide", "sizng")
    assert (code, err.count("\n")) == (2, 1)
    assert "(did you mean 'sizing'?)" in err
    with pytest.raises(UserError, match="choose from coming_from, long_lists, method, "):
        guide("nothing like it")


def test_a_bare_address_is_laid_out_once(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(guide("coming_from"))
    shown = capsys.readouterr().out
    assert "https://pypi.org/project/rerankers/" in shown
    assert "(http" not in shown
    assert "\u2026" not in shown  # no word of a table is cut
