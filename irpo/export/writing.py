"""The folder of an exported ranker (`irpo.runs.exported` says what lies in it), and nothing else of where it lies."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irpo import __version__
from irpo.config.layers import written
from irpo.config.schema import RankerConfig
from irpo.export.card import card
from irpo.export.merging import Plan, merged_model
from irpo.export.rescoring import Difference, difference, held_out, ranked
from irpo.files import atomic_folder, require_ours, sha256_of
from irpo.progress import say
from irpo.prompting.prompts import PromptBuilder
from irpo.ranking.choosing import spelt
from irpo.ranking.reranker import Reranker
from irpo.runs import ADAPTER, CHOICE, run_config, write_text
from irpo.runs.exported import ADAPTER_CONFIG, CARD, EXPORT, RANKER, digests, is_read, listed
from irpo.runs.key import KEY, fingerprint, read_json
from irpo.scoring.models import no_bar
from irpo.scoring.names import EMBEDDED, resolve
from irpo.training.job import builder_of
from irpo.types import UserError


@dataclass(frozen=True)
class Written:
    """What was exported, and how far it ranks otherwise than its run; None: that was not measured."""

    folder: Path
    files: tuple[str, ...]
    difference: Difference | None = None  # to the run at the exported strength: what merging and rounding cost
    by_strength: Difference | None = None  # of the run at that strength to the run at its own, where that is another


def export(
    plan: Plan, out: Path, *, lists: int = 50, licence: str | None = None, name: str = "FOLDER_OR_HUB_ID"
) -> Written:
    """Write a run as a folder of its own, `lists` held-out lists re-scored where its weights are merged.

    `name` is what the card calls it in commands.
    """
    require_place(out)
    home = Path(os.path.realpath(out))  # of a link, what it points at
    with atomic_folder(home, _owned(home), EXPORT) as folder:
        _write_ranker(plan, folder)
        told = _about(plan, folder)
        write_text(folder / EXPORT, json.dumps(told, indent=2) + "\n")
        found, by_strength = _rescored(plan, folder, lists) if plan.whole and lists else (None, None)
        if found is not None:
            apart = {"by_strength": by_strength.as_dict()} if by_strength is not None else {}
            told |= {"difference": found.as_dict(), **apart}
        write_text(folder / CARD, card(plan, found, licence, name))
        told["card"] = sha256_of(folder / CARD)
        write_text(folder / EXPORT, json.dumps(told, indent=2) + "\n")
        _spare(folder, home)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return Written(out, files, found, by_strength)


def require_place(out: Path) -> None:
    """`UserError` where an export would take the place of something else, or lie beside what is read with it."""
    if run_config(out) is not None:
        raise UserError(f"--out {out}: a run lies there; give another folder")
    there = [path.name for path in out.iterdir()] if out.is_dir() else []
    require_ours(out, sorted(there), EXPORT)
    if theirs := sorted(name for name in there if is_read(name) and name not in _owned(out)):
        raise UserError(
            f"--out {out}: {theirs[0]} lies there, which the export there does not list and a library may read with a "
            "ranker; take it out, or give another folder"
        )


def _owned(out: Path) -> tuple[str, ...]:
    """The files of an earlier export in a folder, but for its card; of one that was broken off, what is read of it."""
    if files := listed(out):
        return tuple(files)
    return tuple(
        sorted(
            path.name
            for path in out.glob("*")
            if path.is_file() and (is_read(path.name) or path.name in (RANKER, CHOICE))
        )
    )


def _spare(work: Path, out: Path) -> None:
    """Leave the user's own files in a folder that is exported to once more: a card that was edited stays, and is told.

    `UserError` where another file would be replaced that the earlier export did not write.
    """
    kept = out / CARD
    if kept.is_file() and sha256_of(kept) not in (read_json(out / EXPORT).get("card"), sha256_of(work / CARD)):
        (work / CARD).unlink()
        say(f"note: {kept} was edited since it was written, and stays as it is; take it out for a new one")
    ours = {*listed(out), EXPORT, CARD}
    theirs = sorted(path.name for path in work.iterdir() if path.name not in ours and (out / path.name).exists())
    if theirs and listed(out):  # one that was broken off left no list
        raise UserError(
            f"--out {out}: {theirs[0]} lies there, which no export wrote; take it out, or give another folder"
        )


def _write_ranker(plan: Plan, folder: Path) -> None:
    """Weights, tokenizer, prompt and choice."""
    builder = builder_of(plan.config)
    if plan.whole:
        model = merged_model(plan)
        with no_bar():
            model.save_pretrained(str(folder), safe_serialization=True)
    else:
        _copy_adapter(plan, folder)
    builder.tokenizer.save_pretrained(str(folder))
    for more in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(more)  # chat templates for other uses, which a tokenizer may have
    template = _free_name(folder, builder.template.name)
    write_text(folder / template, builder.template.source)
    write_text(folder / RANKER, written(_ranker(plan, builder, template).model_dump(mode="json")))
    write_text(folder / CHOICE, json.dumps(plan.choice.as_dict(), indent=2) + "\n")


def _copy_adapter(plan: Plan, folder: Path) -> None:
    """The run's adapter, its base named as any machine can find it."""
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        shutil.copyfile(Path(plan.run) / ADAPTER / name, folder / name)
    base, revision = resolve(plan.base) if plan.base != EMBEDDED else (plan.base, "main")
    told: dict[str, Any] = read_json(folder / ADAPTER_CONFIG)
    told |= {"base_model_name_or_path": base, "revision": None if revision == "main" else revision}
    write_text(folder / ADAPTER_CONFIG, json.dumps(told, indent=2) + "\n")


def _free_name(folder: Path, name: str) -> str:
    """A template's own name, which reports tell, or one like it where a file of the ranker bears that."""
    taken = (folder / name).exists() or name in (RANKER, CHOICE, EXPORT, CARD)
    return f"prompt-{name}" if taken else name


def _ranker(plan: Plan, builder: PromptBuilder, template: str) -> RankerConfig:
    """How the folder ranks: as its run, but that a chat template is the tokenizer's own by now."""
    of = RankerConfig.of(plan.config)
    model: dict[str, Any] = {"name": "." if plan.whole else plan.base, "gradient_checkpointing": False}
    if plan.whole:
        model["quantization"] = "none"
    prompt = {"template": template, "chat_template": None, "labels": builder.labels}
    return of.model_copy(
        update={"model": of.model.model_copy(update=model), "prompt": of.prompt.model_copy(update=prompt)}
    )


def _about(plan: Plan, folder: Path) -> dict[str, Any]:
    """What `export.json` says but for the difference."""
    base, revision = resolve(plan.base)
    local = Path(base).exists()
    held = {"name": None if local and plan.base != EMBEDDED else plan.base.partition("@")[0]}
    held |= {"commit": None if local else revision, "fingerprint": fingerprint(plan.base) if local else None}
    return {
        "irpo": __version__,
        "form": "whole" if plan.whole else "adapter",
        "dtype": plan.dtype if plan.whole else None,
        "base": held,
        "run": read_json(Path(plan.run) / KEY).get("key"),
        "trained_in": plan.config.model.quantization,
        "strength": {"run": spelt(plan.was), "exported": spelt(plan.choice.strength), "adapter_scaled_by": plan.scale},
        "files": digests(folder),
    }


def _rescored(plan: Plan, folder: Path, lists: int) -> tuple[Difference | None, Difference | None]:
    """How far the folder is from the run at its strength, and that from the run at the run's own, if it is another.

    One of them is loaded at a time; None where there are no lists.
    """
    try:
        examples, of = held_out(plan.config, lists)
    except UserError as error:
        say(f"note: not re-scored, for the run's lists are not there: {error}")
        return None, None
    run = Reranker.load(plan.run, trust_plugins=True)  # imported, or refused, by now
    before = ranked(replace(run, strength=plan.strength), examples)
    own = ranked(run, examples) if plan.strengthened else None
    del run
    after = ranked(Reranker.load(str(folder), trust_plugins=True), examples)
    by_strength = None if own is None else difference(examples, of, own, before)
    return difference(examples, of, before, after), by_strength
