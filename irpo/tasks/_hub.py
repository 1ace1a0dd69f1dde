"""Datasets of the hub: asked for once, from the cache where nobody answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from irpo.types import UserError

HubRows = Mapping[str, Iterable[Mapping[str, Any]]]  # the hub's name of a split -> its rows
_SECONDS = 10  # that the hub may take to answer whether it is there


def is_hub(data: str) -> bool:
    """Whether a task's `data` means the hub: "hub", or "hub@REVISION" for a branch, tag or commit."""
    return data == "hub" or data.startswith("hub@")


def load_hub(data: str, name: str, config: str | None) -> HubRows:
    """A dataset's rows, of the revision that `data` asks for; `UserError` where neither hub nor cache has them."""
    if not name:
        raise UserError(f"data: {data!r}: this dataset is not on the hub; give the folder of its files")
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    revision = data.partition("@")[2] or None
    pinned = {} if revision is None else {"revision": revision}
    try:
        with _offline(silent := not _answers(name, revision)):
            found: HubRows = datasets.load_dataset(name, config, **pinned)  # nosec B615 # `pinned` has the revision
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        instead = "the hub cannot be reached: go online, or " if silent else ""
        raise UserError(
            f"data: {data!r}: dataset {name!r} cannot be had from the hub ({reason}); "
            f"{instead}give the folder of its files"
        ) from None
    return found


def _answers(name: str, revision: str | None) -> bool:
    """Whether the hub answers at all, be it that there is no such dataset; asked once, without trying again."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=_SECONDS, revision=revision)
    except HfHubHTTPError:
        return True
    except Exception:  # noqa: BLE001 - whatever the client of the day raises where there is no network
        return False
    return True


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """With the libraries in their offline mode, in which they take the cache at once instead of trying for 30 s."""
    import datasets
    from huggingface_hub import constants

    places: tuple[Any, ...] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = wanted or place.HF_HUB_OFFLINE
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was
