"""Answers in `label` style: `[B] > [A] > [C]`, and the ways in which models depart from it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from irpo.prompting.parsing.reading import BULLETS, MARKUP, Reading, best_reading

_BRACKETS = re.compile(r"\[([^\[\]\n]*)(?:\]|\Z)")
_MARKER = re.compile(rf"\s*(?:[(#]?\d{{1,3}}[.):]+|[{BULLETS}](?=\s))\s*")
_BLANKS = MARKUP + "\r.:()[]{}"
_LABEL = re.compile(r"[A-Z]{1,2}|\d{1,3}")  # what the label of no candidate may look like


class Labels:
    """Candidates by label; case counts only where two labels differ in nothing else."""

    def __init__(self, names: Sequence[str]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        for j, name in enumerate(names):
            self._exact.setdefault(name, []).append(j)
            self._folded.setdefault(name.casefold(), []).append(j)
        self._folded = {k: js for k, js in self._folded.items() if len({names[j] for j in js}) == 1}

    def find(self, text: str) -> list[int]:
        """The candidates of a label; none where there is none."""
        bare = text.strip(_BLANKS)
        for word in (text, text.strip(), bare):
            if word in self._exact:
                return self._exact[word]
        return self._folded.get(bare.casefold(), [])


def read_labels(text: str, names: Sequence[str]) -> Reading:
    """Brackets count where there are any that hold a label; else chains, lists and lines of bare labels."""
    labels = Labels(names)
    bracketed = [content for content in _BRACKETS.findall(text) if content.strip()]
    if any(_find_in(labels, content) for content in bracketed):
        return _read_words(bracketed, labels)
    bare = [word for line in text.split("\n") for word in _words(line, labels)]
    return best_reading([_read_words(bare, labels), _read_words(bracketed, labels)])


def _find_in(labels: Labels, content: str) -> list[int]:
    """A label, or the last word of "Passage B"."""
    return labels.find(content) or labels.find((content.split() or [""])[-1])


def _read_words(words: Sequence[str], labels: Labels) -> Reading:
    reading = Reading()
    for word in words:
        if found := _find_in(labels, word):
            reading.place(found)
        else:
            reading.unknown(word.strip())
    return reading


def _words(line: str, labels: Labels) -> list[str]:
    """The labels of a line without brackets; a line of prose has none."""
    if ">" in line:
        return _chain(line, labels)
    marker = _MARKER.match(line)
    content = line[marker.end() :] if marker else line
    if not content.strip() and labels.find(line):  # "2." is the label 2
        return [line]
    words = [word for word in re.split(r"[\s,;|]+", content) if word.strip(_BLANKS)]
    if not words:
        return []
    stand_for = [bool(labels.find(word)) or _LABEL.fullmatch(word.strip(_BLANKS)) is not None for word in words]
    if all(stand_for) and any(labels.find(word) for word in words):
        return words
    return words[:1] if marker and stand_for[0] else []


def _chain(line: str, labels: Labels) -> list[str]:
    """The links of `The order is B > A > C, I think`."""
    links = line.split(">")
    return [word for at, link in enumerate(links) for word in _link(link, labels, first=at == 0)]


def _link(link: str, labels: Labels, *, first: bool) -> list[str]:
    """A link's labels; where it is a phrase, the word next to the chain: the first link's last, else its first."""
    pieces = [piece for piece in re.split(r"[,;=]", link) if labels.find(piece)]
    words = link.split()
    if pieces or not words:
        return pieces
    word = words[-1 if first else 0].strip(_BLANKS + ",;")
    return [word] if labels.find(word) or _LABEL.fullmatch(word) else []
