"""A run's configuration: YAML layers and `key=value` overrides, merged into one validated, frozen `RunConfig`.

Only loops and doors read it. The task, the objective and the scorer stay mappings here; the registries resolve them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from irpo.config.errors import user_error
from irpo.config.layers import Layers, written
from irpo.measures import MEASURES, measure_of
from irpo.registry import require_module
from irpo.types import Attention, Labels, Style

RUN_CONFIG = "config.yaml"  # its name in the folder of a finished run

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


def _plugin(spec: Any) -> Any:
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise ValueError("give a plug-in's name, or a mapping with 'name' and its options")
    return spec


PluginSpec = Annotated[dict[str, Any], BeforeValidator(_plugin)]  # {"name": ..., option: value}
MeasureName = Annotated[str, AfterValidator(lambda text: str(measure_of(text)))]  # NDCG@10, Recall@5, MRR, ...


PluginModule = Annotated[str, AfterValidator(require_module)]  # my_package.losses


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_and_false_are_for_switches(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation is not bool:
            raise ValueError("true and false are no value of this key")
        return value


class LoraConfig(_Section):
    """The low-rank adapter; update = (alpha / r) * B A."""

    r: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"  # or module names: [q_proj, v_proj]


class ModelConfig(_Section):
    """Which model, how it is loaded and which of its weights learn."""

    name: str  # "embedded", a folder, a hub id (ID@REVISION pins a commit), or a finished run's folder
    tuning: Literal["lora", "full"] = "lora"
    quantization: Literal["nf4", "none"] = "none"  # nf4: base weights in 4 bits (QLoRA)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    gradient_checkpointing: bool = False  # recompute activations: less memory, about a third more time
    lora: LoraConfig = LoraConfig()

    @property
    def mixed(self) -> bool:
        """Float32 weights that are computed in bfloat16 on a GPU."""
        return self.tuning == "full" and self.dtype == "auto"

    @model_validator(mode="after")
    def _four_bits_do_not_learn(self) -> Self:
        if self.quantization == "nf4" and self.tuning == "full":
            raise ValueError("quantization 'nf4' needs tuning 'lora': 4-bit weights take no gradient")
        return self


class PromptConfig(_Section):
    """How a list is put to the model."""

    # text: the answer holds the candidates' texts; label: their labels, [B] > [A]; response: each is a whole answer;
    # pointwise: each has a prompt of its own, whose answer is yes or no
    style: Style = "text"
    labels: Labels = "letters"  # of the style label: [B] > [A]; numbers: [2] > [1]
    # block: a candidate sees what stands before the candidates and itself, the answer all; their order cannot matter
    attention: Attention = "full"
    max_tokens: Annotated[int, Field(ge=32)] = 2048  # prompt + answer
    # A template's name or file, or rank_llm:NAME, one of the package rank_llm; None: the task's own.
    template: str | None = None
    # In place of the tokenizer's own markup of turns: a .jinja file, or vicuna, which is shipped; None: its own.
    chat_template: str | None = None

    @model_validator(mode="after")
    def _labels_are_shown(self) -> Self:
        if self.labels == "numbers" and self.style != "label":
            raise ValueError("labels 'numbers' needs style 'label'")
        return self

    @model_validator(mode="after")
    def _blocks_are_shown(self) -> Self:
        if self.attention == "block" and self.style not in ("label", "text"):
            raise ValueError(f"attention 'block' needs style 'label' or 'text': {self.style!r} shows no list")
        return self


class MethodConfig(_Section):
    """What is optimised, and on which log-probabilities."""

    objective: PluginSpec | None = None
    objectives: tuple[PluginSpec, ...] = ()  # a weighted sum: [{name: irpo, weight: 1}, {name: sft, weight: 0.1}]
    scorer: PluginSpec = {"name": "independent"}
    length: Literal["sum", "mean"] = "sum"  # a candidate's log-probability: over its tokens, in nats
    reference: Literal["adapters_off", "precomputed", "none"] = "adapters_off"
    nll_weight: Annotated[float, Field(ge=0)] = 0.0  # of the anchor: the target list's NLL, the mean over its tokens

    @model_validator(mode="after")
    def _one_way_of_naming_it(self) -> Self:
        if (self.objective is None) == (not self.objectives):
            raise ValueError("give either 'objective' or the list 'objectives' (and set the other to null or [])")
        return self

    @property
    def title(self) -> str:
        """The objective's name, or those of a sum."""
        parts = (self.objective,) if self.objective else self.objectives
        return " + ".join(f"{p['weight']:g} {p['name']}" if "weight" in p else str(p["name"]) for p in parts)


class TrainingConfig(_Section):
    """The optimiser's loop. An update is one optimiser step."""

    lists_per_update: Positive = 32  # lists between optimiser steps, all micro-batches together
    # Tokens of one forward pass; changes memory and speed, never the result. Halved where memory runs out.
    tokens_per_batch: Positive = 8192
    updates: Positive | None = None  # None: as many as `epochs` gives
    epochs: Annotated[float, Field(gt=0)] = 1.0  # passes over the training lists; ignored where `updates` is given
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5  # peak, after warm-up
    warmup_fraction: Fraction = 0.05  # of all updates
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after warm-up
    # Of AdamW's moments: float32, or 8 bits in pages that move to the CPU where a GPU's memory is short (a GPU only).
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    validation_fraction: Fraction = 0.1  # of the training lists, chosen by a hash of their group or id
    max_validation_lists: Positive = 200
    max_lists: Positive | None = None  # of those left to train on, the first so many; None: all
    # None: lists in memory, shuffled whole. A number: the lists of a folder that `irpo prepare` wrote (task `prepared`)
    # are read from disk in an order that a buffer of so many makes; of all lists no more are held in memory.
    shuffle_buffer: Positive | None = None
    # That put lists as prompts and tokens while the model computes; changes speed, never the result. None: none on a
    # CPU, whose cores training takes itself; where a GPU computes four, or one less than there are cores.
    encoding_processes: Annotated[int, Field(ge=0)] | None = None
    evaluate_every: Positive | None = None  # updates between validations; None: ten validations in the run
    patience: Positive | None = None  # validations without a better NDCG@10 before stopping; None: never stop early
    report_to: tuple[str, ...] = ()  # trackers: tensorboard, wandb, trackio
    logging_every: Positive = 10  # updates


class EvaluationConfig(_Section):
    """How a ranker is measured."""

    modes: Annotated[tuple[PluginSpec, ...], Field(min_length=1)] = tuple(
        {"name": name} for name in ("score", "generate", "constrain")
    )
    measures: Annotated[tuple[MeasureName, ...], Field(min_length=1)] = MEASURES  # NDCG@10, or the first, is the main
    lists_per_batch: Positive | None = None  # None: as many as the device holds
    max_lists: Positive | None = None  # None: all of them


class RankingConfig(_Section):
    """How a user ranks with the run, and so what its checkpoint is chosen by."""

    # score = log pi_ref + strength (log pi - log pi_ref), log pi_ref with the adapter off: 1 is the policy; reward, the
    # limit, their difference alone; auto the best of a grid on the validation lists (irpo/scoring/strength.py), and 1
    # where there is no such list, or no adapter
    strength: Literal["reward", "auto"] | Annotated[float, Field(gt=0)] = 1.0
    strength_by: Literal["logits", "adapter"] = "logits"  # two passes; or one, the adapter scaled: an approximation
    # softmax(score / temperature) over a list are the probabilities; auto: fitted on the validation lists; None: none
    temperature: Literal["auto"] | Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _an_adapter_has_no_reward(self) -> Self:
        if (self.strength, self.strength_by) == ("reward", "adapter"):
            raise ValueError("strength 'reward' is a difference of two passes: set strength_by to 'logits'")
        return self


class OnlineConfig(_Section):
    """Rounds of drawing answers from the policy and training on them, instead of one pass over the given lists."""

    method: PluginSpec  # iterative, reinforce, larpo or your own, with its options; `irpo list on_policy`
    rounds: Positive = 5
    updates_per_round: Positive = 20  # takes the place of training.updates and training.epochs
    prompts_per_round: Positive | None = None  # None: as many as the round's updates need
    samples: Positive = 4  # answers to each prompt
    # constrained: along the walks of constrained decoding, so that every answer is whole; probabilities, in training as
    # well, are then those among what was allowed
    draw: Literal["free", "constrained"] = "free"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_response_tokens: Positive | None = None  # None: a complete list and a few more; needed in the style response
    sampler: PluginSpec = {"name": "transformers"}
    reference: Literal["first", "previous"] = "first"  # the policy before the first round, or before this round
    min_valid: Positive = 8  # lists that a round must yield

    @model_validator(mode="before")
    @classmethod
    def _not_the_old_shape(cls, given: Any) -> Any:
        moved = ("name", "reward", "memory", "negatives", "high_temperature", "labels", "pass_reward")
        old = [key for key in moved if isinstance(given, dict) and key in given]
        if old:
            options = ", ".join(f"{key}: ..." for key in dict.fromkeys(["name", *old]))
            raise ValueError(f"{', '.join(old)} moved into the method: write online.method: {{{options}}}")
        return given


class RunConfig(_Section):
    """One training run, whole."""

    model: ModelConfig
    task: PluginSpec
    method: MethodConfig
    prompt: PromptConfig = PromptConfig()
    training: TrainingConfig = TrainingConfig()
    online: OnlineConfig | None = None  # None: offline, on the task's lists as they are
    evaluation: EvaluationConfig = EvaluationConfig()
    ranking: RankingConfig = RankingConfig()
    skip_bad_rows: bool = False  # count and leave out rows that cannot be read, instead of stopping at the first
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of order, adapter, dropout, sampling; tasks have their own
    plugins: tuple[PluginModule, ...] = ()  # modules to import, so that they register the user's plug-ins

    @model_validator(mode="after")
    def _reference_exists(self) -> Self:
        if self.model.tuning == "full" and self.method.reference == "adapters_off":
            raise ValueError(
                "method.reference 'adapters_off' needs model.tuning 'lora'; "
                "with 'full' choose method.reference precomputed or none"
            )
        first = self.online is not None and self.online.reference == "first"
        if first and self.model.tuning == "full" and self.method.reference != "none":
            raise ValueError("online.reference 'first' needs model.tuning 'lora'; with 'full' choose previous")
        if self.model.tuning == "full" and self.ranking.strength not in (1, "auto"):
            raise ValueError(
                "ranking.strength needs model.tuning 'lora': its reference is the model with the adapter off"
            )
        return self

    @model_validator(mode="after")
    def _a_stream_is_of_prepared_lists(self) -> Self:
        t = self.training
        if t.shuffle_buffer is None:
            return self
        what = f"training.shuffle_buffer = {t.shuffle_buffer} reads lists from disk"
        if self.task["name"] != "prepared":
            raise ValueError(
                f"{what}: run `irpo prepare` first, and take task {{name: prepared, data: FOLDER}}; the task is "
                f"{self.task['name']!r}"
            )
        if self.online is not None:
            raise ValueError(f"{what}; online.method draws from lists in memory: leave one of the two out")
        if t.max_lists is not None:
            raise ValueError(f"{what}; training.max_lists counts lists in memory: set training.updates instead")
        return self

    @property
    def ranks(self) -> RankingConfig:
        """How the run can rank: without an adapter `auto` has nothing to choose from, and is the policy."""
        if self.ranking.strength == "auto" and self.model.tuning == "full":
            return self.ranking.model_copy(update={"strength": 1.0})
        return self.ranking


class ScoringConfig(_Section):
    """Of a method, what is left where nothing is trained."""

    scorer: PluginSpec = {"name": "independent"}
    length: Literal["sum", "mean"] = "sum"


class RankerConfig(_Section):
    """A model that ranks as it is: how it is loaded, asked, scored and measured. Any of a run's layers may say it."""

    model: ModelConfig
    prompt: PromptConfig = PromptConfig()
    method: ScoringConfig = ScoringConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    plugins: tuple[PluginModule, ...] = ()

    @classmethod
    def of(cls, run: RunConfig) -> RankerConfig:
        """How a run's model ranks; its template is the task's own where it named none."""
        return cls(
            model=run.model,
            prompt=run.prompt.model_copy(update={"template": run.prompt.template or str(run.task["name"])}),
            method=ScoringConfig(scorer=run.method.scorer, length=run.method.length),
            evaluation=run.evaluation,
            plugins=run.plugins,
        )


def load_ranker(file: str | Path) -> RankerConfig:
    """A ranker's configuration: a file of YAML, or a shipped one such as `rankers/first.yaml`."""
    layers = layered([file])
    try:
        return RankerConfig.model_validate(layers.merged)
    except ValidationError as error:
        raise user_error(error, layers, RankerConfig) from None


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Merge YAML files in order, then `key.sub=value` overrides, and validate the whole.

    A file that is not there is looked for among the shipped configurations. Mappings merge, everything else
    replaces; a plug-in's mapping with another `name` replaces the earlier one, options and all.
    """
    return config_of(layered(files, overrides))


def layered(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Layers:
    """The layers merged, and where each key was set; nothing is validated."""
    layers = Layers()
    for file in files:
        layers.add_file(file)
    for override in overrides:
        layers.add_override(override)
    return layers


def config_of(layers: Layers) -> RunConfig:
    """The merged layers as a run's configuration; plug-ins are resolved later."""
    try:
        return RunConfig.model_validate(layers.merged)
    except ValidationError as error:
        raise user_error(error, layers, RunConfig) from None


def to_yaml(config: RunConfig) -> str:
    """Every setting, defaults included, in the order of the schema; `load_config` reads it back."""
    return written(config.model_dump(mode="json"))
