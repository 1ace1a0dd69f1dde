"""Tokens of a list: what is scored is what the whole text would be tokenized to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from training_lists import encoded, examples
from transformers import PreTrainedTokenizerFast

from irpo.prompting.prompts import Prompt
from irpo.scorers import SCORERS
from irpo.scoring.batching import MAX_PADDING, make_batch, pack
from irpo.scoring.layout import NO_PLACE, Layout, in_budget
from irpo.scoring.masks import block_mask, visible
from irpo.scoring.tokens import encode

CORPUS = ["1. Alien\n2. Aliens\n10. Heat\nThe Matrix (1999)\n[A] > [B] > [C]\n", "film numbers 1 2 3, and [A] [B]"]
GPT = r"(?i:'s|'t|'re|'m|'ll)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama3_like():
    """Byte-level BPE behind Llama 3's pattern, in which `[A` may be one token."""
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(GPT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS * 50,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["<eos>"]),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def llama2_like():
    """SentencePiece-like BPE: blanks are part of tokens, bytes for the rest, no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = [w for text in CORPUS for line in text.split("\n") for w in ["▁" + line.replace(" ", "▁")]]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer.train_from_iterator(
        words * 20, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<eos>", *bytes_], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


TOKENIZERS = {"llama3": llama3_like(), "tiny": tiny_tokenizer(chat=False)}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_pieces_are_the_whole_texts_tokens(tokenizer):
    """Encoding line by line gives what encoding prompt and answer at once gives."""
    names = (
        "Alien",
        "Aliens",
        "Heat",
        "The Matrix (1999)",
        "Über  x".replace("  ", " "),
        "10. x",
        "a",
        "b",
        "c",
        "d",
        "e",
    )
    prompt = Prompt("Rank these.\n\nAnswer:\n", names, "text", chat=True)
    item = encode(tokenizer, prompt, [1.0] * len(names))
    order = list(range(len(names)))[::-1]
    whole = tokenizer(prompt.text + prompt.form.write([names[j] for j in order]), add_special_tokens=False)["input_ids"]
    assert item.prompt + item.answer(order) == (*whole, tokenizer.eos_token_id)


def test_pieces_decode_to_the_answer_without_a_pretokenizer():
    tokenizer = llama2_like()
    names = ("Alien", "Aliens", "Heat")
    item = encode(tokenizer, Prompt("Rank.\n", names, "text", chat=True), [1.0] * 3)
    tokens = tokenizer.convert_ids_to_tokens(item.answer((1, 0, 2))[:-1])
    text = "".join("\n" if t == "<0x0A>" else t for t in tokens).replace("▁", " ")
    assert text == "1. Aliens\n2. Alien\n3. Heat\n"


@pytest.mark.parametrize("tokenizer", [*TOKENIZERS.values(), llama2_like()], ids=[*TOKENIZERS, "llama2"])
def test_labels_stay_one_token_each(tokenizer):
    """In Llama 3's vocabulary `[A` is one token; all K labels must still be read at one position."""
    item = encode(tokenizer, Prompt("Rank.\n", tuple("ABC"), "label", chat=True), [1.0] * 3)
    assert [len(body) for body in item.bodies] == [1, 1, 1]
    assert len(set(item.bodies)) == 3


def test_a_span_ends_where_no_other_name_goes_on():
    """No body is the beginning of another, "Alien" of "Aliens" least of all."""
    bodies = encode(tiny_tokenizer(), Prompt("x\n", ("Alien", "Aliens"), "text", chat=True), [1, 0]).bodies
    assert bodies[1][: len(bodies[0])] != bodies[0]


def test_the_next_token_shift():
    """Token t of a branch is read at the column of token t - 1, the first at the trunk's end; the last is not fed."""
    layout = Layout(size=1)
    layout.grow_trunk([10, 11, 12])
    layout.add_branch(3, [20, 21, 22], [0, NO_PLACE, 0])
    assert layout.ids == [10, 11, 12, 20, 21]
    assert layout.positions == [0, 1, 2, 3, 4]
    assert layout.reads == [(2, 20, 0), (4, 22, 0)]


def test_a_row_holds_its_prompt_once():
    item = encoded()[0]
    layout = SCORERS.build("independent").layout(item)
    fed = sum(len(body) - 1 for body in item.bodies)
    assert len(layout.ids) == len(item.prompt) + len(item.heads[0]) + fed


def test_only_item_tokens_reach_the_head():
    items = encoded()
    batch = make_batch(items, SCORERS.build("independent"))
    ends = sum(1 + sum(len(body) - 1 for body in item.bodies) for item in items)
    assert len(batch.cells) == ends
    assert len(batch.read_token) == sum(len(body) for item in items for body in item.bodies)


def test_withheld_labels_are_all_zero():
    item = encoded()[0]
    assert max(item.relevance) > 0
    assert set(item.without_labels().relevance) == {0.0}
    assert [c.relevance for c in examples()[0].candidates] == list(item.relevance)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_a_block_mask_sees_what_the_dense_mask_sees(window, left):
    batch = make_batch([*encoded(), *encoded()], SCORERS.build("independent"), target=True, left=left)
    rows, columns = batch.ids.shape
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), torch.arange(columns), indexing="ij")
    found = block_mask(batch, window).mask_mod(grid[0], torch.tensor(0), grid[1], grid[2])
    real = (batch.lists != -1)[:, :, None]  # what a padding column sees nobody reads
    assert torch.equal(found & real, visible(batch, window) & real)


@pytest.mark.parametrize("scorer", ["independent", "label"])
@pytest.mark.parametrize("left", [False, True])
def test_columns_before_the_mask_are_the_trunk_of_every_row(scorer, left):
    items = encoded("label") if scorer == "label" else [*encoded(), *encoded()]
    batch = make_batch(items, SCORERS.build(scorer), left=left)
    rows, columns = batch.ids.shape
    causal = torch.ones(columns, columns, dtype=torch.bool).tril().expand(rows, -1, -1)
    seen = visible(batch)
    assert torch.equal(seen[:, : batch.trunk], causal[:, : batch.trunk])
    assert torch.equal(visible(batch, first=batch.trunk), seen[:, batch.trunk :])
    behind = seen[:, batch.trunk :, batch.trunk :].any(0)
    assert list(batch.reach) == [batch.trunk + int(columns.nonzero()[0]) for columns in behind]
    assert batch.lead == batch.trunk
    first_of_row = [min(column for column in range(columns) if batch.lists[row, column] >= 0) for row in range(rows)]
    if max(first_of_row) == 0:
        shortest = min(len(items[batch.lists[row, 0]].prompt) for row in range(rows))
        assert shortest <= batch.trunk < columns


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_packing_places_every_list_once_with_little_padding(lengths):
    rows = pack(lengths)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    width = max(sum(lengths[index] for index in row) for row in rows)
    assert 1 - sum(lengths) / (len(rows) * width) < MAX_PADDING


def test_lists_of_one_length_have_a_row_each():
    assert sorted(pack([7] * 5)) == [[0], [1], [2], [3], [4]]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_groups_keep_to_the_token_budget(lengths, budget):
    layouts = [Layout(1, ids=[0] * length) for length in lengths]
    groups = in_budget(layouts, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= budget for group in groups)
