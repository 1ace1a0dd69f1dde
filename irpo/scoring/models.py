"""Models: loading them (4-bit or not), their adapters, and what must hold before anything is trained or scored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from irpo import hub
from irpo.scoring.attention import use_split_attention
from irpo.scoring.names import as_it_answers, not_there, require_there, resolve
from irpo.types import UserError

_ADAPTER_WEIGHTS = "adapter_model.safetensors"

Quantization = Literal["nf4", "none"]
T = TypeVar("T")


@dataclass(frozen=True)
class LoadOptions:
    """How base weights are loaded. `dtype` auto is bfloat16 on a GPU and float32 on a CPU."""

    quantization: Quantization = "none"
    dtype: str = "auto"
    attention: str = "auto"
    sharded: bool = False  # 4-bit weights stored as numbers of `dtype`, the only form that FSDP2 takes apart

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """The dtype of weights (the compute dtype, where they are quantized)."""
        if self.dtype == "auto":
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter on the linear layers: update = (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685)."""

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(name: str) -> Any:
    """A fast tokenizer with a pad token, padding on the left."""
    from transformers import AutoTokenizer

    require_there(name)
    place, revision = resolve(name)
    with _told_in_one_line(name):
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name!r} is not a fast one; spans of candidates need character offsets")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Left padding, because generate() continues from the last column.
    tokenizer.padding_side = "left"
    return tokenizer


def hub_config(name: str) -> Any:
    """A model's `config.json`, as transformers reads it; nothing of its repository is run."""
    from transformers import AutoConfig

    require_there(name)
    place, revision = resolve(name)
    with _told_in_one_line(name):
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)


def load_model(
    name: str, options: LoadOptions | None = None, device: torch.device | None = None, *, pickled: bool = True
) -> Any:
    """A causal LM's base weights in eval mode; `UserError` where there is none or 4-bit was asked for and is not on.

    Where its files are `pickled` they are read as tensors alone (`weights_only`), or not at all.
    """
    from transformers import AutoModelForCausalLM

    options = options or LoadOptions()
    device = device or default_device()
    dtype = options.torch_dtype(device)
    if options.sharded and options.quantization == "none":  # a GPU will hold its part alone
        device = torch.device("cpu")
    settings: dict[str, Any] = {"dtype": dtype, "device_map": {"": str(device)}}
    settings |= {"trust_remote_code": False, "weights_only": True, "use_safetensors": None if pickled else True}
    settings["output_loading_info"] = True
    if options.attention != "auto":
        settings["attn_implementation"] = options.attention
    if options.quantization == "nf4":
        settings["quantization_config"] = _nf4(dtype, options.sharded)
    require_there(name)
    place, settings["revision"] = resolve(name)
    with _told_in_one_line(name), no_bar():
        loaded = AutoModelForCausalLM.from_pretrained(place, **settings)  # nosec B615 # `settings` has the revision
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(
            f"cannot load model {name!r}: its files hold no {missing[0]}{more}, which its config.json promises"
        )
    if options.quantization == "nf4":
        require_four_bit(model)
    return use_split_attention(_never_packed(model)).eval().requires_grad_(False)


def _never_packed(model: Any) -> Any:
    """The model whose 4-bit weights keep their bytes on every CPU.

    Where a CPU has AVX512-BF16, bitsandbytes packs a layer's weight anew in the first pass without gradients: its
    constants are rounded, it multiplies in bfloat16 whatever the dtype, and no gradient comes back through it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def _told_in_one_line(name: str) -> Iterator[None]:
    try:
        with as_it_answers(name):
            yield
    except torch.OutOfMemoryError:
        raise UserError(f"out of memory while {name!r} is loaded; take a smaller model, or 4 bits") from None
    except Exception as error:  # noqa: BLE001 - hub, configurations, safetensors, tokenizers: each has errors of its own
        raise UserError(not_there(name, error)) from None


@contextmanager
def no_bar() -> Iterator[None]:
    """Without the bar over tensors; a download keeps its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _nf4(compute: torch.dtype, sharded: bool) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute if sharded else torch.uint8,
    )


def causal_lm(model: Any) -> Any:
    """The causal LM inside a PEFT or DDP wrapper (LoRA layers live in it)."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def per_layer_type(config: Any, make: Callable[[int | None], T]) -> T | dict[str, T]:
    """What a family's forward takes as a mask: one, or one a layer type (Gemma, Qwen); `make` is given the window."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds is None:
        return make(window)
    return {kind: make(window if kind == "sliding_attention" else None) for kind in sorted(set(kinds))}


def without_dropout(model: Any) -> Any:
    """The model with its own dropout off: policy and reference would differ by chance before anything is learnt."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def four_bit_layers(model: Any) -> int:
    """Number of linear layers whose weights are 4-bit."""
    from bitsandbytes.nn import Linear4bit

    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    states = [getattr(layer.weight, "quant_state", None) or getattr(layer, "quant_state", None) for layer in layers]
    return sum(state is not None for state in states)


def require_four_bit(model: Any) -> int:
    """The number of 4-bit layers; `UserError` where none is, for a recipe that never quantized is worse than none."""
    count = four_bit_layers(model)
    if not count:
        raise UserError("model.quantization is 'nf4' but no layer is in 4 bits")
    return count


def add_lora(model: Any, options: LoraOptions, *, seed: int) -> Any:
    """The model with a fresh trainable adapter, everything else frozen; same seed, same adapter."""
    from peft import LoraConfig, get_peft_model

    targets = options.targets if isinstance(options.targets, str) else list(options.targets)
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        exclude_modules=_passed_by(model) if targets == "all-linear" else None,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with _no_renaming():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"model.lora.targets = {targets!r}: {' '.join(str(error).split())[:200]}") from None
    require_trainable(adapted)
    return adapted


def _passed_by(model: Any) -> list[str] | None:
    """The linear layers of a state-space mixer whose weights its kernels read: an adapter on one would not be asked."""
    mixers = [name for name, module in model.named_modules() if hasattr(module, "A_log") and hasattr(module, "D")]
    return [f"{name}.{layer}" for name in mixers for layer in ("out_proj", "dt_proj")] or None


@contextmanager
def _no_renaming() -> Iterator[None]:
    """Without the warning that peft asks an attribute which transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def load_adapter(model: Any, folder: Path, *, trainable: bool = False, name: str = "default") -> Any:
    """The base model with a saved adapter on it; `UserError` where it is torn, or was made for another model.

    A model that has adapters is given one more, of another `name`; which of them is on stays as it was.
    """
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"no adapter in {folder}; a finished run holds one in its folder 'adapter'")
    if not (folder / _ADAPTER_WEIGHTS).is_file():  # peft would open a pickle, or ask the hub
        raise UserError(_no_fit(folder, f"its weights, {_ADAPTER_WEIGHTS}, are not there"))
    try:
        with _no_renaming():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            if not isinstance(model, PeftModel):
                adapted = PeftModel.from_pretrained(model, str(folder), name, is_trainable=trainable)
            else:
                adapted = model
                if missing := model.load_adapter(str(folder), name, is_trainable=trainable).missing_keys:
                    raise ValueError(f"Found missing adapter keys {missing}")
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, UserWarning, SafetensorError) as error:
        raise UserError(_no_fit(folder, " ".join(str(error).split())[:160])) from None
    learnt = sum(parameter.numel() for parameter in adapter_state(adapted, name).values())
    if learnt != (saved := _saved_parameters(folder)):
        raise UserError(_no_fit(folder, f"it holds {saved:,} parameters, {learnt:,} of them for this model"))
    return adapted


def adapter_state(adapted: Any, name: str = "default") -> dict[str, Tensor]:
    """An adapter's tensors, as they are saved."""
    from peft import get_peft_model_state_dict

    with asking_nobody():
        found: dict[str, Tensor] = get_peft_model_state_dict(adapted, adapter_name=name)
    return found


@contextmanager
def asking_nobody() -> Iterator[None]:
    """While an adapter is read or saved: peft would ask the hub how many words its base once knew."""
    with hub.offline(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unable to fetch remote file|Could not find a config file")
        yield


def _saved_parameters(folder: Path) -> int:
    """Parameters in the file of an adapter that peft has read."""
    with safe_open(str(folder / _ADAPTER_WEIGHTS), framework="pt") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - not a mapping


def _no_fit(folder: Path, reason: str) -> str:
    return f"the adapter in {folder} is damaged, or was made for another model: {reason}"


def use_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass, without hooks on inputs that learn."""
    lm, how = causal_lm(model), {"use_reentrant": False}
    if hasattr(lm, "activation_checkpointing_enable"):
        lm.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    else:  # the name of earlier releases of transformers
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The model without its adapter for as long as this lasts: the reference.

    It flips the layers' flags, and nothing else: peft's `disable_adapter` takes 22 to 45 ms of a model of 28 blocks to
    look at them first. Which parameters learn stays as it is.
    """
    layers = adapter_layers(model)
    flags = [layer["_disable_adapters"] for layer in layers]
    for layer in layers:
        layer["_disable_adapters"] = True
    try:
        yield
    finally:
        for layer, flag in zip(layers, flags, strict=True):
            layer["_disable_adapters"] = flag


def adapter_layers(model: Any) -> list[dict[str, Any]]:
    """The attributes of the layers that carry an adapter; `Module.modules` and `setattr` take five times as long."""
    found, waiting = [], [model]
    for module in waiting:
        own = vars(module) if module is not None else {}
        if "_disable_adapters" in own:
            found.append(own)
        waiting.extend(own.get("_modules", {}).values())
    return found


def trainable_parameters(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters; a 4-bit weight counts as the weights that it stands for."""

    def size(parameter: Tensor) -> int:
        state = getattr(parameter, "quant_state", None)
        return int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()

    sizes = [(p.requires_grad, size(p)) for p in model.parameters()]
    return sum(n for on, n in sizes if on), sum(n for _, n in sizes)


def require_trainable(model: Any) -> None:
    """`UserError` where nothing would learn."""
    if trainable_parameters(model)[0] == 0:
        raise UserError("no parameter is trainable; check model.tuning and model.lora.targets")
