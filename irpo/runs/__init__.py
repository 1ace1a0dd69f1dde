"""A run's folder: what lies in it, who may write there, whether a run goes on in it, and how it is read back.

    config.yaml         every setting; from here on a run lies in the folder
    run.json            the run's key and the contents (model, prompt, lists) that it is made of
    environment.json    on what it was made (irpo.runs.environment)
    data_card.json      the card of its lists, as `irpo prepare` writes it
    before.json         the start's measure on every validation list
    log.jsonl           a JSON line for each logged update, with `loss`, and each validation, with `eval_NDCG@10`
    curves.svg          loss, measure, learning rate and shares of the log as a picture, drawn anew at the end
    strength.json       how the run ranks, where `ranking` asks for more than the policy's own scores
    checkpoints/        what `--resume` goes on from (irpo.runs.checkpoints)
    tensorboard/ wandb/ what trackers wrote (irpo.training.tracking)
    cost.json           what training took (irpo.training.cost)
    diverged.json       where a loss, gradient or weight was not finite: the update and its lists
    rounds/NNN/         an on-policy run's rounds, each a run that can be used, with its state.json written last
    adapter/ or model/  what was learnt
    README.md           the model card, written last: where it is whole, the run is finished

Each file is whole or absent, whenever the process dies. Nothing here loads torch before weights are asked for.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from irpo.config.schema import RUN_CONFIG, RankerConfig, RankingConfig, RunConfig, load_config, to_yaml
from irpo.files import atomic_file, sweep
from irpo.folders import whole_folder
from irpo.processes import is_first
from irpo.progress import say
from irpo.runs.environment import ENVIRONMENT, environment_file
from irpo.runs.exported import adapter_base, fetched, is_adapter
from irpo.runs.key import KEY, LATER, MAY_GROW, Settings, differing, fingerprint, read_json, run_key, settings
from irpo.scoring.names import commit_of, pinned
from irpo.types import UserError

ADAPTER, FULL = "adapter", "model"  # folders of an adapter's weights, of fully trained weights
CHECKPOINTS, ROUNDS, LOG = "checkpoints", "rounds", "log.jsonl"
BEFORE, STATE, CARD = "before.json", "state.json", "README.md"
CHOICE, COST, DATA_CARD, DIVERGED = "strength.json", "cost.json", "data_card.json", "diverged.json"
LOCK, WEIGHTS = ".lock", "weights.json"  # of a round: the digests of its weights' files and of its choice

# --- what is in it ----------------------------------------------------------------------------------------------------


def run_config(name: str | Path) -> RunConfig | None:
    """The configuration of a run, None where the name is not a run's folder or no run has begun there."""
    written = Path(name) / RUN_CONFIG
    return load_config([written]) if written.is_file() and written.read_bytes().strip() else None


def base_name(name: str) -> str:
    """The model that a run, a run on a run or an adapter began with; of the hub's, at the commit that it was then."""
    seen: list[Path] = []
    while (below := model_below(name)) is not None:
        here = Path(fetched(name)).resolve()
        if here in seen:
            raise UserError(f"{name}: the run names itself as its model.name; there is no base to load")
        seen.append(here)
        name = below
    return name


def model_below(name: str) -> str | None:
    """The model that a run was trained on, or that an adapter's configuration names; None for whole weights."""
    if (config := run_config(name)) is not None:
        return pinned(config.model.name, read_json(Path(name) / KEY).get("commit"))
    folder = fetched(name)
    return adapter_base(folder) if is_adapter(folder) else None


def tokenizer_name(name: str) -> str:
    """The model whose tokenizer a ranker is asked with: a run's base, or what travels with an adapter, if any does."""
    while run_config(name) is not None and (below := model_below(name)) is not None:
        name = below
    folder = fetched(name)
    if is_adapter(folder) and not (Path(folder) / "tokenizer_config.json").is_file():
        return tokenizer_name(adapter_base(folder))
    return folder


def anchored(config: RunConfig) -> RunConfig:
    """The configuration with the whole paths of its data, model and templates, so that it can be used from anywhere."""
    task, model, prompt = config.task, config.model, config.prompt
    data = Path(str(task.get("data", "")))
    task = {key: str(Path(value).absolute()) if _is_path(key, value, data) else value for key, value in task.items()}
    if Path(model.name).is_dir() and model.name != "embedded":
        model = model.model_copy(update={"name": str(Path(model.name).absolute())})
    given = {"template": prompt.template, "chat_template": prompt.chat_template}
    files = {key: str(Path(path).absolute()) for key, path in given.items() if path and Path(path).is_file()}
    prompt = prompt.model_copy(update=files)
    return config.model_copy(update={"task": task, "model": model, "prompt": prompt})


def _is_path(option: str, value: object, data: Path) -> bool:
    """Whether a task's option names what lies here: its data, or a file that is not one of them."""
    if not isinstance(value, str) or not value:
        return False
    return data.exists() if option == "data" else Path(value).is_file() and not (data / value).exists()


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log so far; none where there is no log."""
    file = folder / LOG
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


# --- who may write there ----------------------------------------------------------------------------------------------


class Taken(UserError):
    """Another process writes in the folder."""


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """The folder for this process alone, made where it is missing; `Taken` where another process writes there.

    The claim is a lock of the system's, which ends with its owner, however that dies. Folders that were made here and
    are still empty at the end are taken away again.
    """
    if not is_first():
        yield
        return
    made = _made(out)
    lock = _opened(out)
    try:
        sweep(out, out / CHECKPOINTS, out / ROUNDS, *(out / ROUNDS).glob("*/"))
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)  # while it is held: who opens it afterwards makes a new one
        os.close(lock)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _made(out: Path) -> list[Path]:
    """Make a folder; gives those that were not there, innermost first."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: this is a file; give a folder")
    missing = [path for path in (out.absolute(), *out.absolute().parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
    return missing


def _opened(out: Path) -> int:
    """The lock's file, held."""
    while True:
        try:
            file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written: {error.strerror}") from None
        if not _hold(file):
            owner = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            raise Taken(f"--out {out}: another process is writing there ({owner or 'it has not said which'})")
        try:
            same = os.path.samestat(os.fstat(file), os.stat(out / LOCK))
        except FileNotFoundError:
            same = False
        if same:
            with suppress(OSError):  # a full disk holds a lock, if not the name of its owner
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {_machine()}\n".encode())
            return file
        os.close(file)  # its owner finished, and took it away, between our opening and our holding it


def _machine() -> str:
    import platform

    return platform.node() or "this machine"


def _hold(file: int) -> bool:
    """Take the lock of an open file; False where another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        say(f"note: this file system has no locks ({error.strerror}); see to it that one process alone writes here")
    return True


# --- whether a run goes on in it --------------------------------------------------------------------------------------


def require_place(out: Path, config: RunConfig, *, resume: bool) -> None:
    """`UserError` where the folder holds something else, or a run that is not asked for or is another one.

    Reads settings alone: what is only pointed at is compared by `require_same`.
    """
    written = out / RUN_CONFIG
    if not written.is_file():
        if any(not _of_ours(path) for path in out.iterdir()):
            raise UserError(f"--out {out}: the folder is not empty and holds no run; give a new one")
        return
    if not resume:
        raise UserError(f"--out {out}: a run lies there; give a new folder, or --resume to go on with it")
    if not written.read_bytes().strip():
        say(f"{written} is empty: an earlier process died as it began; the run begins anew")
        return
    for key, (old, new) in differing(settings(load_config([written])), settings(config)).items():
        if not _grows(key, old, new):
            now, then = (_word(LATER.get(key) if value is None else value) for value in (new, old))
            raise UserError(
                f"--resume: {key} is {now} and was {then} in {written}; a run goes on as it began"
                + (f", but {key} may grow" if key in MAY_GROW else "")
            )


def _grows(key: str, old: Any, new: Any) -> bool:
    return key in MAY_GROW and isinstance(new, int) and (old is None or new > old)


def _word(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _of_ours(path: Path) -> bool:
    """Whether a process that died before its run began may have left this."""
    return path.name == LOCK or (path.name == CHECKPOINTS and path.is_dir() and not any(path.iterdir()))


def is_finished(out: Path, config: RunConfig) -> bool:
    """Whether the run of this configuration has written its last file, whole; a run that is to grow has not."""
    there, key = run_config(out), read_json(out / KEY).get("key")
    if there is None or key is None or differing(settings(there), settings(config)):
        return False
    if not (out / learnt(config.model.tuning)).is_dir():
        return False
    try:
        return (out / CARD).read_text(encoding="utf-8").endswith(card_end(key))
    except (OSError, UnicodeDecodeError):
        return False


def chooses(config: RunConfig) -> bool:
    """Whether a run says more of how it ranks than that it does so by the policy's scores."""
    return config.ranking != RankingConfig()


def write_choice(out: Path, config: RunConfig, told: Mapping[str, Any]) -> None:
    """How the run ranks; before its weights, so that where these are this is."""
    if is_first() and chooses(config):
        write_text(out / CHOICE, json.dumps(told, indent=2) + "\n")


def write_card(out: Path, text: str) -> None:
    """The last file of a run: from here on it is finished."""
    if is_first():
        (out / DIVERGED).unlink(missing_ok=True)  # of an earlier process: this one got through
        write_text(out / CARD, text)


def card_end(key: str) -> str:
    """How a whole model card ends."""
    return f"the run's key is `{key}`.\n"


def require_same(out: Path, held: Settings) -> None:
    """`UserError` where what an earlier process began with (its model, template, lists) is not the same any more."""
    for name in differing(read_json(out / KEY).get("contents", held), held):
        raise UserError(f"--resume: {name} changed since {out / KEY} was written; a run goes on as it began")


def begin(out: Path, config: RunConfig, held: Settings, card: Mapping[str, Any]) -> None:
    """Write what says that a run lies here, and what it comes from; `card` is that of its lists."""
    if not is_first():
        return
    for name in (CARD, COST):  # of a shorter run, or torn
        (out / name).unlink(missing_ok=True)
    write_text(out / RUN_CONFIG, to_yaml(config))
    told = {"key": run_key(config, held), "contents": held, "commit": commit_of(config.model.name)}
    write_text(out / KEY, json.dumps(told, indent=2) + "\n")
    write_text(out / ENVIRONMENT, environment_file(out))
    write_text(out / DATA_CARD, json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file that is whole or not there."""
    with atomic_file(path) as file:
        file.write(text)


# --- what was learnt --------------------------------------------------------------------------------------------------


def learnt(tuning: str) -> str:
    """The folder of a run that holds what it learnt."""
    return ADAPTER if tuning == "lora" else FULL


def save_model(model: Any, tokenizer: Any, out: Path, *, tuning: str) -> None:
    """The adapter, or all weights, and the tokenizer: a folder that appears whole, in the place of an earlier one."""
    from irpo.scoring.models import asking_nobody
    from irpo.scoring.sharding import whole_state

    state = whole_state(model)  # by all processes
    model.config.use_cache = True  # training sets it off, and what is saved is to be used
    if not is_first():
        return
    for adapter in getattr(model, "peft_config", {}).values():
        if isinstance(adapter.target_modules, set):  # a set is written in another order by every process
            adapter.target_modules = sorted(adapter.target_modules)
    with whole_folder(out / learnt(tuning)) as folder:
        with asking_nobody():
            model.save_pretrained(str(folder), state_dict=state, safe_serialization=True)
        (folder / CARD).unlink(missing_ok=True)  # peft's empty card; the run has its own
        tokenizer.save_pretrained(str(folder))


def load_options(config: RunConfig | RankerConfig, *, training: bool = False) -> Any:
    """How a run or a ranker loads its model (`irpo.scoring.models.LoadOptions`)."""
    from irpo.scoring.models import LoadOptions

    m = config.model
    # Small updates vanish in bfloat16: where all weights learn they are held in float32.
    return LoadOptions(m.quantization, "float32" if training and m.mixed else m.dtype, m.attention)


def load_weights(name: str, options: Any = None, *, merge: bool = False) -> Any:
    """A model by name: a run's adapter on its base (merged into it where `merge`), a run's full weights, or a base.

    `options` are `irpo.scoring.models.LoadOptions`; the run's own where they are not given.
    """
    from irpo.scoring.models import LoadOptions, load_adapter, load_model

    base_name(name)  # a run that names itself would load for ever
    config, below = run_config(name), model_below(name)
    options = _that_run_here(options or (load_options(config) if config else LoadOptions()))
    folder = Path(fetched(name))
    if config is not None and (folder / FULL).is_dir():
        return load_model(str(folder / FULL), options, pickled=False)
    if below is None:
        return load_model(fetched(name), options)
    weights = folder if config is None else folder / ADAPTER
    if not weights.is_dir():
        raise UserError(f"{name}: the run has neither '{ADAPTER}' nor '{FULL}': it did not finish; use train --resume")
    if merge and options.quantization == "nf4":
        raise UserError(f"model.name = {name!r} is a run with an adapter; it can be trained on unquantized only")
    model = load_adapter(load_weights(below, options, merge=True), weights)
    was = read_json(folder / KEY).get("contents", {}).get("model.name")
    if config is not None and was not in (None, fingerprint(config.model.name)):
        say(f"note: {name}: {below!r} is not as it was when this adapter was trained; it may rank otherwise")
    return model.merge_and_unload() if merge else model.eval()


def _that_run_here(options: Any) -> Any:
    """FlexAttention trains on a GPU only; elsewhere `eager`, which every family has, and the user is told."""
    from irpo.scoring.models import default_device

    if options.attention != "flex_attention" or default_device().type == "cuda":
        return options
    say("note: model.attention flex_attention needs a GPU; eager is used here, with the same results")
    return replace(options, attention="eager")
