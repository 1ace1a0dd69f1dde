"""What a model's name leads to: the model in the package, a folder, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from irpo import hub
from irpo.resources import embedded_dir
from irpo.types import UserError

EMBEDDED = "embedded"


def own_code(error: Exception) -> str | None:
    """What is said of a repository that asks for code of its own to be run (`auto_map`); None: the error is another."""
    if "custom code" not in str(error):
        return None
    return "it asks for code of its own to be run (auto_map), which is never done; take one that transformers knows"


def resolve(name: str) -> tuple[str, str]:
    """Where a model's files are: a folder or a hub id, and of the hub's files which revision (`ID@REVISION`, or main).

    `embedded` is the model in the package.

    >>> resolve("microsoft/Phi-4-mini-instruct@5a149550068a1eb93398160d8953f5f56c3603e9")
    ('microsoft/Phi-4-mini-instruct', '5a149550068a1eb93398160d8953f5f56c3603e9')
    """
    if name == EMBEDDED:
        return str(embedded_dir()), "main"
    if looks_local(name) or Path(name).exists():
        return name, "main"
    place, _, revision = name.partition("@")
    return place, revision or "main"


def looks_local(name: str) -> bool:
    """Whether a name is spelt as a folder's, be it there or not."""
    parent = Path(name).parent
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (parent != Path() and parent.is_dir())


def is_of_hub(name: str) -> bool:
    """Whether a name is neither a folder's nor the embedded model's."""
    return not (name == EMBEDDED or looks_local(name) or Path(name).exists())


def commit_of(name: str) -> str | None:
    """The commit at which the cache holds a hub id's model; None where it does not, and for what is no hub id."""
    from huggingface_hub import try_to_load_from_cache

    place, revision = resolve(name)
    found = try_to_load_from_cache(place, "config.json", revision=revision) if is_of_hub(name) else None
    return Path(found).parent.name if isinstance(found, str) else None


def pinned(name: str, commit: str | None) -> str:
    """A hub id at one commit; any other name, or where no commit is known, as it is.

    >>> pinned("owner/model@main", "1a2b3c"), pinned("embedded", "1a2b3c")
    ('owner/model@1a2b3c', 'embedded')
    """
    return f"{resolve(name)[0]}@{commit}" if commit and is_of_hub(name) else name


def require_there(name: str, what: str = "") -> None:
    """`UserError` where a name is neither a folder nor cached nor on a hub that answers; asks the hub once.

    `what` begins the message.
    """
    from huggingface_hub import try_to_load_from_cache

    place, revision = resolve(name)
    if Path(place).is_dir():
        return
    try:
        if not isinstance(try_to_load_from_cache(place, "config.json", revision=revision), str):
            hub.ask(place, revision)
    except Exception as error:  # noqa: BLE001 - whatever the client of the day raises: a bad name, no network, no such model
        raise UserError(what + not_there(name, error)) from None


@contextmanager
def as_it_answers(name: str) -> Iterator[None]:
    """While a model is loaded: where it is the hub's and the hub is silent, from the cache without asking again."""
    if not is_of_hub(name):
        yield
        return
    with hub.offline(not hub.answers(*resolve(name))):
        yield


def not_there(name: str, error: Exception) -> str:
    """What is said of a model that cannot be loaded: why, and what to do about it."""
    if looks_local(name) and not Path(name).exists():
        return f"cannot load model {name!r}: there is no such folder"
    if Path(name).is_file():
        return f"cannot load model {name!r}: it is a file; give a folder"
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        return f"cannot load model {name!r}: the folder holds neither a finished run nor a model's config.json"
    if is_of_hub(name) and (refused := hub.refusal(error, resolve(name)[0])):
        return f"cannot load model {name!r}: {'' if refused.there else 'there is no such folder; '}{refused.reason}"
    reason = own_code(error) or " ".join(str(error).split())[:200]
    return f"cannot load model {name!r}: give 'embedded', a folder, or a hub id that can be reached ({reason})"
