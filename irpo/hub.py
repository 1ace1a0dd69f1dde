"""The hub of models and datasets: whether it answers, and what its refusals mean to a user.

Its libraries try again for half a minute a file where nobody answers, and for four minutes in all. Here it is asked
once, for a few seconds; where it is silent they are put in their offline mode, and take the cache at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["model", "dataset"]

SECONDS = 5  # that the hub may take to answer whether something is there
_RESPITE = 60  # seconds for which a hub that was silent is not asked again
_SILENT = "it is not in the cache, and the hub cannot be reached ({})"
_CLIENTS = ("httpx", "httpx2", "requests")  # that huggingface_hub's releases ask by
_OF_LINE = {"TransportError", "ConnectionError", "Timeout"}  # the clients' errors of a connection, and of time
_silent_since: dict[str, float] = {}  # by the hub's address
_failing: dict[tuple[str, str, str], str] = {}  # why it last told nothing, by its address, the kind and the repository


@dataclass(frozen=True)
class Refusal:
    """Why something cannot be had from the hub, and what to do about it."""

    reason: str
    there: bool  # whether the hub has something of that name, for others or in another revision


def ask(name: str, revision: str | None = None, kind: Kind = "model") -> Any:
    """What the hub tells of a repository; raises what its client raises, be it a refusal or silence."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if _is_silent():
        raise ConnectionError(f"{constants.ENDPOINT} did not answer")
    key = (constants.ENDPOINT, kind, name)
    _failing.pop(key, None)
    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except (HFValidationError, OfflineModeIsEnabled):
        raise
    except Exception as error:
        if _is_silence(error):
            _silent_since[constants.ENDPOINT] = time.monotonic()
        elif not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500:
            read = _read(error, name, kind)
            _failing[key] = read.reason if read else " ".join(str(error).split())[:200]
        raise


def _is_silent() -> bool:
    """Whether the hub has been asked of late, and did not answer."""
    from huggingface_hub import constants

    return time.monotonic() - _silent_since.get(constants.ENDPOINT, -_RESPITE) < _RESPITE


def answers(name: str, revision: str | None = None, kind: Kind = "model") -> bool:
    """Whether the hub answers when it is asked for a repository, be it that there is none; an error of its is none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        ask(name, revision, kind)
    except HfHubHTTPError as error:
        return error.response.status_code < 500
    except Exception:  # noqa: BLE001 - whatever the client of the day raises where there is no network
        return False
    return True


_turn = threading.Lock()
_inside = 0  # how many blocks, of all threads, want the offline mode now
_before: dict[str, bool] = {}  # what the libraries' settings were before the first of them, by module


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """With the libraries in their offline mode, in which they take the cache at once instead of trying for 30 s.

    The mode is the process's: it holds, for all threads, until the last block that wants it ends.
    """
    if not wanted:
        yield
        return
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _turn:
        if not _inside:
            _before.clear()
        _inside += 1
        for place in _settings():
            _before.setdefault(place.__name__, place.HF_HUB_OFFLINE)
            place.HF_HUB_OFFLINE = True


def _leave() -> None:
    global _inside
    with _turn:
        _inside -= 1
        if _inside:
            return
        hub, *others = _settings()
        hub.HF_HUB_OFFLINE = _before[hub.__name__]
        for place in others:
            if place.__name__ in _before:
                place.HF_HUB_OFFLINE = _before[place.__name__]
            elif "HF_DATASETS_OFFLINE" not in os.environ:  # imported meanwhile, it took the hub's
                place.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE


def _settings() -> list[Any]:
    """The modules that hold the mode: huggingface_hub's, and that of datasets where it is imported."""
    from huggingface_hub import constants

    datasets = sys.modules.get("datasets.config")
    return [constants, *([datasets] if datasets else [])]


def refusal(error: BaseException, name: str, kind: Kind = "model") -> Refusal | None:
    """What the hub's refusal means, where it is what an error comes from; None where the error is another."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    causes = list(_causes(error))
    found = next((read for cause in causes if (read := _read(cause, name, kind))), None)
    if found is None and any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return _missing(name, kind)
    return found


def refusal_asked(name: str, revision: str | None, kind: Kind) -> Refusal | None:
    """What the hub refuses of a repository, asked for after a library failed without saying it; None: nothing."""
    from huggingface_hub import HfApi

    try:
        ask(name, revision, kind)
        HfApi().auth_check(name, repo_type=kind)
    except Exception as error:  # noqa: BLE001 - whatever the client of the day raises
        return refusal(error, name, kind)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, the outermost first."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    for cause in waiting:
        if cause is not None and cause not in seen:
            seen.append(cause)
            waiting += [cause.__cause__, cause.__context__]
            yield cause


def _read(error: BaseException, name: str, kind: Kind) -> Refusal | None:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if isinstance(error, errors.GatedRepoError):
        return Refusal(f"it is gated: {_gate(error.response.status_code, page)}", there=True)
    if isinstance(error, errors.DisabledRepoError):
        return Refusal("the hub has closed it to everybody", there=True)
    if isinstance(error, errors.RevisionNotFoundError):
        return Refusal(f"the hub has no such revision of it; {page}/commits/main lists them", there=True)
    if isinstance(error, errors.RepositoryNotFoundError):
        login = "for a private one log in with `hf auth login`"
        return Refusal(f"the hub has no {kind} {name!r}, or not for you (check the spelling; {login})", there=False)
    if isinstance(error, errors.HFValidationError):
        return Refusal(f"{name!r} is no hub id, which is OWNER/NAME", there=False)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _missing(name, kind)
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return None
    if isinstance(error, errors.HfHubHTTPError):
        return _read_status(error)
    return Refusal(_SILENT.format(constants.ENDPOINT), there=False) if _is_silence(error) else None


def _gate(status: int, page: str) -> str:
    if status == 401:
        return f"accept its terms at {page}, then log in with `hf auth login`, or set HF_TOKEN"
    return (
        f"the account of your token has no access (`hf auth whoami`): accept its terms at {page} as that account, or "
        "log in as another with `hf auth login`"
    )


def _read_status(error: Any) -> Refusal:
    from huggingface_hub import constants

    status = error.response.status_code
    if status == 401:
        reason = "the hub does not know you (no token, or one that it does not take): log in with `hf auth login`"
    elif status == 403:
        said = error.server_message or "no permission"
        reason = f"your token may not do that ({said}): log in with `hf auth login`, by a token that may"
    elif status == 429:
        reason = "the hub asks for fewer requests (429): try again in a few minutes, logged in by `hf auth login`"
    else:
        reason = f"{constants.ENDPOINT} answers with error {status}: try again later"
    return Refusal(reason, there=True)


def _is_silence(error: BaseException) -> bool:
    """Whether no connection was had, or no answer in time."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    of_client = type(error).__module__.partition(".")[0] in _CLIENTS
    return of_client and any(kind.__name__ in _OF_LINE for kind in type(error).__mro__)


def _missing(name: str, kind: Kind) -> Refusal:
    """Of what the cache has not, where the hub was not asked."""
    from huggingface_hub import constants

    if _is_silent():
        return Refusal(_SILENT.format(constants.ENDPOINT), there=False)
    if reason := _failing.get((constants.ENDPOINT, kind, name)):
        return Refusal(f"it is not in the cache, and {reason}", there=True)
    return Refusal("it is not in the cache, and HF_HUB_OFFLINE keeps the hub from being asked", there=False)
