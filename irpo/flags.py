"""The flags that several commands take, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irpo import completing as c

MODE = "`irpo list modes` has them: a name, or with options in YAML: '{name: window, size: 20, stride: 10}'."
Options = Annotated[list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Options of the task.")]
Task = Annotated[str, typer.Option(help="The task; `irpo list tasks` shows them.", autocompletion=c.tasks)]
Data = Annotated[str | None, typer.Option(help="The folder or file of the dataset, or `hub` (`hub@REVISION`).")]
Out = Annotated[Path, typer.Option(help="The folder to write.")]
Seed = Annotated[int | None, typer.Option(help="Of list construction and order.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Count and leave out rows that cannot be read.")]
Format = Annotated[
    str,
    typer.Option("--format", help="jsonl, or parquet: shards that are read as a stream.", autocompletion=c.formats),
]
ShardLists = Annotated[int, typer.Option(min=1, help="Lists of a Parquet file, and what a kill loses at most.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes of this machine; the files are the same.")]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", metavar="MODULE", help="Import this plug-in module.")]
TrustPlugins = Annotated[
    bool, typer.Option("--trust-plugins", help="Import the plug-ins that a run's own config.yaml names: they run code.")
]
Model = Annotated[
    str,
    typer.Option(
        help="A run's folder, `embedded`, a model's folder, a hub id (ID@REVISION), or rankers/first.yaml.",
        autocompletion=c.models,
    ),
]
MaxTokens = Annotated[int | None, typer.Option(min=32, help="Of prompt and answer; the run's own if not given.")]
Style = Annotated[
    str | None,
    typer.Option(help="text, label or response; the run's own where it is not given.", autocompletion=c.styles),
]
Strength = Annotated[
    str | None,
    typer.Option(help="How far from the reference: 1, a number, reward; the run's own.", autocompletion=c.strengths),
]
StrengthBy = Annotated[
    str | None, typer.Option(help="logits (two passes) or adapter (one); the run's own.", autocompletion=c.ways)
]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the model: transformers, vllm, or with options in YAML: '{name: transformers, kept: 1}'.",
        autocompletion=c.engines,
    ),
]
EngineUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Of vllm: a running server, http://HOST:PORT; else in this process.")
]
TensorParallel = Annotated[int | None, typer.Option(min=1, help="Of vllm in this process: GPUs that share the model.")]
Runs = Annotated[
    list[str] | None, typer.Option(metavar="NAME=PATH", help="A TREC run file as one more ranker; may be repeated.")
]


Processes = Annotated[int | None, typer.Option(min=1, help="So many on this machine: one a GPU, or of the CPU.")]
Launch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Of --processes: ddp, fsdp2, fsdp2_qlora, zero2, zero3; accelerate's file.",
        autocompletion=c.launches,
    ),
]

Layers = Annotated[
    list[str],
    typer.Argument(metavar="FILE.yaml|KEY=VALUE...", help="Layers, later ones win.", autocompletion=c.layers),
]
