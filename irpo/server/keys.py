"""API keys: from a file or from IRPO_API_KEYS, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from irpo.files import read_text
from irpo.types import UserError

ENVIRONMENT = "IRPO_API_KEYS"
_SHORTEST = 16  # characters: what `openssl rand -hex 8` gives


@dataclass(frozen=True)
class Keys:
    """The digests of the keys that open a server; without any it is open."""

    digests: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def admits(self, authorization: bytes) -> bool:
        """Whether a header `Authorization: Bearer KEY` holds one of them; every one is compared, whichever it is."""
        scheme, _, key = authorization.strip().partition(b" ")
        given = _digest(key.strip())
        found = [hmac.compare_digest(given, digest) for digest in self.digests]
        return not self.digests or (any(found) and scheme.lower() == b"bearer")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: Path | None) -> Keys:
    """The keys of a file, one a line, and of IRPO_API_KEYS, between commas; `UserError` for one that is none.

    A file or a variable without a key is an error, too: it would leave open what was to be closed. No message holds a
    key.
    """
    digests = [_checked(key, where) for key, where in [*_of_file(file), *_of_environment()]]
    if file is not None and not digests:
        raise UserError(f"--api-keys {file}: it holds no key; write one a line")
    return Keys(tuple(dict.fromkeys(digests)))


def _of_file(file: Path | None) -> Iterator[tuple[str, str]]:
    lines = read_text(file).splitlines() if file else []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip(), f"--api-keys {file}:{number}"


def _of_environment() -> Iterator[tuple[str, str]]:
    given = os.environ.get(ENVIRONMENT)
    keys = [key.strip() for key in (given or "").split(",") if key.strip()]
    if given is not None and not keys:
        raise UserError(f"{ENVIRONMENT} is set and holds no key; write keys between commas, or unset it")
    return ((key, ENVIRONMENT) for key in keys)


def _checked(key: str, where: str) -> bytes:
    if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{where}: a key is {_SHORTEST} or more printable ASCII characters without blanks")
    return _digest(key.encode())
