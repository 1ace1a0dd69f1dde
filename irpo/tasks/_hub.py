"""Datasets of the hub: asked for once, from the cache where nobody answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from irpo import hub
from irpo.types import UserError

HubRows = Mapping[str, Iterable[Mapping[str, Any]]]  # the hub's name of a split -> its rows


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
        with hub.offline(silent := not _answers(name, revision)):
            found: HubRows = datasets.load_dataset(name, config, **pinned)  # nosec B615 # `pinned` has the revision
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        raise _not_had(data, name, revision, error, silent=silent) from None
    return found


def hub_configs(data: str, name: str) -> list[str]:
    """The names of a dataset's configurations, of the revision that `data` asks for; errors as of `load_hub`."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    revision = data.partition("@")[2] or None
    try:
        with hub.offline(silent := not _answers(name, revision)):
            return list(datasets.get_dataset_config_names(name, revision=revision))
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        raise _not_had(data, name, revision, error, silent=silent) from None


def _not_had(data: str, name: str, revision: str | None, error: Exception, *, silent: bool) -> UserError:
    refused = hub.refusal(error, name, "dataset") or hub.refusal_asked(name, revision, "dataset")
    reason = refused.reason if refused else (str(error).splitlines() or [type(error).__name__])[0]
    instead = "the hub cannot be reached: go online, or " if silent and not refused else ""
    return UserError(
        f"data: {data!r}: dataset {name!r} cannot be had from the hub ({reason}); {instead}give the folder of its files"
    )


def _answers(name: str, revision: str | None) -> bool:
    """Whether the hub answers at all; asked once, without trying again."""
    return hub.answers(name, revision, "dataset")
