"""Configurations by their number: a shipped file spoilt, or overrides, and what loading makes of them."""

from __future__ import annotations

import importlib
import random
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from irpo.config.checks import checked_config
from irpo.config.schema import load_config, load_ranker, to_yaml
from irpo.resources import configs_dir
from irpo.types import UserError, one_line
from tests.fuzz.running import TooLong, limited

BATCH = 50
SECONDS = 5.0  # that one may take
LONGEST = 1500  # characters of a message
LAYERS = ("models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml")
_SECTIONS = (
    *("model", "task", "method", "prompt", "training", "online", "evaluation", "ranking", "seed", "plugins"),
    *("skip_bad_rows", "title", "search"),
)


@dataclass
class Batch:
    """What came of a job's configurations: how many were valid, and how many an error."""

    number: int
    counts: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, int] = (0.0, 0)
    faults: list[str] = field(default_factory=list)


def warm() -> None:
    """Import what loading imports when it needs it first."""
    importlib.import_module("irpo.compare.suite")
    checked_config(LAYERS)


def batch(number: int, seed: int) -> Batch:
    """The configurations `number * BATCH` and on."""
    found = Batch(number)
    with tempfile.TemporaryDirectory(prefix="irpo-fuzz-") as folder:
        for n in range(number * BATCH, (number + 1) * BATCH):
            _one(n, seed, Path(folder), found)
    return found


def _one(n: int, seed: int, folder: Path, found: Batch) -> None:
    made = setting(n, seed)
    path = folder / "mine.yaml"
    path.write_bytes(made.content)
    ended, fault, start = "error", "", time.process_time()
    try:
        with limited(20 * SECONDS):  # on the clock: others may share the core
            made.load(path)
        ended = "valid"
    except UserError as error:
        fault = _clear(one_line(str(error)))
    except TooLong:
        fault = "it was stopped"
    except Exception:  # noqa: BLE001 - whatever it is, it is a failure to be told
        fault = traceback.format_exc(limit=-3)
    seconds = time.process_time() - start
    if seconds > SECONDS:
        fault = f"{fault} took {seconds:.1f} s"
    found.counts["failed" if fault else ended] = found.counts.get("failed" if fault else ended, 0) + 1
    found.slowest = max(found.slowest, (seconds, n))
    if fault:
        found.faults.append(f"settings {n}: {made.what}: {fault}\n{made.content[:600]!r}\n{str(made.overrides)[:400]}")


def _clear(said: str) -> str:
    """What a message lacks: a place or a key."""
    if len(said) > LONGEST:
        return f"a message of {len(said)} characters: {said[:200]!r}"
    if re.search(r"mine\.yaml(:\d+)?:|override|\b(" + "|".join(_SECTIONS) + r")s?\b", said):
        return ""
    return f"neither place nor key: {said!r}"


@dataclass(frozen=True)
class Setting:
    """A spoilt file and overrides; `base` is the shipped file that it was."""

    base: Path
    what: str
    content: bytes
    overrides: tuple[str, ...]

    def load(self, path: Path) -> None:
        """As the commands do; a configuration that is valid is written and read back the same."""
        kind = self.base.parent.name
        if kind == "suites" or self.base.name == "quickstart.yaml":
            from irpo.compare.suite import read_suite

            suite = read_suite(path)
            suite.config(suite.models[0], suite.tasks[0], suite.methods[-1], {}, 0)
        elif kind == "rankers":
            load_ranker(path)
        else:
            layers = [
                path if Path(layer).parent.name == kind.replace("embedded", "methods") else layer for layer in LAYERS
            ]
            config = checked_config([*layers, *([] if path in layers else [path])], self.overrides)
            path.write_text(to_yaml(config), encoding="utf-8")
            if load_config([path]) != config:
                raise AssertionError("what is written is not what is read back")


def setting(n: int, seed: int) -> Setting:
    """A configuration, mostly a wrong one."""
    chance = random.Random(f"{seed}/{n}")
    base = chance.choice(_shipped())
    text = base.read_text(encoding="utf-8")
    content, what, overrides = text.encode(), "overrides", ()
    if chance.random() < 0.8:
        name = chance.choice(list(_SPOILT))
        content, what = _SPOILT[name](text, chance), f"{base.name}, {name}"
    if what == "overrides" or chance.random() < 0.1:
        overrides = tuple(_override(chance) for _ in range(chance.choice([1, 1, 2, 5])))
    return Setting(base, what, content, overrides)


@lru_cache(maxsize=1)
def _shipped() -> tuple[Path, ...]:
    return tuple(path for path in sorted(configs_dir().rglob("*.yaml")) if path.parent.name != "launch")


@lru_cache(maxsize=1)
def _known() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys and values of all shipped files."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in _shipped())
    keys = re.findall(r"^\s*-?\s*(\w+):", text, flags=re.MULTILINE)
    values = re.findall(r":[ \t]+(\S.*)$", text, flags=re.MULTILINE)
    return tuple(sorted(set(keys))), tuple(sorted(set(values)))


VALUES = (
    "", "~", "null", "true", "no", "0", "-1", "1.5", "1e-5", "1e400", "-.inf", ".nan", "0x10", "0o17", "0b2", "1_000",
    "1:30", "9" * 5000,
    "2001-01-01", "2001-99-99", "2001-01-01T25:00:00Z", "!!binary AAAA", "!!binary \u20ac", "!!set {a, b}",
    "!!omap [a: 1]", "!!bool x",
    "!!int x", "!!timestamp x", "!!python/object/apply:os.system [x]", "!mine x", "!!str 5", "!!float x", "&a 5", "*a",
    "&a [*a]", "*nobody",
    "[]", "{}", "[1, 2]", "{a: 1}", "{name: irpo}", "{name: [x]}", "{name: irpo, beta: x}", "[[[[]]]]", "[" * 2000,
    "{" * 2000, "[" * 500 + "]" * 500,
    "'", '"', '"\\ud800"', '"\\U00110000"', '"\\x00"', "'a\n\nb'", "|\n  text", ">-\n  text", "a: b: c", "- x", "? x",
    "@x", "`x", "%x", "\t", "\u2028",
    "\u202ex", "\ufeff", "x" * 100_000, "<<: {a: 1}", "irpo", "irpoo", "dpo", "independent", "../../etc/passwd",
    "/dev/zero", "${HOME}", "{{ 1/0 }}",
)  # fmt: skip


def _lines(text: str, chance: random.Random) -> tuple[list[str], int]:
    lines = text.split("\n")
    return lines, chance.choice([n for n, line in enumerate(lines) if line.strip()] or [0])


def _value(text: str, chance: random.Random) -> bytes:
    """Another value of a key."""
    lines, n = _lines(text, chance)
    new = chance.choice([chance.choice(VALUES), chance.choice(_known()[1])])
    lines[n] = f"{lines[n].partition(':')[0]}: {new}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _key(text: str, chance: random.Random) -> bytes:
    """Another key, or one that means something else in YAML."""
    lines, n = _lines(text, chance)
    before, colon, after = lines[n].partition(":")
    blanks = before[: len(before) - len(before.lstrip())]
    odd = [
        "1",
        "true",
        "~",
        "'a b'",
        "[a]",
        "{a: b}",
        "2001-01-01",
        "<<",
        "? ",
        "!!int 5",
        "a.b",
        "\u202e",
        '"\\ud800"',
        "-",
        "*a",
        "\u0130",
        "model",
        "",
    ]
    lines[n] = blanks + chance.choice([*odd, *chance.sample(_known()[0], 18)]) + colon + after
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _line(text: str, chance: random.Random) -> bytes:
    """A line gone, twice, elsewhere, or further in."""
    lines, n = _lines(text, chance)
    line = lines.pop(n)
    how = chance.choice(["gone", "twice", "elsewhere", "in", "out", "tab", "key again"])
    new = {
        "gone": [],
        "in": ["  " + line],
        "out": [line[1:]],
        "tab": ["\t" + line],
        "key again": [line, line.partition(":")[0] + ": 1"],
    }
    if how == "elsewhere":
        lines.insert(chance.randrange(len(lines) + 1), line)
    else:
        lines[n:n] = new.get(how, [line, line])
    return "\n".join(lines).encode()


def _letters(text: str, chance: random.Random) -> bytes:
    """A few bytes changed."""
    content = bytearray(text.encode())
    for _ in range(chance.choice([1, 2, 5])):
        at = chance.randrange(len(content) + 1)
        piece = chance.choice(
            [
                b"",
                b"\x00",
                b"\xff",
                b":",
                b"- ",
                b"{",
                b"[",
                b"&a ",
                b"*a",
                b"!",
                b"|",
                b"#",
                b"\n",
                b"\t",
                b"'",
                b'"',
                b"%",
                b"\xc2\x85",
                b"\xe2\x80\xa8",
            ]
        )
        content[at : at + chance.choice([0, 0, 1, 5])] = piece
    return bytes(content)


def _added(text: str, chance: random.Random) -> bytes:
    """Something more in the file."""
    key = chance.choice(["zz", "training", "model", "task", *_known()[0]])
    return f"{text}\n{chance.choice(['', '  '])}{key}: {chance.choice(VALUES)}\n".encode("utf-8", "surrogatepass")


def _whole(text: str, chance: random.Random) -> bytes:
    """Not the file that it should be."""
    few = [
        text.encode("utf-16"),
        text.encode("utf-32"),
        b"",
        b"\n\n",
        b"\xef\xbb\xbf" + text.encode(),
        b"\x00" * 500,
        b"[]",
        b"5",
        b"text",
        b"---\n...\n",
    ]
    few += [
        text.encode() + b"---\n" + text.encode(),
        b"%YAML 9.9\n---\n" + text.encode(),
        b"%TAG ! x\n--- !a\n",
        b"null",
        b"? a\n: b",
        b"- a\n- b",
    ]
    few += [
        text.encode()[: chance.randrange(len(text) + 1)],
        text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(),
        text.replace("  ", "\t").encode(),
    ]
    few += [b'{"model": {"name": "embedded"}}', chance.randbytes(300), text.upper().encode(), text[::-1].encode()]
    return chance.choice(few)


def _bomb(text: str, chance: random.Random) -> bytes:
    """Little that means much."""
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    maps = "b0: &b0 {x: 1}\n" + "".join(
        f"b{n}: &b{n} {{p: *b{n - 1}, q: *b{n - 1}, r: *b{n - 1}}}\n" for n in range(1, 25)
    )
    merges = "c0: &c0 {x: 1}\n" + "".join(
        f"c{n}: &c{n} {{<<: [*c{n - 1}, *c{n - 1}], k{n}: 1}}\n" for n in range(1, 20)
    )
    deep = "".join(f"{' ' * n}k{n}:\n" for n in range(chance.choice([30, 900]))) + " " * 1000 + "x"
    many = "".join(f"k{n}: {n}\n" for n in range(chance.choice([5000, 20_000])))
    few = [
        laughs,
        maps,
        merges,
        deep,
        many,
        "d: &d {e: *d}\n",
        "d: &d [*d]\n",
        "[" * 3000,
        "{a: " * 1500,
        "k: " + "[1, " * 2000,
        "# " + "x" * 1_000_000,
    ]
    few += [
        "k: '" + "x" * 1_000_000 + "'\n",
        "- " * 2000 + "x\n",
        "? " * 2000 + "x\n",
        "k: [" + "x, " * 30_000 + "]\n",
        "&a " * 500 + "x",
        "k: !" + "a" * 100_000,
    ]
    return (chance.choice(["", text + "\n"]) + chance.choice(few)).encode()


_SPOILT: dict[str, Callable[[str, random.Random], bytes]] = {
    "another value": _value,
    "another value twice": lambda text, chance: _value(_value(text, chance).decode("utf-8", "replace"), chance),
    "another key": _key,
    "a line moved": _line,
    "letters changed": _letters,
    "something added": _added,
    "another file": _whole,
    "a bomb": _bomb,
}


def _override(chance: random.Random) -> str:
    """`key=value`, one of them wrong or both."""
    first, inner = (
        chance.choice([*_SECTIONS, "zz", "", " "]),
        chance.choice([*_known()[0], "", "0", "a b", "\u202e", "x" * 5000]),
    )
    key = chance.choice([first, f"{first}.{inner}", f"{first}.{inner}.{inner}", f"{first}." * 50 + "x", inner])
    return (
        key
        + chance.choice(["=", "=", "=", " = ", "", "==", ":"])
        + chance.choice([chance.choice(VALUES), chance.choice(_known()[1])])
    )
