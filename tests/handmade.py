"""Rows in the forms of the six datasets, written by hand: nothing here is copied from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from irpo.tasks import TASKS, Intake, build_lists
from irpo.types import RankingExample

Row = dict[str, Any]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A JSON lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_list(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file with one JSON list, an element a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[" + ",\n ".join(json.dumps(row) for row in rows) + "]\n", encoding="utf-8")
    return path


def a_list(name: str = "q1", labels: Iterable[float] = (1, 0)) -> Row:
    """A row of the jsonl task."""
    return {
        "id": name,
        "query": f"question {name}",
        "candidates": [{"id": f"c{i}", "text": f"text {i}", "relevance": y} for i, y in enumerate(labels)],
    }


def build(name: str, data: Path | str, intake: Intake | None = None, **options: Any) -> dict[str, Any]:
    """A task's lists."""
    return build_lists(TASKS.build(name, data=str(data), **options), intake or Intake())


def by_source(example: RankingExample) -> dict[str, list[str]]:
    """The candidates' texts by their source."""
    found: dict[str, list[str]] = {}
    for c in example.candidates:
        found.setdefault(c.source, []).append(c.text)
    return found


def labels(example: RankingExample) -> dict[str, float]:
    """The candidates' labels by their text."""
    return {c.text: c.relevance for c in example.candidates}


# ---- multiple choice -------------------------------------------------------------------------------------------------

_STEMS = {
    "sky": ("Which colour does a cloudless sky have at noon", ["blue", "green", "brown", "purple"]),
    "grass": ("Which colour does healthy grass have", ["green", "white", "orange", "black"]),
    "coal": ("Which colour does a lump of coal have", ["black", "silver", "pink", "Blue!"]),
    "leg": ("How many legs does a spider have", ["eight", "six", "four", "ten"]),
    "bird": ("Which animal lays eggs and has feathers", ["a hen", "a bat", "a cow", "a frog"]),
    "fish": ("Which animal breathes with gills", ["a trout", "a whale", "a seal", "a newt"]),
}


def question(name: str, labels: str = "ABCD", answer: int = 0) -> Row:
    """A question in the website's form."""
    stem, texts = _STEMS[name]
    choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=False)]
    return {"id": name, "question": {"stem": f"{stem}?", "choices": choices}, "answerKey": labels[answer]}


def hub_question(row: Row) -> Row:
    """The same row as the hub has it."""
    choices = row["question"]["choices"]
    columns = {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]}
    return {
        "id": row["id"], "question": row["question"]["stem"], "choices": columns, "answerKey": row["answerKey"]
    }  # fmt: skip


# ---- passages --------------------------------------------------------------------------------------------------------


def hotpot(name: str = "h1", paragraphs: int = 10, level: str = "hard") -> Row:
    """A HotpotQA row of the website: paragraphs 1 and 3 support it."""
    context = [[f"Town {i}", [f"Town {i} lies by river {i}.", f" Its mayor is number {i}."]] for i in range(paragraphs)]
    facts = [["Town 1", 0], ["Town 3", 1]] if paragraphs > 3 else [["Town 0", 0], ["Town 1", 1]]
    return {
        "_id": name, "question": "Which towns?", "answer": "both", "supporting_facts": facts, "context": context,
        "type": "bridge", "level": level,
    }  # fmt: skip


def hub_hotpot(row: Row) -> Row:
    """The same row as the hub has it."""
    facts, context = row["supporting_facts"], row["context"]
    return {
        "id": row["_id"],
        "question": row["question"],
        "answer": row["answer"],
        "level": row["level"],
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
        "context": {"title": [t for t, _ in context], "sentences": [s for _, s in context]},
    }


def musique(name: str = "2hop__1_2", answerable: bool = True) -> Row:
    """A MuSiQue row whose titles repeat: paragraphs 2 and 7 support it, 8 has the title of 7."""
    paragraphs = [
        {
            "idx": i,
            "title": f"Ship {min(i, 7)}",
            "paragraph_text": f"Ship number {i} was built in yard {i}. Its owner was captain {i}.",
            "is_supporting": answerable and i in (2, 7),
        }
        for i in range(20)
    ]
    steps = [
        {"id": 1, "question": "In which yard was it built?", "answer": "yard 2", "paragraph_support_idx": 2},
        {"id": 2, "question": "Who was its owner?", "answer": "captain 7", "paragraph_support_idx": 7},
    ]
    return {
        "id": name, "paragraphs": paragraphs, "question": "Who?", "question_decomposition": steps,
        "answer": "captain 7", "answer_aliases": [], "answerable": answerable,
    }  # fmt: skip


# ---- dialogues -------------------------------------------------------------------------------------------------------

SEEKER, RECOMMENDER = 11, 22


def redial(name: str, said: list[tuple[int, str]], films: Mapping[str, str], liked: Iterable[str] = ()) -> Row:
    """A ReDial row of the website."""
    form = {key: {"suggested": 1, "seen": 0, "liked": int(key in set(liked))} for key in films}
    return {
        "movieMentions": dict(films),
        "respondentQuestions": [],
        "initiatorQuestions": form,
        "messages": [
            {"timeOffset": i, "text": text, "senderWorkerId": who, "messageId": i} for i, (who, text) in enumerate(said)
        ],
        "conversationId": name,
        "respondentWorkerId": RECOMMENDER,
        "initiatorWorkerId": SEEKER,
    }


def hub_redial(row: Row) -> Row:
    """The same row as the hub has it."""
    form = [{"movieId": key, **answer} for key, answer in row["initiatorQuestions"].items()]
    return row | {
        "conversationId": int(row["conversationId"]),
        "movieMentions": [{"movieId": key, "movieName": title} for key, title in row["movieMentions"].items()],
        "initiatorQuestions": form,
    }


def crowd(count: int = 30) -> list[Row]:
    """Training dialogues that name films 500, 501, ..., the first ones most often."""
    rows = []
    for i in range(count):
        films = {str(500 + i): f"Filler Number {i * 37} (19{50 + i})", "500": "Filler Number 0 (1950)"}
        rows.append(redial(f"9{i:03}", [(SEEKER, "hi"), (RECOMMENDER, f"see @{500 + i} or @500")], films))
    return rows


INSPIRED_HEADER = re.findall(
    r"\w+",
    "dialog_id utt_id speaker turn_id text text_with_placeholder movies genres people_names movie_dict genre_dict "
    "actor_dict director_dict others_dict expert_label second_label fine_label coarse_label movie_id",
)


def inspired(path: Path, said: Iterable[tuple[str, str, str, str]], label: str = "accept_others") -> Path:
    """An INSPIRED file: (dialogue, speaker, text, movies) a row; the dictionary cell does not parse."""
    lines = ["\t".join(INSPIRED_HEADER)]
    for number, (dialogue, speaker, text, movies) in enumerate(said, start=1):
        row = dict.fromkeys(INSPIRED_HEADER, "") | {
            "dialog_id": dialogue, "utt_id": str(number), "speaker": speaker, "turn_id": str(number), "text": text,
            "movies": movies, "movie_dict": "{'Broken: 0", "fine_label": label,
        }  # fmt: skip
        lines.append("\t".join(row.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\r\n".join([*lines, ""]).encode())
    return path
