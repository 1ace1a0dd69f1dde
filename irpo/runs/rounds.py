"""An on-policy run's rounds: each a folder that can be used as a run, whole when its state is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irpo.config.schema import RUN_CONFIG, RunConfig, to_yaml
from irpo.files import sha256_of
from irpo.folders import discard
from irpo.processes import is_first, wait
from irpo.progress import say
from irpo.runs import ADAPTER, CHOICE, FULL, ROUNDS, STATE, WEIGHTS, learnt, save_model, write_text
from irpo.runs.key import read_json


def round_folder(out: Path, number: int) -> Path:
    """Where a round lies; 0 is the start."""
    return out / ROUNDS / f"{number:03d}"


def fresh_round(out: Path, number: int) -> Path:
    """The folder of a round that begins, without what a killed process left of it."""
    home = round_folder(out, number)
    if is_first():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
    wait()
    return home


def finished_rounds(out: Path) -> list[dict[str, Any]]:
    """The states of the rounds that are whole, from 0 on; last ones with damaged files are told of and left out."""
    states: list[dict[str, Any]] = []
    while state := read_json(round_folder(out, len(states)) / STATE):
        states.append(state)
    while states and (wrong := _damaged(round_folder(out, len(states) - 1))):
        say(f"round {len(states) - 1}: {wrong} is damaged; going back to the round before, if there is one")
        states.pop()
    return states


def _damaged(home: Path) -> str | None:
    """The first file of a round's weights and choice that is not as it was written, None where all are."""
    for name, digest in read_json(home / WEIGHTS).items():
        try:
            if sha256_of(home / name) != digest:
                return name
        except OSError:
            return name
    return None


def save_round(home: Path, config: RunConfig, model: Any, tokenizer: Any, state: Mapping[str, Any]) -> None:
    """A round as a run of its own, its state last; of fully trained models only the latest round keeps its weights."""
    save_model(model, tokenizer, home, tuning=config.model.tuning)
    if not is_first():
        return
    write_text(home / RUN_CONFIG, to_yaml(config))
    files = sorted(path for path in (home / learnt(config.model.tuning)).rglob("*") if path.is_file())
    files += [home / CHOICE] if (home / CHOICE).is_file() else []
    digests = {path.relative_to(home).as_posix(): sha256_of(path) for path in files}
    write_text(home / WEIGHTS, json.dumps(digests, indent=2) + "\n")
    if config.model.tuning == "full":  # the round before stays: it is what a killed round begins from
        discard(home.parent / f"{int(home.name) - 2:03d}" / FULL)
    write_text(home / STATE, json.dumps(state, indent=2) + "\n")


def restore(model: Any, home: Path) -> None:
    """Put a round's weights into the model."""
    from irpo.scoring.sharding import load_whole

    if load_whole(model, home / FULL):
        return
    if (home / ADAPTER).is_dir():
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(home / ADAPTER), device=str(model.device)))
        return
    from transformers import AutoModelForCausalLM

    how = {"dtype": model.dtype, "use_safetensors": True}
    saved = AutoModelForCausalLM.from_pretrained(str(home / FULL), **how)  # nosec B615 # a folder of the run's
    model.load_state_dict(saved.state_dict())
