"""The files of an evaluation: all of them are there, or none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from irpo.evaluation.report import markdown
from irpo.evaluation.results import Evaluation, RankerResult, Summary, kind_of, most_cut
from irpo.files import atomic_folder, json_line, require_ours
from irpo.ranking.modes import ParsedAnswer, RankedList
from irpo.types import Missing, Problem, RankingExample, Repeated

RESULTS = "results.json"  # goes first and comes last: where it is, what lies beside it is of one evaluation
_OTHERS = ("report.md", "per_query.jsonl", "generations.jsonl", "qrels.txt")
_ROWS = ("score", "generate strict", "generate repaired", "constrain", "random", "input order", "BM25", "popularity")


# What the encoding of a blank, or of "%", looks like.
_ENCODED = re.compile("|".join(quote(chr(code)) for code in range(0x3001) if chr(code).isspace()) + "|%25")


def run_file(name: str) -> str:
    """The TREC run of a row.

    >>> run_file("generate strict")
    'generate-strict.run'
    """
    return f"{re.sub(r'[^a-z0-9.]+', '-', name.lower()).strip('-')}.run"


def require_free(folder: Path) -> None:
    """`UserError` where results would take the place of files that no evaluation wrote."""
    require_ours(folder, _owned(folder), RESULTS)


def bytes_of_results(examples: Sequence[RankingExample], modes: int, measures: int) -> int:
    """About as many bytes as the results of so many modes and measures take, and what is kept until they are whole.

    A mode that writes has two rows, and its answers are kept twice; there are four baselines.
    """
    rows, total = 2 * modes + 4, 50_000
    for example in examples:
        ids = sum(len(trec_id(c.id).encode(errors="replace")) for c in example.candidates)
        texts = sum(len(c.text.encode(errors="replace")) for c in example.candidates)
        name, count = len(trec_id(example.id).encode(errors="replace")), len(example.candidates)
        run, order = ids + count * (name + 32), ids + 4 * count + 60 + 40 * measures
        total += rows * (run + order) + 2 * modes * (texts + 60 * count)
    return total


def write_results(folder: Path, evaluation: Evaluation) -> Summary:
    """Write every file into the folder and return what `results.json` holds; other files in it stay.

    results.json, report.md, per_query.jsonl (a line a list, with its group if it has one), generations.jsonl (the raw
    answers and their problems), and for trec_eval qrels.txt and one .run a row. trec_eval's qrels take whole labels:
    others are rounded down. What is relevant and no candidate stands in qrels.txt, too.
    """
    summary = evaluation.summary
    texts = {
        RESULTS: [json.dumps(summary.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)],
        "report.md": [markdown(summary)],
        "per_query.jsonl": _per_query(evaluation),
        "qrels.txt": _qrels(evaluation.examples),
        **{run_file(row.name): _run(row, evaluation.examples) for row in evaluation.rows},
    }
    answered = {row.mode: row.lists for row in evaluation.rows if any(x.answer is not None for x in row.lists)}
    if answered:
        texts["generations.jsonl"] = _generations(next(iter(answered.values())), evaluation.examples)
    with atomic_folder(folder, owned=_owned(folder), last=RESULTS) as work:
        for name, lines in texts.items():
            # A lone surrogate in a user's text is written as an escape rather than refused.
            with (work / name).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.writelines(f"{line}\n" for line in lines)
    return summary


def _owned(folder: Path) -> list[str]:
    """The names of an evaluation's files, those of the rows that an earlier one in this folder had among them."""
    try:
        earlier = [str(row["name"]) for row in json.loads((folder / RESULTS).read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = []
    return [*_OTHERS, *(run_file(name) for name in dict.fromkeys([*_ROWS, *earlier]))]


def trec_id(text: str) -> str:
    """An id without blanks, and another one for every other text; most are as they were.

    Blanks are percent-encoded, and with them "%", as it is where an id looks like one that was encoded.

    >>> trec_id("a b"), trec_id("a%20b"), trec_id("50%"), trec_id("caf%C3%A9")
    ('a%20b', 'a%2520b', '50%', 'caf%C3%A9')
    """
    if not re.search(r"\s", text) and not _ENCODED.search(text):
        return text
    return re.sub(r"[\s%]", lambda match: quote(match[0], errors="backslashreplace"), text)


def _per_query(evaluation: Evaluation) -> Iterator[str]:
    shown = most_cut(evaluation.rows)
    cut = {x.id: {"cut": {"query": x.query_cut, "candidates": list(x.cut)}} for x in shown if x.query_cut or any(x.cut)}
    for example in evaluation.examples:
        ids = [candidate.id for candidate in example.candidates]
        rows = {
            row.name: {
                "order": [ids[j] for j in row.rankings[example.id].order],
                "measures": {name: of[example.id] for name, of in evaluation.values[row.name].items()},
            }
            for row in evaluation.rows
        }
        group = {} if example.group is None else {"group": example.group}
        yield json_line({"id": example.id, **group, **cut.get(example.id, {}), "rows": rows})


def _qrels(examples: tuple[RankingExample, ...]) -> Iterator[str]:
    for example in examples:
        for candidate in example.candidates:
            yield f"{trec_id(example.id)} 0 {trec_id(candidate.id)} {int(candidate.relevance)}"
        for id, label in example.unlisted:
            yield f"{trec_id(example.id)} 0 {trec_id(id)} {int(label)}"


def _run(row: RankerResult, examples: tuple[RankingExample, ...]) -> Iterator[str]:
    tag = run_file(row.name).removesuffix(".run")
    for example in examples:
        order = row.rankings[example.id].order
        for rank, j in enumerate(order, start=1):
            candidate = trec_id(example.candidates[j].id)
            yield f"{trec_id(example.id)} Q0 {candidate} {rank} {len(order) + 1 - rank} {tag}"


def _generations(lists: Sequence[RankedList], examples: tuple[RankingExample, ...]) -> Iterator[str]:
    for example, ranked in zip(examples, lists, strict=True):
        answer = ranked.answer or ParsedAnswer("", ranked.ranking)
        ids = [candidate.id for candidate in example.candidates]
        yield json_line(
            {
                "id": ranked.id,
                "text": answer.text,
                "order": [ids[j] for j in answer.ranking.order],
                "problems": [_problem(problem, ids) for problem in answer.problems],
            }
        )


def _problem(problem: Problem, ids: list[str]) -> dict[str, str]:
    if isinstance(problem, (Missing, Repeated)):
        return {"kind": kind_of(problem), "candidate": ids[problem.index]}
    return {"kind": kind_of(problem), "text": problem.text}
