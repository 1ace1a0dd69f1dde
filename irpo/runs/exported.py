"""Rankers that have left their run: a folder that `irpo export` wrote, here or on the hub, and adapters of others.

    config.json, model*.safetensors                 a whole model, which any library loads; or
    adapter_config.json, adapter_model.safetensors  a LoRA adapter, with the name of its base and the commit of that
    tokenizer.json, ...                             the tokenizer, and the chat template that it was trained with
    ranker.yaml                                     how it is asked, scored and measured (`RankerConfig`)
    NAME.jinja                                      the prompt's template, which ranker.yaml names
    strength.json                                   the strength that it ranks at, and its temperature
    README.md                                       the model card
    export.json                                     what it was made from, and the digests of the files but the card

What `export.json` does not list is no part of the ranker: it is neither fetched from the hub nor pushed, and where a
library would read it all the same (an adapter beside merged weights), the folder is refused.

Nothing here loads torch.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from irpo import hub
from irpo.config.schema import RankerConfig, load_ranker
from irpo.files import sha256_of
from irpo.runs.key import fingerprint, read_json
from irpo.scoring.names import is_of_hub, not_there, resolve
from irpo.types import UserError

EXPORT, RANKER, CARD = "export.json", "ranker.yaml", "README.md"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
_ASKED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", CARD)  # of the files of an adapter of others
# What transformers, PEFT and vLLM read of a model's folder by its name, whether they were told of it or not.
_READ = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.h5", "*.msgpack"),
    *("adapter_*", "config*.json", "*config.json", "params.json", "*chat_template*", "*.py"),
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.tiktoken"),
)

_HERE: dict[tuple[str, str, str], str] = {}  # what was found: a name means one thing while the process lives


def fetched(name: str) -> str:
    """Of a hub id under which a ranker of ours or an adapter lies, the folder of its files; any other name itself.

    A name of which nobody can say what lies there is itself, too: whoever loads it says why it cannot be had.
    """
    if not is_of_hub(name):
        return name
    from huggingface_hub import constants, snapshot_download

    place, revision = resolve(name)
    key = (name, constants.ENDPOINT, constants.HF_HUB_CACHE)
    if key not in _HERE:
        files, answered = _files(place, revision)
        if EXPORT not in files and (ADAPTER_CONFIG not in files or "config.json" in files):
            return _HERE.setdefault(key, name) if answered else name

        def fetch(patterns: Iterable[str]) -> str:
            return snapshot_download(  # nosec B615 # at the revision that the name says
                place, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*", "*.py"]
            )

        try:
            with hub.offline(not answered):
                if EXPORT in files:
                    _HERE[key] = fetch(map(glob.escape, (EXPORT, CARD, *listed(fetch([EXPORT])))))
                else:
                    _HERE[key] = fetch(_ASKED)
        except Exception as error:  # noqa: BLE001 - whatever the client of the day raises: no access, no network
            raise UserError(not_there(name, error)) from None
    return _HERE[key]


def _files(place: str, revision: str) -> tuple[set[str], bool]:
    """The files of a repository, as far as they tell what it is, and whether the hub said so or the cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return {file.rfilename for file in hub.ask(place, revision).siblings}, True
    except Exception:  # noqa: BLE001 - as above
        told = ("config.json", EXPORT, ADAPTER_CONFIG)
        try:
            return {
                file for file in told if isinstance(try_to_load_from_cache(place, file, revision=revision), str)
            }, False
        except ValueError:  # no hub id
            return set(), False


def is_exported(name: str | Path) -> bool:
    """Whether a folder is one that `irpo export` wrote."""
    return (Path(name) / EXPORT).is_file()


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a LoRA adapter and no whole model, be it ours or not."""
    return (Path(folder) / ADAPTER_CONFIG).is_file() and not (Path(folder) / "config.json").is_file()


def adapter_base(folder: str | Path) -> str:
    """The model that an adapter's own configuration names, at the commit that it names."""
    told = read_json(Path(folder) / ADAPTER_CONFIG)
    base, revision = told.get("base_model_name_or_path"), told.get("revision")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder}: {ADAPTER_CONFIG} names no base_model_name_or_path")
    return f"{base}@{revision}" if isinstance(revision, str) and is_of_hub(base) else base


def exported_config(folder: str | Path) -> RankerConfig:
    """How an exported ranker ranks, its model and template by their places in this folder."""
    config = load_ranker(Path(folder) / RANKER)
    model = config.model.model_copy(update={"name": str(folder)})
    template = str(Path(folder) / Path(config.prompt.template or "").name)
    return config.model_copy(update={"model": model, "prompt": config.prompt.model_copy(update={"template": template})})


def require_as_exported(folder: str | Path) -> None:
    """`UserError` where a file of an exported ranker, or its base, is not what it was when it was exported."""
    home, files = Path(folder), listed(folder)
    base = read_json(home / EXPORT).get("base")
    if not isinstance(base, dict) or not files:
        raise UserError(f"{folder}: {EXPORT} is damaged; export the ranker anew")
    if more := [path.name for path in home.iterdir() if is_read(path.name) and path.name not in files]:
        raise UserError(
            f"{folder}: {min(more)} lies there, which {EXPORT} does not list and a library may read with the ranker, "
            "so it could rank otherwise than it was measured; take it out"
        )
    for name, digest in files.items():
        path = home / name
        if not path.is_file():
            raise UserError(
                f"{folder}: {name} is missing, which {EXPORT} lists; export the ranker anew, or fetch it anew"
            )
        if sha256_of(path) != digest:
            raise UserError(
                f"{folder}: {name} is not as it was exported, so it would rank otherwise than it was measured; export "
                f"the ranker anew{_WAYS.get(name, '')}"
            )
    was = base.get("fingerprint")
    if is_adapter(home) and was is not None and was != fingerprint(adapter_base(home)):
        raise UserError(f"{folder}: its base {adapter_base(home)!r} is not the one that its adapter was trained on")


_WAYS = {
    "strength.json": ", or give another strength by --strength",
    RANKER: ", or another prompt by --style and --max-tokens",
}


def listed(folder: str | Path) -> dict[str, Any]:
    """The digests of a ranker's files, by name, as its `export.json` says; {} where that is damaged."""
    files = read_json(Path(folder) / EXPORT).get("files")
    if not isinstance(files, dict) or any(name in ("", "..") or Path(name).name != name for name in files):
        return {}  # nor is a path out of the folder one of its files
    return files


def is_read(name: str) -> bool:
    """Whether libraries may read a file of a model's folder because of its name.

    >>> is_read("adapter_config.json"), is_read("notes.txt")
    (True, False)
    """
    return any(fnmatchcase(name.lower(), pattern) for pattern in _READ)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a ranker, by name, but of the card, which may be edited."""
    kept = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (EXPORT, CARD))
    return {path.name: sha256_of(path) for path in kept}
