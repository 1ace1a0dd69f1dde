"""A user of the stand-in: this process's libraries, pointed at it, with a cache of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hub_stand_in import Hub


def point_at(hub: Hub, cache: Path, monkeypatch: Any, *, token: str | None = None) -> None:
    """As if the process had begun with HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_DISABLE_XET set."""
    import datasets
    import huggingface_hub.hf_api
    import huggingface_hub.utils
    from huggingface_hub import constants

    from irpo.hub import _failing, _silent_since

    _silent_since.clear()
    _failing.clear()
    hub.silent, hub.asked[:] = 0.0, []
    for place, values in (
        (constants, {"ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_DISABLE_XET": True}),
        (constants, {"HF_HUB_OFFLINE": False, "HF_TOKEN_PATH": str(cache / "token")}),
        (constants, {"HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}"}),
        (datasets.config, {"HF_ENDPOINT": hub.url, "HF_DATASETS_CACHE": cache / "datasets", "HF_HUB_OFFLINE": False}),
        (datasets.config, {"HUB_DATASETS_URL": hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}"}),
        (huggingface_hub.hf_api.api, {"endpoint": hub.url}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(place, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    datasets.disable_progress_bars()
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # a client that it keeps
    huggingface_hub.utils.disable_progress_bars()
