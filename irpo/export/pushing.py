"""`irpo push`: a run, or what was exported from one, as a repository of the hub."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from irpo import hub
from irpo.export.merging import plan_of
from irpo.export.writing import export
from irpo.runs import run_config
from irpo.runs.exported import CARD, EXPORT, is_exported, is_read, listed, require_as_exported
from irpo.runs.key import read_json
from irpo.types import UserError

# Files of a tokenizer that hold its tokens, among which are parts of paths.
_VOCABULARIES = ("tokenizer.json", "vocab*", "merges.txt", "added_tokens.json", "*.model", "*.tiktoken", "*.spm")
_OF_A_NEW_ONE = {".gitattributes", CARD}  # files that a repository of the hub may have from its beginning


@dataclass(frozen=True)
class Upload:
    """What goes to the hub, and where to."""

    repo_id: str
    files: dict[str, int]  # bytes by name
    url: str | None = None  # of the commit; None: nothing was uploaded
    removed: tuple[str, ...] = ()  # files of an earlier export there, which this one does not have


def push(
    what: str,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    dry_run: bool = False,
) -> Upload:
    """Upload an exported ranker, or a run's export, to a repository that is made where it is not there yet.

    What goes is the ranker's own files and its card, whatever else lies beside them. One commit, of which the hub shows
    all or nothing, and which removes what only an earlier export there had; after a failure the same words upload what
    it lacks. With `private` nothing goes to a repository that is public.
    """
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo_id, re.ASCII):
        raise UserError(f"{repo_id!r} is no hub id; write OWNER/NAME, of letters, digits, '-', '_' and '.'")
    with _folder_of(what, repo_id, licence) as folder:
        files = {name: (folder / name).stat().st_size for name in files_of(folder)}
        require_nothing_private(folder, files)
        if dry_run:
            return Upload(repo_id, files)
        url, removed = _upload(folder, tuple(files), repo_id, private, revision)
        return Upload(repo_id, files, url, removed)


def files_of(folder: Path) -> list[str]:
    """What is an exported ranker's own in its folder: the files that `export.json` lists, that itself, and the card."""
    return sorted([*listed(folder), EXPORT, *([CARD] if (folder / CARD).is_file() else [])])


@contextmanager
def _folder_of(what: str, repo_id: str, licence: str | None) -> Iterator[Path]:
    """The exported folder itself, or one made of a run for as long as this lasts."""
    if is_exported(what):
        require_as_exported(what)
        if licence is not None:
            raise UserError(f"--license goes into the card as it is written; {what} has one: edit its README.md")
        yield Path(what)
    elif run_config(what) is not None:
        with TemporaryDirectory(prefix="irpo-push-") as place:
            ranker = Path(place) / "ranker"
            yield export(plan_of(what, merge=False), ranker, lists=0, licence=licence, name=repo_id).folder
    else:
        raise UserError(f"{what}: this is neither a run's folder nor one that `irpo export` wrote ({EXPORT})")


def require_nothing_private(folder: Path, files: Iterable[str]) -> None:
    """`UserError` where a file that is to leave, weights aside, names a folder of this machine or holds the token."""
    from huggingface_hub import get_token

    token = get_token() or ""
    folders = {"your home": str(Path.home()), "the folder you are in": os.getcwd()}
    base = read_json(folder / EXPORT).get("base", {})
    if read_json(folder / EXPORT).get("form") == "adapter" and base.get("name") is None:
        raise UserError(f"{folder}: the adapter's base is on no other machine; export with --merge")
    for path in [folder / name for name in files if not name.endswith(".safetensors")]:
        secrets = {"your token": _anywhere(token) if len(token) > 5 else None}
        secrets |= {name: _naming(place, of_tokens=_is_vocabulary(path.name)) for name, place in folders.items()}
        for name, pattern in secrets.items():
            if pattern is not None and _holds(path, pattern):
                raise UserError(f"{path}: it names {name}, which everybody could read then; take it out first")


def _is_vocabulary(name: str) -> bool:
    """Whether a file of a tokenizer holds its vocabulary."""
    return any(fnmatchcase(name, pattern) for pattern in _VOCABULARIES)


def _anywhere(text: str) -> bytes:
    """The pattern of a text as it is or as JSON spells it."""
    spelt = {text.encode(errors="surrogateescape"), json.dumps(text)[1:-1].encode()}
    return rb"(?:%s)" % b"|".join(map(re.escape, sorted(spelt)))


def _naming(folder: str, *, of_tokens: bool) -> bytes | None:
    r"""The pattern of what names a folder; None where nothing surely does.

    What is spelt as a folder right below the root (/root, /app) is as often a part of an address, so its pattern is of
    a path that begins there; in a vocabulary it may be a token.

    >>> bool(re.search(_naming("/root", of_tokens=False), b'"/root/data/clients.csv"'))
    True
    >>> bool(re.search(_naming("/root", of_tokens=False), b"https://host/root/clients.csv, /rooted"))
    False
    """
    parts = len(Path(folder).parts)
    if parts < 2 or (parts == 2 and of_tokens):
        return None
    if parts > 2 and len(folder) > 5:
        return _anywhere(folder + os.sep if of_tokens else folder)
    return rb"(?:(?<![\w.-])|(?<=\\[nrt]))" + _anywhere(folder + os.sep)


def _holds(path: Path, pattern: bytes) -> bool:
    """Whether a file of any size holds what a pattern matches."""
    if not path.stat().st_size:
        return False  # which cannot be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(pattern, content) is not None


def _upload(
    folder: Path, files: Sequence[str], repo_id: str, private: bool, revision: str | None
) -> tuple[str, tuple[str, ...]]:
    """The commit's address, and what it removed."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants

    api = HfApi()
    if not hub.answers(repo_id):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{api.endpoint} does not answer"
        raise UserError(f"{repo_id}: not uploaded: the hub cannot be reached ({why}); the same command goes on")
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not hub.ask(repo_id).private:  # it was there, and stays as it was
            raise UserError(
                f"{repo_id}: not uploaded: that repository is public; make it private there, give another, or leave "
                "--private out"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head, stale = _stale(api, repo_id, revision, files)
        done = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, str(folder / name)) for name in files),
                *(CommitOperationDelete(name) for name in stale),
            ],
            revision=revision,
            commit_message="A ranker, by irpo push",
            parent_commit=head,  # of which `stale` was read
        )
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the client of the day raises: no network, no token, no right
        refused = hub.refusal(error, repo_id)
        reason = refused.reason if refused else " ".join(str(error).split())[:200]
        raise UserError(f"{repo_id}: not uploaded: {reason}; the same command goes on") from None
    return str(done.commit_url), stale


def _stale(api: Any, repo_id: str, revision: str | None, files: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A repository's commit, and what an earlier export left there that this one does not have.

    `UserError` where a file that is of no export would be overwritten, or read with the ranker: it is not ours.
    """
    told = hub.ask(repo_id, revision)
    there = {file.rfilename for file in told.siblings}
    earlier: set[str] = set()
    if EXPORT in there:
        earlier = set(listed(Path(api.hf_hub_download(repo_id, EXPORT, revision=told.sha)).parent))
    _require_not_theirs(repo_id, there - earlier - ({EXPORT} if earlier else set()), files)
    return told.sha, tuple(sorted(there & earlier - set(files)))


def _require_not_theirs(repo_id: str, theirs: Iterable[str], files: Sequence[str]) -> None:
    """`UserError` where a repository's files of no export keep a ranker from going there."""
    for name in sorted(set(theirs) - _OF_A_NEW_ONE):
        if name in files or is_read(name):
            why = "this would overwrite" if name in files else "a library may read with the ranker"
            raise UserError(
                f"{repo_id}: not uploaded: {name} lies there, which is of no export and which {why}; give another "
                "repository, or delete it there"
            )
