"""Prompts: the answer's form, chat markup, and the one budget."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from irpo.prompting.prompts import (
    PLAIN_HEADER,
    AnswerForm,
    PromptBuilder,
    Template,
    cut_to_tokens,
    end_of_turn,
    label_names,
    load_template,
    markup,
)
from irpo.types import Candidate, RankingExample, UserError

TOKENIZER = tiny_tokenizer()
HEADER = "<|assistant|>\n"
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}- {{ c.name }}: {{ c.text }}\n{% endfor %}")
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=60).filter(
    str.strip
)


def example(query, texts):
    return RankingExample("x", query, tuple(Candidate(str(j), t, j == 0) for j, t in enumerate(texts)))


def test_an_answer_is_written_in_two_styles():
    assert AnswerForm("text").write(["Alien", "Heat"]) == "1. Alien\n2. Heat\n"
    assert AnswerForm("label").write(["C", "A", "B"]) == "[C] > [A] > [B]"


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    query=WORDS,
    texts=st.lists(WORDS, min_size=2, max_size=6),
    limit=st.integers(60, 400),
    style=st.sampled_from(["text", "label"]),
)
def test_the_budget_holds(query, texts, limit, style):
    """Whatever comes in, what comes out fits, shows every candidate, and ends in the whole assistant's header."""
    builder = PromptBuilder(TOKENIZER, TEMPLATE, style, limit)
    try:
        prompt = builder.build(example(query, texts))
    except UserError as error:
        assert "prompt.max_tokens is" in str(error)  # noqa: PT017
        return
    assert builder.length(prompt) <= limit
    assert prompt.text.endswith(HEADER)
    assert len(prompt.names) == len(texts)
    assert all(name.strip() for name in prompt.names)
    if prompt.query_tokens_cut == prompt.candidate_tokens_cut == 0:
        assert query.strip() in prompt.text


def test_candidates_are_cut_before_the_query_and_the_query_at_its_start():
    texts = ["alpha " * 30, "beta " * 30]
    query = "oldest " * 20 + "newest"
    whole = PromptBuilder(TOKENIZER, TEMPLATE, "label", 4000).build(example(query, texts))
    assert (whole.candidate_tokens_cut, whole.query_tokens_cut) == (0, 0)
    length = PromptBuilder(TOKENIZER, TEMPLATE, "label", 4000).length(whole)
    slightly = PromptBuilder(TOKENIZER, TEMPLATE, "label", length - 20).build(example(query, texts))
    assert slightly.candidate_tokens_cut > 0
    assert slightly.query_tokens_cut == 0
    much = PromptBuilder(TOKENIZER, TEMPLATE, "label", 120).build(example(query, texts))
    assert much.query_tokens_cut > 0
    assert "newest" in much.text
    assert query not in much.text


def test_a_list_that_cannot_fit_says_what_it_needs():
    with pytest.raises(UserError, match=r"40 candidates need at least .* tokens .*prompt.max_tokens is 64"):
        PromptBuilder(TOKENIZER, TEMPLATE, "text", 64).build(example("q", [f"item number {j}" for j in range(40)]))


def test_markup_falls_back_to_plain_text():
    assert markup(TOKENIZER, "hello") == ("<|bos|><|user|>\nhello<|end|>\n" + HEADER, True)
    assert markup(tiny_tokenizer(chat=False), "hello") == ("hello" + PLAIN_HEADER, False)


def test_the_day_does_not_change_a_prompt():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ date_string if date_string is defined else strftime_now('%d') }}{{ messages[0].content }}"
    )
    assert markup(tokenizer, "x")[0] == "26 Jul 2024x"


def test_the_end_of_turn_is_the_templates_then_eos():
    assert end_of_turn(TOKENIZER) == 3
    assert end_of_turn(tiny_tokenizer(chat=False)) == TOKENIZER.eos_token_id


def test_labels_are_single_tokens():
    names = label_names(TOKENIZER, 26)
    assert names == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    with pytest.raises(UserError, match=r"single tokens for .* labels; the list has 700 candidates"):
        label_names(TOKENIZER, 700)


@given(text=WORDS, limit=st.integers(0, 20))
@settings(max_examples=50)
def test_a_cut_text_is_a_part_of_it(text, limit):
    assert text.startswith(cut_to_tokens(TOKENIZER, text, limit, keep="first"))
    assert text.endswith(cut_to_tokens(TOKENIZER, text, limit, keep="last"))


def test_templates_are_found_by_task_then_default(tmp_path):
    (tmp_path / "default.text.jinja").write_text("default {{ query }} {{ candidates }}")
    (tmp_path / "arc.text.jinja").write_text("arc {{ query }} {{ candidates }}")
    assert load_template(tmp_path, "arc", "text").source.startswith("arc")
    assert load_template(tmp_path, "mine", "text").source.startswith("default")
    assert load_template(tmp_path, str(tmp_path / "arc.text.jinja"), "label").source.startswith("arc")
    with pytest.raises(UserError, match="no prompt template"):
        load_template(tmp_path, "arc", "label")
    with pytest.raises(UserError, match=r"no prompt template .*mine\.text\.jinja; a template is a \.jinja file"):
        load_template(tmp_path, "mine", "text", or_default=False)


def test_a_broken_template_is_one_line():
    with pytest.raises(UserError, match="template inline: 'quary' is undefined"):
        Template("{{ quary }}").render("q", ["a"], ["A"])


def test_braces_in_a_query_stay_what_they_are():
    assert "{{ count }}" in Template("{{ query }}").render("{{ count }}", ["a"], ["A"])


def test_an_end_of_turn_without_a_role_is_found():
    """Phi-3's <|end|> is an added token that stands in no special-tokens map."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|closing|>"], special_tokens=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|closing|>\n{% endfor %}"
    assert "<|closing|>" not in tokenizer.all_special_tokens
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|closing|>")
