"""What README and guides tell a user to type: commands and snippets of Python, with the line where they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "irpo" / "guides").glob("*.md")))}
# Programs whose lines are commands; a block without one holds data, or what was printed.
PROGRAMS = ("irpo", "make", "pip", "python", "curl", "hf", "accelerate", "torchrun", "sbatch", "docker")
_PROMPT_MARKS = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Told:
    """A command or snippet; `kind` is a block's language, or `inline` where it stands in a sentence."""

    page: str
    line: int
    text: str
    kind: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """A command's words, without the variables set before it and without a comment."""
        words = shlex.split(self.text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        return words


def blocks(page: str) -> Iterator[Told]:
    """The fenced blocks of a page."""
    for token in MarkdownIt().enable("table").parse(PAGES[page].read_text(encoding="utf-8")):
        if token.type == "fence":
            yield Told(page, token.map[0] + 1, token.content, token.info.strip())


def commands(page: str) -> list[Told]:
    """The commands of a page, those of blocks and `irpo ...` in sentences and tables, in their order."""
    found = [command for block in blocks(page) if block.kind in _PROMPT_MARKS for command in _lines(block)]
    for token in MarkdownIt().enable("table").parse(PAGES[page].read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.startswith("irpo "):
                found.append(Told(page, (token.map or [0])[0] + 1, child.content, "inline"))
    return sorted(found, key=lambda told: told.line)


def _lines(block: Told) -> Iterator[Told]:
    """A block's commands; a line that ends in a backslash goes on in the next, and so does a quoted word."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for line in re.findall(r"""(?:'[^']*'|"[^"]*"|[^\n'"]|['"](?=[^\n]*\n))+""", text):
        told = Told(block.page, block.line, line.strip(), block.kind)
        if re.match(rf"([A-Z_]+=\S* )*({'|'.join(PROGRAMS)}) ", told.text):
            yield told


def snippets(page: str) -> list[Told]:
    """The blocks of Python of a page."""
    return [block for block in blocks(page) if block.kind == "python"]
