"""`irpo guide`: the guides, which are the Markdown files of `irpo/guides/`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from irpo.types import UnknownName

GUIDES = Path(__file__).resolve().parent / "guides"
WIDTH = 80  # of a text that is read, however wide the terminal
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)  # where a figure comes from: for the script that writes it
_BARE = re.compile(r"<(https?://[^>\s]+)>")  # laid out, such a link would be its address twice
_HEADING = re.compile(r"^# +(.+)$", re.MULTILINE)


def topics() -> dict[str, str]:
    """Every guide's name, and what its first heading says."""
    return {path.stem: _title(path) for path in sorted(GUIDES.glob("*.md"))}


def _title(path: Path) -> str:
    found = _HEADING.search(path.read_text(encoding="utf-8"))
    return found[1].strip() if found else path.stem


def guide(topic: str) -> str:
    """A guide as Markdown; `UnknownName` lists what there is. `several-devices` is `several_devices`."""
    name, known = topic.strip().lower().replace("-", "_").removesuffix(".md"), topics()
    if name not in known:
        from irpo.registry import meant  # its imports take longer than the whole command

        raise UnknownName(f"unknown guide {topic!r}; choose from {', '.join(known)}{meant(name, known)}")
    return _COMMENT.sub("", (GUIDES / f"{name}.md").read_text(encoding="utf-8"))


def listing() -> str:
    """The guides, one a line, and how one is read."""
    known = topics()
    widest = max(map(len, known))
    lines = [f"{name:{widest}}  {title}" for name, title in known.items()]
    return "\n".join([*lines, "", "irpo guide TOPIC shows one of them."])


def show(text: str) -> None:
    """The Markdown, laid out where a terminal looks on; as it is where it goes into a file or another program."""
    if not sys.stdout.isatty():
        print(text)  # noqa: T201 - as the guide was written
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    told = Markdown(_BARE.sub(r"\1", text), code_theme="ansi_dark", hyperlinks=False)  # the terminal's own colours
    console.print(told, width=min(WIDTH, console.width))
