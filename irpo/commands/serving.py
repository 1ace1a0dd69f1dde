"""The command that serves a ranker: `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irpo import completing, flags, words


def serve(
    model: flags.Model,
    host: Annotated[str, typer.Option(help="The address to listen at; by default this machine alone reaches it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8080,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN", help="One more ranker on the same base, by `model`; may be repeated."),
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of keys, one a line, one of which requests need; or IRPO_API_KEYS.")
    ] = None,
    mode: Annotated[str, typer.Option(help=flags.MODE, autocompletion=completing.modes)] = "score",
    style: flags.Style = None,
    strength: flags.Strength = None,
    strength_by: flags.StrengthBy = None,
    max_tokens: flags.MaxTokens = None,
    max_body: Annotated[float, typer.Option(metavar="MIB", help="Of a request's body.")] = 4,
    max_documents: Annotated[int, typer.Option(min=1, help="Of a request.")] = 1000,
    max_text_tokens: Annotated[int, typer.Option(min=1, help="Of the query, and of each document.")] = 32_768,
    max_request_tokens: Annotated[int, typer.Option(min=1, help="Of the query and all documents.")] = 262_144,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more hears 429.")] = 256,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For a request's body, and for its ranking.")] = 60,
    plugin: flags.Plugins = None,
    trust_plugins: flags.TrustPlugins = False,
    engine: flags.Engine = "transformers",
    engine_url: flags.EngineUrl = None,
    tensor_parallel: flags.TensorParallel = None,
) -> None:
    """Serve a ranker over HTTP: /v1/rerank, /v2/rerank, /rerank, and a page at / for people."""
    from irpo import api, server
    from irpo.progress import say
    from irpo.server.adapters import shared_base
    from irpo.server.addresses import is_loopback, listening
    from irpo.server.keys import ENVIRONMENT, read_keys
    from irpo.server.limits import Limits

    server.require_packages()
    limits = Limits(
        body_mib=max_body,
        documents=max_documents,
        text_tokens=max_text_tokens,
        tokens=max_request_tokens,
        queue=queue,
        timeout=timeout,
    )
    adapters, keys = dict(words.named_paths(adapter or (), "--adapter")), read_keys(api_keys)
    shared_base(model, adapters)
    bound = listening(host, port)
    if not keys and not is_loopback(host):
        say(f"note: --host {host} without --api-keys or {ENVIRONMENT}: whoever reaches this address may ask it")
    words.load_modules(plugin)
    for run in [model, *map(str, adapters.values())]:
        api.run_of(run, trust_plugins=trust_plugins)
    (chosen,), checked = api.require_modes([words.mode_of(mode)]), api.require_style(style)
    value, by = api.require_strength(strength, strength_by)
    by_what = api.require_engine(words.engine_of(engine, engine_url, tensor_parallel))
    api.require_model(model)
    loaded = {"style": checked, "max_tokens": max_tokens, "strength": value, "strength_by": by, "engine": by_what}
    loaded["trust_plugins"] = trust_plugins
    others = f" and {len(adapters)} more on its base" if adapters else ""
    say(f"loading {model}{others}; the address follows when it is served")
    server.serve(model, adapters, bound, mode=chosen, limits=limits, keys=keys, loaded=loaded)
