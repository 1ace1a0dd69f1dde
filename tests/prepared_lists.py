"""Data, and the files that `prepare` makes of them, for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handmade import a_list, write_lines

from irpo.tasks import TASKS
from irpo.tasks.preparing import Layout, prepare

Files = dict[str, bytes]


def data(folder: Path, lists: int = 300) -> Path:
    """Lists of which some come twice, some are broken and some stand in both splits; groups too."""
    made: list[dict[str, Any]] = [
        a_list(f"q{n % (lists - 20)}", [1, 0, n % 3]) | ({"group": f"g{n // 3}"} if n % 2 else {}) for n in range(lists)
    ]
    made[7] = {"id": "torn"}
    made[lists - 5] = a_list("nothing relevant", [0, 0])
    write_lines(folder / "train.jsonl", made)
    write_lines(folder / "eval.jsonl", [made[3], a_list("e1") | {"group": "g2"}, {"id": 5}, a_list("e2")])
    return folder


def prepared(source: Path, out: Path, **layout: Any) -> Files:
    """The files that `prepare` writes."""
    spec = {"name": "jsonl", "data": str(source)}
    prepare(TASKS.build(spec), out, task_spec=spec, skip_bad_rows=True, layout=Layout(**layout))
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return {path.name: path.read_bytes() for path in out.iterdir()}
