"""Shapes of the models that the shipped configurations name, as their publishers' config.json have them.

With them a run can be estimated, and benchmarks can draw random weights, where no hub can be asked.
"""

from __future__ import annotations

from typing import Any

PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-3B-Instruct": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "vocab_size": 128256,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "google/gemma-2-2b-it": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
    },
    "microsoft/Phi-3-mini-4k-instruct": {
        "model_type": "phi3",
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "pad_token_id": 0,  # nosec B105 # a token's number
        "max_position_embeddings": 4096,
    },
}


def published(name: str) -> Any:
    """The configuration of a model by its hub id; None where its shape does not stand here."""
    from transformers import CONFIG_MAPPING

    told = dict(PUBLISHED.get(name.partition("@")[0], {}))
    return CONFIG_MAPPING[told.pop("model_type")](**told) if told else None
