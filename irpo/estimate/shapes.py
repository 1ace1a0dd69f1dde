"""Shapes of the models that the shipped configurations name, as their publishers' config.json have them.

Those that no config.json was at hand for are as the library litgpt lists them; which heads are tied is told by the
models' numbers of parameters. With them a run can be estimated, and benchmarks can draw random weights, where no hub
can be asked.
"""

from __future__ import annotations

from typing import Any

PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B-Instruct": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "meta-llama/Llama-3.2-1B-Instruct": {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
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
    "microsoft/Phi-4-mini-instruct": {
        "model_type": "phi3",
        "tie_word_embeddings": True,
        "vocab_size": 200064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "pad_token_id": 199999,  # nosec B105 # a token's number
        "bos_token_id": 199999,  # nosec B105 # a token's number
        "eos_token_id": 199999,  # nosec B105 # a token's number
        "max_position_embeddings": 131072,
    },
    "mistralai/Mistral-7B-Instruct-v0.3": {
        "model_type": "mistral",
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "sliding_window": None,
        "max_position_embeddings": 32768,
    },
    "Qwen/Qwen3-4B-Instruct-2507": {
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
    },
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
    },
}


def published(name: str) -> Any:
    """The configuration of a model by its hub id; None where its shape does not stand here."""
    from transformers import CONFIG_MAPPING

    told = dict(PUBLISHED.get(name.partition("@")[0], {}))
    return CONFIG_MAPPING[told.pop("model_type")](**told) if told else None
