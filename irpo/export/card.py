"""The model card of an exported ranker: what it is, how to use it, how it measures. No path and no row of data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irpo.evaluation.writing import RESULTS
from irpo.export.merging import Plan
from irpo.export.rescoring import EVALUATION, Difference
from irpo.progress import BEST
from irpo.ranking.choosing import spelt
from irpo.runs import DATA_CARD, base_name
from irpo.runs.key import read_json
from irpo.scoring.names import EMBEDDED, is_of_hub, resolve


def card(plan: Plan, difference: Difference | None, licence: str | None, name: str) -> str:
    """README.md of an exported ranker that is known by a `name`, with the hub's metadata."""
    from huggingface_hub import ModelCardData

    config, base = plan.config, base_name(plan.run)
    told = ModelCardData(
        license=licence,
        library_name="transformers" if plan.whole else "peft",
        base_model=resolve(base)[0] if is_of_hub(base) else None,
        pipeline_tag="text-ranking",
        datasets=_datasets(plan) or None,
        tags=["irpo", "reranker", "listwise-ranking"],
    )
    held = " which its weights hold," if plan.scale != 1 else ""
    method = f"objective `{config.method.title}`, scorer `{config.method.scorer['name']}`"
    return "\n".join(
        [
            f"---\n{told.to_yaml()}\n---",
            f"# {config.method.title} on {config.task['name']}",
            "",
            f"A listwise reranker: {_what(plan)}, trained with `irpo` ({method}, style `{config.prompt.style}`). "
            f"It ranks at strength {spelt(plan.strength)},{held} by the prompt that lies beside it.",
            "",
            *_use(plan, name),
            "",
            "## Measures",
            *(_measures(plan, difference) or ["Nothing was measured on lists that no choice has seen."]),
            *(["", f"- As exported against the run: {difference}."] if difference else []),
            "",
        ]
    )


def _what(plan: Plan) -> str:
    base = base_name(plan.run)
    known = f"`{base}`" if is_of_hub(base) or base == EMBEDDED else "a model that is not on the hub"
    if not plan.whole:
        return f"a LoRA adapter for {known}"
    four = ", whose base was in 4 bits while it was trained" if plan.config.model.quantization == "nf4" else ""
    learnt = "all weights" if plan.config.model.tuning == "full" else "a LoRA adapter merged into the weights"
    return f"{learnt} of {known} ({plan.dtype}{four})"


def _use(plan: Plan, name: str) -> list[str]:
    lines = [
        "```",
        f'irpo rank --model {name} "query" "first document" "second document"',
        "```",
        "",
        "```python",
        "import irpo",
        "",
        f'for row in irpo.Reranker.load("{name}").rank("query", ["first document", "second document"]):',
        "    print(row.rank, row.text, row.score)",
        "```",
    ]
    if plan.whole:
        lines += [
            "",
            "The weights are a plain causal language model, for `transformers`, vLLM and whatever reads these.",
        ]
    return lines


def _datasets(plan: Plan) -> list[str]:
    """The hub's datasets that the run's lists came from, as its data card tells them."""
    sources = read_json(Path(plan.run) / DATA_CARD).get("sources", {})
    # hub:OWNER/NAME/SPLIT, some with a configuration between; one that is older than owners has none.
    named = [name.removeprefix("hub:").split("/")[:-1][:2] for name in sources if name.startswith("hub:")]
    return sorted({"/".join(parts) for parts in named})


def _measures(plan: Plan, difference: Difference | None) -> list[str]:
    """The table of the run's evaluation, and of the untrained model where that was measured, too; else nothing.

    Where the exported ranker ranks at another strength its own row is what re-scoring says, which has no interval.
    """
    told = read_json(Path(plan.run) / "evaluation" / RESULTS)
    base = read_json(Path(plan.run) / "base" / RESULTS)
    same = _measured(told) == _measured(base) and "ranker" not in base.get("about", {})
    if not told.get("rows"):
        return []
    measured = told.get("setting", {}).get("strength", spelt(plan.was))
    own = measured == spelt(plan.strength)
    rows = [
        *_rows("untrained", base if same else {}),
        *_rows("this ranker" if own else f"the run, at strength {measured}", told),
        *([] if own or difference is None else _rescored(told, difference)),
    ]
    measure, task = told["main_measure"], told["about"]["task"]
    return [
        f"{measure} on {told['lists']} evaluation lists of `{task}`; the run's strength was {spelt(plan.was)}.",
        "",
        f"| | mode | {measure} | 95 % |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def _rescored(told: Mapping[str, Any], difference: Difference) -> list[str]:
    """The exported ranker's row, where it was re-scored by the measure and on lists of the kind that the table has."""
    if told["main_measure"] != BEST or difference.of != EVALUATION:
        return []
    return [f"| this ranker, on {difference.lists} lists | score | {difference.after:.4f} | |"]


def _measured(told: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which model, below a run, was measured on which lists."""
    about = told.get("about", {})
    return told.get("lists"), about.get("lists_sha256"), about.get("model")


def _rows(who: str, told: Mapping[str, Any]) -> list[str]:
    measure, found = told.get("main_measure", ""), []
    for row in told.get("rows", []):
        if row.get("mode") is not None and measure in row.get("measures", {}):
            low, high = row["interval"]
            found.append(f"| {who} | {row['name']} | {row['measures'][measure]:.4f} | {low:.4f} to {high:.4f} |")
    return found
