"""Lists and reference tables beyond memory, as training takes them: peak MB and lists/s from 10^5 to 10^6 lists.

    python benchmarks/beyond_memory_reading.py --folder /tmp/beyond            # 10^5 and 10^6; some GB of disk
    python benchmarks/beyond_memory_reading.py --folder /tmp/beyond --quick    # 10^3 and 10^4

A fresh process a case, and one JSON line. `read`: the survey of all lists (labels, what validates), then one epoch
through a shuffle buffer of 10,000, as a run that goes on passes over what it has trained on. `encode`: updates of 32
from the same stream, put as prompts and tokens of the embedded model in so many processes (--encoded of them:
what a list costs does not depend on how many there are). `tables`: scores (1, 20) written in shards, opened, and read
in updates of 32 at random. Peak: resident memory of this process, and of the encoding processes together (pages that
they share with it are counted in each). `above_mb` is what it took beyond what was held before the first list, `cpu_s`
this process's time on a core, which says more than lists/s where other work shares the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CANDIDATES, BUFFER, EACH, SHARD = 20, 10_000, 32, 50_000
MB = 2**20


def synthetic(folder: Path, lists: int) -> None:
    """A folder as `irpo prepare` writes it, of lists of 20 candidates with labels 0, 1, 2; seeded."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from irpo.tasks.shards import CARD, ROW_GROUP, shard_name, shard_schema

    if (folder / CARD).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random.seed(0)
    chance, schema = np.random.default_rng(0), shard_schema()
    words = [line.strip() for line in Path(__file__).with_name("embedded_words.txt").read_text().split()][:2000]
    pool = pa.array([" ".join(random.choices(words, k=random.randint(3, 9))) for _ in range(100_000)])
    files = []
    for number, start in enumerate(range(0, lists, SHARD)):
        rows = min(SHARD, lists - start)
        each = rows * CANDIDATES
        values = {
            "id": pa.array(np.tile(np.arange(CANDIDATES), rows).astype(str)),
            "text": pool.take(pa.array(chance.integers(0, len(pool), each))),
            "relevance": pa.array(chance.choice([0.0, 1.0, 2.0], each, p=[0.8, 0.1, 0.1])),
            "source": pa.array(np.full(each, "made")),
            "teacher": pa.nulls(each, pa.float64()),
        }
        kind = schema.field("candidates").type
        candidates = pa.ListArray.from_arrays(
            pa.array(np.arange(0, each + 1, CANDIDATES), pa.int32()),
            pa.StructArray.from_arrays(list(values.values()), fields=list(kind.value_type)),
            type=kind,
        )
        table = pa.table(
            {
                "id": pa.array([f"list-{i}" for i in range(start, start + rows)]),
                "query": pool.take(pa.array(chance.integers(0, len(pool), rows))),
                "candidates": candidates,
                "group": pa.nulls(rows, pa.string()),
            },
            schema=schema,
        )
        name = shard_name("train", number)
        pq.write_table(table, folder / name, compression="zstd", row_group_size=ROW_GROUP)
        files.append({"name": name, "lists": rows, "sha256": "made"})
    digest = hashlib.sha256(f"synthetic {lists}".encode()).hexdigest()
    split = {"lists": lists, "sha256": digest, "files": files}
    card = {"card": 1, "task": {"name": "synthetic"}, "splits": {"train": split}, "relevant_from": 1, "notes": []}
    (folder / CARD).write_text(json.dumps(card))


class Peak:
    """Resident memory of this process and its children at most, looked at ten times a second."""

    def __init__(self) -> None:
        self._me, self._done = psutil.Process(), threading.Event()
        self._began = time.process_time()
        self.start = self.own = self._me.memory_info().rss
        self.children = 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self.own = max(self.own, self._me.memory_info().rss)
            held = 0
            for child in self._me.children():
                try:
                    held += child.memory_info().rss
                except psutil.Error:
                    continue
            self.children = max(self.children, held)

    def told(self) -> dict[str, float]:
        self._done.set()
        self._thread.join()
        own, children = round(self.own / MB), round(self.children / MB)
        return {
            "cpu_s": round(time.process_time() - self._began, 1),
            "peak_mb": own,
            "above_mb": round((self.own - self.start) / MB),
            "peak_mb_children": children,
        }


def job(folder: Path, processes: int) -> tuple[Any, Any]:
    """The lists, and how a run makes a stream of them."""
    from irpo.config.schema import load_config
    from irpo.training.job import builder_of, lists_on_disk
    from irpo.training.stream import stream_of

    layers = ["models/embedded.yaml", "methods/irpo.yaml"]
    settings = ["task.name=prepared", f"task.data={folder}", f"training.shuffle_buffer={BUFFER}"]
    config = load_config(layers, [*settings, f"training.lists_per_update={EACH}"])
    lists, _ = lists_on_disk(config)
    builder = builder_of(config)
    return lists, lambda found: stream_of(lists, found, builder, config, processes=processes)


def read(folder: Path, count: int, given: argparse.Namespace) -> dict[str, Any]:
    """All lists twice: in the files' order, and shuffled."""
    from irpo.training.stream import survey

    lists, _ = job(folder, 0)
    import datasets  # noqa: F401 - what it holds is there before the first list

    peak, cache = Peak(), folder / "surveys"
    shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    found = survey(lists, 0.1, lambda example: None, told="", cache=cache)
    surveyed = time.perf_counter()
    seen = sum(1 for example in lists.shuffled(0, 0, BUFFER) if found.trains(example, 0.1))
    done = time.perf_counter()
    assert seen == found.train
    speeds = {"survey_lists_per_s": count / (surveyed - start), "epoch_lists_per_s": count / (done - surveyed)}
    return {"train": found.train, **{name: round(speed) for name, speed in speeds.items()}, **peak.told()}


def encode(folder: Path, count: int, given: argparse.Namespace) -> dict[str, Any]:
    """Updates as training gets them."""
    from irpo.training.stream import survey

    lists, stream_from = job(folder, given.processes)
    stream = stream_from(survey(lists, 0.1, lambda example: None, told="", cache=folder / "surveys"))
    wanted = min(given.encoded or count, count) // EACH
    peak, coming = Peak(), stream.from_update(0)
    next(coming)  # the buffers are full
    start = time.perf_counter()
    items = itertools.chain.from_iterable(itertools.islice(coming, wanted))
    tokens = sum(len(item.prompt) + sum(map(len, item.bodies)) for item in items)
    taken = time.perf_counter() - start
    coming.close()
    speed = round(wanted * EACH / taken, 1)
    return {
        "encoded": wanted * EACH,
        "processes": given.processes,
        "lists_per_s": speed,
        "tokens_per_s": round(tokens / taken),
        **peak.told(),
    }


def tables(folder: Path, count: int, given: argparse.Namespace) -> dict[str, Any]:
    """Scores (1, 20) of so many lists."""
    import numpy as np
    import torch

    from irpo.training.tables import Shelf, writing

    shelf = folder / "tables"
    shutil.rmtree(shelf, ignore_errors=True)

    def key(number: int) -> str:
        return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()

    peak, start = Peak(), time.perf_counter()
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((1, CANDIDATES)).astype(np.float32))
    with writing(shelf) as writer:
        for number in range(count):
            writer.add([(key(number), values + number)])
    written = time.perf_counter()
    opened = Shelf(shelf)
    ready = time.perf_counter()
    chance, asked = random.Random(0), 0
    while time.perf_counter() - ready < 5:
        numbers = [chance.randrange(count) for _ in range(EACH)]
        found = opened.tables([key(number) for number in numbers])
        assert all(row is not None and torch.equal(row, values + n) for row, n in zip(found, numbers, strict=True))
        asked += EACH
    size = sum(path.stat().st_size for path in shelf.iterdir())
    shutil.rmtree(shelf)
    return {
        "shards": len(opened.shards),
        "disk_mb": round(size / MB, 1),
        "written_per_s": round(count / (written - start)),
        "open_s": round(ready - written, 2),
        "read_per_s": round(asked / 5),
        **peak.told(),
    }


CASES: dict[str, Callable[[Path, int, argparse.Namespace], dict[str, Any]]] = {
    "read": read,
    "encode": encode,
    "tables": tables,
}


def main() -> None:
    """A fresh process a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--lists", type=int, nargs="+", default=[10**5, 10**6])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--encoded", type=int, help="lists to encode of those there are; all where not given")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = [10**3, 10**4] if given.quick else given.lists
    for count, case in itertools.product(counts, given.cases):
        folder = given.folder / str(count)
        if given.here:
            print(json.dumps({"case": case, "lists": count, **CASES[case](folder, count, given)}), flush=True)
            continue
        if case != "tables":  # in a process of its own, which gives back what writing took
            writer = multiprocessing.Process(target=synthetic, args=(folder, count))
            writer.start()
            writer.join()
        same = ["--folder", str(given.folder), "--processes", str(given.processes)]
        same += ["--encoded", str(given.encoded)] if given.encoded else []
        subprocess.run([sys.executable, __file__, *same, "--lists", str(count), "--cases", case, "--here"], check=True)


if __name__ == "__main__":
    main()
