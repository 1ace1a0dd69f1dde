"""Tiny stand-ins for real models and tokenizers: made in milliseconds, seeded, nothing downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from irpo.prompting.markup import markup_source
from irpo.scoring.attention import use_split_attention
from irpo.scoring.models import LoraOptions, add_lora

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
    "gemma4": {  # heads of two sizes; two layers take the keys and values of the two before, and each an input its own
        "family": "gemma4_text",
        "global_head_dim": 32,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
    },
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


def assert_same_gradients(mine: Sequence[Tensor], others: Sequence[Tensor], atol: float = 1e-4) -> None:
    """Gradients to `atol`, or where there are some above 10 (Gemma 4 has 120) to as much of them: it is float32."""
    largest = max(float(each.abs().max()) for each in others)
    torch.testing.assert_close(mine, others, atol=atol * max(1.0, largest / 10), rtol=1e-4)


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


def with_adapter(base: Any, *, seed: int = 1) -> Any:
    """The model with a LoRA adapter whose update is a random one, and not nothing as a fresh one's is."""
    model = add_lora(base, LoraOptions(r=4), seed=0).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


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


_GPT = r"(?i:'s|'t|'re|'m|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [chr(code) for code in range(33, 127)]


def _byte_level(*, normalizer: Any = None, ignore_merges: bool = False, specials: tuple[str, ...] = ()) -> Tokenizer:
    """As Llama 3 and Qwen cut text; `specials` stand in the model's own vocabulary too."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    cut = pre_tokenizers.Split(Regex(_GPT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=list(specials)
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    return tokenizer


def _pieces(*, normalizer: Any, pre_tokenizer: Any = None, specials: tuple[str, ...]) -> Tokenizer:
    """As SentencePiece's BPE cuts text: blanks begin words, bytes stand for what the vocabulary lacks."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # no piece crosses a blank
    words = ["\u2581" + line.replace(" ", "\u2581") for line in _CORPUS.split("\n")]
    held = ["<unk>", *specials, *_BYTES]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=620, special_tokens=held, show_progress=False))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    written = _alone(tokenizer.to_str())
    made = Tokenizer.from_str(json.dumps(written))
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    return made


def _alone(written: str) -> dict[str, Any]:
    """The model without a cut before it, its added tokens words alone: those that are added get their own flags."""
    return json.loads(written) | {"added_tokens": [], "pre_tokenizer": None}


def _unigram(specials: tuple[str, ...], bytes_: Sequence[str] = (), normalizer: Any = None) -> Tokenizer:
    """A unigram model over NFKC text: the special tokens are pieces that the model itself may choose."""
    words = [("<unk>", 0.0), *((text, 0.0) for text in specials), ("\u2581", -3.0)]
    words += [(letter, -6.0) for letter in _LETTERS] + [(byte, -7.0) for byte in bytes_]
    tokenizer = Tokenizer(models.Unigram([*words, ("\u2581Heat", -4.0)], unk_id=0, byte_fallback=bool(bytes_)))
    tokenizer.normalizer = normalizer or normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _chat(opens: str, closes: str, answers: str) -> str:
    return (
        "{% for m in messages %}{{ '" + opens + "' if m.role == 'user' else '" + answers + "' }}{{ m.content | trim }}"
        "{{ '" + closes + "' }}{% endfor %}{% if add_generation_prompt %}{{ '" + answers + "' }}{% endif %}"
    )


def _flagged(texts: tuple[str, ...], **flags: bool) -> list[AddedToken]:
    return [AddedToken(text, **{"special": True, "normalized": False, **flags}) for text in texts]


def _fast(made: Tokenizer, added: list[AddedToken], template: str | None, **named: str) -> Any:
    made.add_tokens(added)
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **named)


def llama3_like() -> Any:
    """`<|eot_id|>` and its like, special every one of them."""
    headers = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    header = "<|start_header_id|>{}<|end_header_id|>\\n\\n"
    chat = _chat("<|begin_of_text|>" + header.format("user"), "<|eot_id|>", header.format("assistant"))
    added = _flagged((*headers, "<|reserved_special_token_0|>"))
    made = _byte_level(ignore_merges=True, specials=headers)
    return _fast(made, added, chat, bos_token=headers[0], eos_token="<|eot_id|>")


def gemma_like() -> Any:
    """Turns without bars; line breaks, runs of blanks and tags of HTML are added tokens, and text."""
    named = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    made = _pieces(normalizer=normalizers.Replace(" ", "\u2581"), specials=named)
    words = _flagged(("\n", "\n\n", "\u2581\u2581", "<b>", "</b>"), special=False)
    markup = _flagged(("<unused0>", "[multimodal]"), special=False)
    chat = _chat("<bos><start_of_turn>user\\n", "<end_of_turn>\\n", "<start_of_turn>model\\n")
    added = [*_flagged(("<unk>", *named)), *words, *markup]
    return _fast(made, added, chat, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def phi_like() -> Any:
    """Markup that takes the blanks behind it, and a `</s>` without a flag."""
    turns = ("<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
    blanks = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made = _pieces(normalizer=blanks, specials=("<s>", "</s>"))
    added = [
        *_flagged(("<unk>", "<s>", "<|endoftext|>")),
        *_flagged(("</s>",), special=False, rstrip=True),
        *_flagged(turns, rstrip=True),
    ]
    chat = _chat("<|user|>\\n", "<|end|>\\n", "<|assistant|>\\n")
    return _fast(made, added, chat, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>")


def qwen_like() -> Any:
    """NFC, and markup without a flag that its template writes, or does not."""
    added = [
        *_flagged(("<|endoftext|>", "<|im_start|>", "<|im_end|>")),
        *_flagged(("<tool_call>", "</tool_call>", "<think>", "</think>", "<|fim_prefix|>"), special=False),
    ]
    answers = "<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n"
    chat = _chat("<|im_start|>user\\n", "<|im_end|>\\n", answers)
    return _fast(_byte_level(normalizer=normalizers.NFC()), added, chat, eos_token="<|im_end|>")


def mistral_like() -> Any:
    """Square brackets, and blanks that are put before a text."""
    made = _pieces(
        normalizer=normalizers.Sequence([]),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
        specials=("<s>", "</s>", "[INST]", "[/INST]"),
    )
    added = _flagged(("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"))
    chat = _chat("<s>[INST]", "</s>", "[/INST]")
    return _fast(made, added, chat, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram_like() -> Any:
    """Tokens that are matched in the normalised text, as whole words, with the blanks before them, or by the model."""
    held = ("<s>", "</s>", "<mask>")  # <mask> is added nowhere: the model alone knows it
    added = [
        *_flagged(("<s>", "</s>"), normalized=True),
        *_flagged(("<turn>",), normalized=True, lstrip=True, single_word=True),
        *_flagged(("<end>",), lstrip=True, rstrip=True),
    ]
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return _fast(_unigram(held), added, _chat("<s> <turn> user ", "<end>", " <turn> model "), **named)


def llama2_like() -> Any:
    """Turns in square brackets that are plain text, between `<s>` and `</s>`."""
    blanks = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made = _pieces(normalizer=blanks, specials=("<s>", "</s>"))
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' }}"
        "{% elif m.role == 'user' %}{{ '<s>[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
    )
    added = _flagged(("<unk>", "<s>", "</s>"))
    return _fast(made, added, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def vicuna_like() -> Any:
    """Turns that nothing but words opens, as the shipped markup `vicuna` writes them."""
    tokenizer = llama2_like()
    tokenizer.chat_template = markup_source("vicuna")
    return tokenizer


def bytes_like() -> Any:
    """A unigram model that reads `<0x0A>` as a line break, behind a normaliser that drops what has no width."""
    narrow = normalizers.Sequence([normalizers.Replace("\u200b", ""), normalizers.NFKC()])
    held = ("<s>", "</s>", "<turn>", "<end>")
    added = [*_flagged(("<s>", "</s>"), normalized=True), *_flagged(("<turn>", "<end>"), normalized=True)]
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    chat = _chat("<turn>user\n", "<end>\n", "<turn>model\n")
    return _fast(_unigram(held, _BYTES, narrow), added, chat, **named)


PLAIN_LIKE = {"llama2": llama2_like, "vicuna": vicuna_like, "bytes": bytes_like}  # markup and bytes in plain letters
LIKE = {
    "llama3": llama3_like,
    "gemma": gemma_like,
    "phi": phi_like,
    "qwen": qwen_like,
    "mistral": mistral_like,
    "unigram": unigram_like,
}
