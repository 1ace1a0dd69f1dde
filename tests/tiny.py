"""Tiny stand-ins for real models and tokenizers: made in milliseconds, seeded, nothing downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from irpo.attention import use_split_attention

FAMILIES = ("llama", "gemma2", "gemma3", "phi3", "qwen3", "mistral")
VOCABULARY = 320  # the tokenizer's size: specials, 256 bytes, then merges

PAD, BOS, EOS, END = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>"  # END closes a turn
_SPECIALS = (PAD, BOS, EOS, END, "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_CORPUS = (
    "1. Alien\n2. Aliens\n3. Heat\n4. The Matrix\n5. The Godfather\nRank the movies for the viewer, best first.\n"
    "[B] > [A] > [C]\nA question and ten passages; the answer is a list.\n"
)

# Soft-caps are low, so that a code that drops them is far off. One sliding and one full layer where a family has both.
_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "gemma2": {
        "family": "gemma2",
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3": {
        "family": "gemma3_text",
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {"family": "phi3", "sliding_window": None},
    "qwen3": {"family": "qwen3"},
    "mistral": {"family": "mistral"},
}

_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

# Families that mix attention with other layers: one layer of each, or (Falcon-H1) both in every layer.
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        **_LINEAR,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "qwen3_5_text": {**_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
        "num_local_experts": 0,
        "shared_intermediate_size": 128,
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "ssm_state_size": 16,
        "n_groups": 2,
        "chunk_size": 16,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
    },
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
        "lm_head_multiplier": 0.5,
    },
}
_FAMILY |= {name: {"family": name, **config} for name, config in HYBRIDS.items()}


def tiny_model(family: str = "llama", *, seed: int = 0, attention: str | None = None, **config: Any) -> Any:
    """A random 2-layer model of a family, hidden size 64, float32, in eval mode; `config` overrides its config.

    A short sliding window: `tiny_model("gemma2", sliding_window=8)`, `tiny_model("mistral", sliding_window=8)`,
    `tiny_model("qwen3", sliding_window=8, use_sliding_window=True, layer_types=["sliding_attention"] * 2)`.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,  # wide enough that the next token depends on the text
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_FAMILY[family],
        **config,
    }
    made = CONFIG_MAPPING[settings.pop("family")](**settings)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made, dtype=torch.float32, **options).eval()
    return use_split_attention(model) if attention is None else model  # as load_model does


@cache
def _trained(corpus: str) -> str:
    """A byte-level BPE whose tokens never straddle a newline, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split("\n", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer.to_str()


def tiny_tokenizer(*, chat: bool = True, corpus: str = _CORPUS) -> Any:
    """A byte-level BPE tokenizer trained on a few lines, with a chat template (`<|end|>` closes a turn) or without.

    Ids: pad 0, bos 1 (put before a text that is not chat), eos 2, end of turn 3; at most `VOCABULARY` tokens.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(corpus)),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(_SPECIALS[3:]),
        chat_template=_TEMPLATE if chat else None,
        clean_up_tokenization_spaces=False,
    )
