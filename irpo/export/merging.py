"""What of a run's strength and base can leave it: which adapter is merged into what, and which choice travels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irpo.config.schema import RunConfig
from irpo.ranking.choosing import Choice, choice_of_run, spelt, strengthened
from irpo.runs import learnt, load_weights, model_below, run_config
from irpo.scoring.models import LoadOptions
from irpo.scoring.names import EMBEDDED, is_of_hub
from irpo.scoring.strength import PLAIN, Strength, StrengthBy, adapter_scaled
from irpo.types import UserError


@dataclass(frozen=True)
class Plan:
    """A run and how it leaves: whole weights of a dtype, or its adapter alone."""

    run: str
    config: RunConfig  # the base of the hub at the commit that it had
    whole: bool
    dtype: str  # of whole weights
    choice: Choice  # that travels: what the exported ranker ranks at
    scale: float = 1.0  # of the adapter, where it is merged
    was: Strength = PLAIN  # the run's own

    @property
    def base(self) -> str:
        """The model that the run was trained on."""
        return self.config.model.name

    @property
    def strength(self) -> Strength:
        """What the exported ranker ranks at, in the run's terms: an adapter that is merged larger is one by adapter."""
        return Strength(self.scale, "adapter") if self.scale != 1 else self.choice.strength

    @property
    def strengthened(self) -> bool:
        """Whether that is another strength than the run's own."""
        return spelt(self.strength) != spelt(self.was)


def plan_of(
    run: str, *, merge: bool, dtype: str = "bfloat16", strength: float | None = None, by: StrengthBy | None = None
) -> Plan:
    """How a run is to be exported; `UserError` where it cannot rank so from a folder of its own."""
    config = run_config(run)
    if config is None:
        raise UserError(f"--model {run}: this is no run's folder, which is what can be exported")
    if not (Path(run) / learnt(config.model.tuning)).is_dir():
        raise UserError(
            f"{run}: the run has not finished, and holds no {learnt(config.model.tuning)!r}: train --resume"
        )
    model = config.model.model_copy(update={"name": model_below(run) or config.model.name})
    config, own = config.model_copy(update={"model": model}), choice_of_run(run, config)
    choice = strengthened(own, strength, by)
    if config.model.tuning == "full":
        choice.strength.require_adapter(False)
        return Plan(run, config, True, dtype, choice, was=own.strength)
    if not merge:
        _require_base(run, config)
        return Plan(run, config, False, dtype, choice, was=own.strength)
    merged, scale = merged_choice(run, choice)
    return Plan(run, config, True, dtype, merged, scale, own.strength)


def merged_choice(run: str, choice: Choice) -> tuple[Choice, float]:
    """What a merged model ranks at, and how large its adapter is when it is merged.

    A strength by logits is log pi_ref + lambda (log pi - log pi_ref), of two models: no single one has these scores.
    By adapter it is one model, W + lambda (alpha / r) B A, which is what is merged then; its scores, and so the
    temperature that was fitted to them, stay as they are.
    """
    strength = choice.strength
    if strength.plain or strength.by == "adapter":
        return Choice(temperature=choice.temperature), strength.value
    scaled = f", --strength-by adapter (what is merged is scaled by {strength.value:g}, an approximation)"
    by_adapter = "" if math.isinf(strength.value) else scaled
    raise UserError(
        f"{run} ranks at strength {spelt(strength)}, which compares the model with its adapter off; a merged model has "
        f"none to switch off: add --strength 1 (the policy){by_adapter}, or export without --merge, which keeps it"
    )


def _require_base(run: str, config: RunConfig) -> None:
    """`UserError` where an adapter alone would be of no use elsewhere: its base is not to be had there."""
    base = config.model.name
    if base != EMBEDDED and not is_of_hub(base):
        what = "another run" if run_config(base) is not None else "a folder of this machine"
        raise UserError(f"{run}: its base, {base}, is {what}, which travels with no adapter: add --merge")


def merged_model(plan: Plan) -> Any:
    """The run's model as one, in the plan's dtype: the base unquantized, the adapter, scaled, added to its weights.

    Where the base was trained on in 4 bits this is another base than the adapter saw; re-scoring says how far.
    """
    model = load_weights(plan.run, LoadOptions("none", plan.dtype, plan.config.model.attention))
    if not hasattr(model, "merge_and_unload"):
        return model
    with adapter_scaled(model, plan.scale):
        return model.merge_and_unload(safe_merge=True)
