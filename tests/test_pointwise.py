"""The style `pointwise` and the scorer `yes_no`: each candidate's own prompt, all of a list in one pass."""

import json
from dataclasses import replace

import pytest
import torch
from handmade import a_list, write_lines
from tiny import LIKE, tiny_model, tiny_tokenizer
from training_lists import TOKENIZER, examples, learned, method, trainer

from irpo.api import evaluate, train
from irpo.config.schema import load_config
from irpo.online.rounds import require_sound
from irpo.prompting.markup import markup
from irpo.prompting.prompts import PromptBuilder, Template, load_template
from irpo.prompting.specials import special_tokens
from irpo.ranking.modes import RANKING_MODES, Ranker
from irpo.ranking.reranker import Reranker
from irpo.resources import prompts_dir
from irpo.scorers import SCORERS, score
from irpo.scoring.batching import make_batch
from irpo.scoring.forward import score_batch, score_lists
from irpo.scoring.models import LoraOptions, add_lora
from irpo.scoring.tokens import encode, prompted
from irpo.scoring.whole import remember
from irpo.training.job import method_of
from irpo.types import Candidate, RankingExample, UserError

SHIPPED = load_template(prompts_dir(), "default", "pointwise")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
DOCUMENTS = (
    "Paris is a city.",
    "Gravity is a force.\n\nIt pulls.",
    "Paris is a town, and a rather long document.",
    "x",
)


def qwen():
    """A tokenizer that cuts and marks up as Qwen3's does, the system's turn included."""
    tokenizer = LIKE["qwen"]()
    tokenizer.chat_template = CHATML
    return tokenizer


def example(texts=DOCUMENTS, query="Where is Paris?"):
    return RankingExample("q", query, tuple(Candidate(str(j), t, float(j == 0)) for j, t in enumerate(texts)))


def asked(tokenizer, of=None, max_tokens=2048, template=SHIPPED):
    return prompted(PromptBuilder(tokenizer, template, "pointwise", max_tokens), [of or example()], labels=True)[0]


def alone(model, tokenizer, text, *, ends=False):
    """log softmax of the logits of yes and no behind a text, as the model's card takes it, by the model itself."""
    ids = tokenizer(text, add_special_tokens=ends)["input_ids"]
    words = [tokenizer("\n" + word, add_special_tokens=False)["input_ids"][1] for word in ("no", "yes")]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1, words]
    return logits.log_softmax(-1)[1]


def test_a_prompt_is_that_of_the_models_card():
    prompt = asked(qwen()).prompt
    for text, own in zip(DOCUMENTS, prompt.names, strict=True):
        assert prompt.text + own == (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
            f"<Query>: Where is Paris?\n<Document>: {text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        )


def test_a_template_that_refuses_a_system_turn_has_it_in_the_users():
    tokenizer = tiny_tokenizer()
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    plain = markup(tokenizer, "be brief\n\nhello")
    tokenizer.chat_template = refusing + tokenizer.chat_template
    assert markup(tokenizer, "hello", "be brief") == plain
    assert markup(tiny_tokenizer(chat=False), "hello", "be brief")[0].startswith("be brief\n\nhello\n\n")


@pytest.mark.parametrize("tokenizer", [TOKENIZER, tiny_tokenizer(chat=False), qwen()], ids=["tiny", "plain", "qwen"])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3"])
def test_one_pass_gives_what_each_prompt_gives_alone(family, tokenizer):
    model = tiny_model(family, vocab_size=len(tokenizer))
    some = [asked(tokenizer), asked(tokenizer, example(("a", "a"), "twins")), asked(tokenizer, example(DOCUMENTS[:3]))]
    found = score_lists(model, tokenizer, [p.tokens for p in some], SCORERS.build("yes_no"))
    for one, scores in zip(some, found, strict=True):
        texts = [one.prompt.text + own for own in one.prompt.names]
        theirs = [alone(model, tokenizer, text, ends=not one.prompt.chat) for text in texts]
        torch.testing.assert_close(scores, torch.stack(theirs), atol=1e-5, rtol=1e-4)
    assert found[0].unique().numel() == len(DOCUMENTS)


def test_what_the_prompts_share_is_read_once():
    item = asked(qwen()).tokens
    layout = SCORERS.build("yes_no").layout(item)
    apart = sum(len(item.prompt) + len(body) - 1 for body in item.bodies)
    assert len(layout.ids) == len(item.prompt) + sum(len(body) - 1 for body in item.bodies) < 0.6 * apart
    assert all(body[0] != item.bodies[0][0] for body in item.bodies[1:2])


def test_documents_that_stand_before_the_query_are_scored_right_too():
    template = Template("{{ candidates[0].text }}\n{{ query }}")
    model, one = tiny_model("qwen3"), asked(tiny_tokenizer(), template=template)
    (scores,) = score_lists(model, TOKENIZER, [one.tokens], SCORERS.build("yes_no"))
    theirs = [alone(model, TOKENIZER, one.prompt.text + own) for own in one.prompt.names]
    torch.testing.assert_close(scores, torch.stack(theirs), atol=1e-5, rtol=1e-4)


def test_independent_reads_the_same_and_a_mean_is_no_other():
    model, item = tiny_model("qwen3"), asked(TOKENIZER).tokens
    tables = [
        score_batch(model, make_batch([item], SCORERS.build(scorer)), length=length).first
        for scorer, length in (("yes_no", "sum"), ("independent", "sum"), ("yes_no", "mean"))
    ]
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], atol=0, rtol=0)


def test_scores_of_texts_that_a_user_gives():
    model, prompt = tiny_model("qwen3"), asked(TOKENIZER).prompt
    found = score(model, TOKENIZER, prompt.text, prompt.names, scorer="yes_no")
    theirs = [alone(model, TOKENIZER, prompt.text + own) for own in prompt.names]
    torch.testing.assert_close(found, torch.stack(theirs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(LIKE))
def test_a_special_token_in_a_document_is_text(name):
    tokenizer = qwen() if name == "qwen" else LIKE[name]()
    spelt = [text for text in special_tokens(tokenizer).values() if len(text) > 1]
    clean = asked(tokenizer, example(("a", "b")))
    one = asked(tokenizer, example(("a", "b " + " ".join(spelt) + " b"), "q " + spelt[0]))
    specials = special_tokens(tokenizer).keys()

    def marks(asked):
        return [[t for t in (*asked.tokens.prompt, *body[:-1]) if t in specials] for body in asked.tokens.bodies]

    assert marks(one)[1] == marks(clean)[1]
    assert one.prompt.special_texts >= 2


def test_a_long_document_is_cut_and_then_the_query():
    long = asked(TOKENIZER, example(("short", "word " * 300)), max_tokens=400)
    assert long.prompt.tokens_cut[0] == 0 < long.prompt.tokens_cut[1]
    assert long.prompt.query_tokens_cut == 0
    longest = max(len(long.tokens.prompt) + len(body) for body in long.tokens.bodies)
    assert 390 <= longest <= 400
    asks = asked(TOKENIZER, example(("short", "words"), "why " * 300), max_tokens=400)
    assert asks.prompt.query_tokens_cut > 0
    assert max(len(asks.tokens.prompt) + len(body) for body in asks.tokens.bodies) <= 400
    with pytest.raises(UserError, match=r"no room for a document, prompt\.max_tokens 64"):
        asked(TOKENIZER, max_tokens=64)


def items(count=8):
    builder = PromptBuilder(TOKENIZER, Template("{{ query }}: {{ candidates[0].text }}"), "pointwise")
    return [p.tokens for p in prompted(builder, examples(count), labels=True)]


@pytest.mark.parametrize("objective", ["dpo", "irpo", "irpo_sampled", "kl", "ranknet"])
def test_it_learns_by_any_objective(tmp_path, objective):
    """The adapter changes, the loss falls, and a reference with its adapter off is the model before training."""
    lists = [replace(item, teacher=tuple(float(-j) for j in range(len(item.bodies)))) for item in items(4)]
    model = add_lora(tiny_model("qwen3"), LoraOptions(r=4), seed=0)
    run = trainer(tmp_path, method(objective, "yes_no"), items=lists, model=model, updates=10, learning_rate=0.3)
    before = learned(run.model)
    run.go(None)
    losses = [line["loss"] for line in map(json.loads, run.log_file.read_text().splitlines()) if "loss" in line]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert any(not torch.equal(before[key], now) for key, now in learned(run.model).items())


def test_gradients_are_those_of_separate_sequences():
    item, grads = items(2)[1], []
    for apart in (False, True):
        model = add_lora(tiny_model("qwen3"), LoraOptions(r=4), seed=0)
        parts = [item.only([j]) for j in range(len(item.bodies))] if apart else [item]
        table = torch.cat([score_batch(model, make_batch([p], SCORERS.build("yes_no"))).first[0] for p in parts])
        (table * torch.arange(1.0, len(table) + 1)).sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


def test_ranking_is_by_score_alone():
    ranker = Ranker(tiny_model("qwen3"), PromptBuilder(TOKENIZER, SHIPPED, "pointwise"), SCORERS.build("yes_no"))
    mode = RANKING_MODES.build("score")
    ranker.require(mode)
    (found,) = mode(ranker, [example()])
    best = sorted(range(len(DOCUMENTS)), key=lambda j: -found.scores[j])
    assert list(found.ranking.order) == best
    assert all(score < 0 for score in found.scores)
    for name in ("generate", "constrain"):
        with pytest.raises(UserError, match=f"mode '{name}': prompt.style 'pointwise' shows no list of candidates"):
            ranker.require(RANKING_MODES.build(name))


@pytest.mark.parametrize(
    ("scorer", "said"),
    [("list", "responses of their own make none"), ("label", "set prompt.style to 'label'"), ("stepwise", "'label'")],
)
def test_a_scorer_of_lists_says_so(scorer, said):
    with pytest.raises(UserError, match=said):
        SCORERS.build(scorer).layout(items(1)[0])


def test_it_reads_no_other_style():
    builder = PromptBuilder(TOKENIZER, Template("{{ query }} {{ candidates[0].text }}"), "label")
    other = prompted(builder, examples(1), labels=True)[0]
    with pytest.raises(UserError, match=r"'yes_no' reads a prompt a candidate; set prompt\.style to 'pointwise'"):
        SCORERS.build("yes_no").layout(other.tokens)


def test_answers_that_begin_alike_are_refused(monkeypatch):
    prompt = asked(TOKENIZER).prompt
    monkeypatch.setattr("irpo.scoring.tokens.token_ids_after_newline", lambda *_: [(5, 6), (5, 7)])
    with pytest.raises(UserError, match="'yes' and 'no' begin with the same token"):
        encode(TOKENIZER, prompt, [0.0] * 4)


@pytest.mark.parametrize("name", ["kl", "irpo", "dpo"])
def test_the_shipped_configuration_goes_with_a_method(name):
    config = load_config(
        ["models/qwen3-reranker-0.6b.yaml", "tasks/jsonl.yaml", f"methods/{name}.yaml"], ["task.data=x"]
    )
    assert (config.prompt.style, config.prompt.template) == ("pointwise", "default")
    assert [mode["name"] for mode in config.evaluation.modes] == ["score"]
    assert method_of(config).lay_out(items(1))


def test_nothing_is_drawn_from_a_model_that_says_yes_or_no():
    config = load_config(["models/embedded.yaml", "tasks/world.yaml", "methods/larpo.yaml"], ["prompt.style=pointwise"])
    with pytest.raises(UserError, match="'pointwise' asks for yes or no alone"):
        require_sound(config, method_of(config))


def test_trained_from_a_teacher_evaluated_and_used_from_files(tmp_path):
    """Lists without a label, the embedded model, every door: nothing but the style differs from a list's run."""
    rows = [a_list(f"q{i}", [1, 0, 0]) for i in range(4)]
    for row in rows[:3]:
        for j, candidate in enumerate(row["candidates"]):
            candidate["teacher"] = -j
            del candidate["relevance"]
    write_lines(tmp_path / "data" / "train.jsonl", rows[:3])
    write_lines(tmp_path / "data" / "eval.jsonl", rows[3:])
    settings = ["prompt.style=pointwise", "method.scorer=yes_no", "evaluation.modes=[score]", "training.updates=2"]
    settings += [f"task.data={tmp_path / 'data'}", "training.lists_per_update=3", "prompt.max_tokens=512"]
    config = load_config(["models/embedded.yaml", "tasks/jsonl.yaml", "methods/kl.yaml"], settings)
    train(config, tmp_path / "run")
    evaluate(str(tmp_path / "run"), tmp_path / "results")
    (line,) = (tmp_path / "results" / "per_query.jsonl").read_text().splitlines()
    assert "q3" in line
    ranker = Reranker.load(str(tmp_path / "run"))
    assert type(ranker.scorer).__name__ == "YesNo"
    assert {row.text for row in ranker.rank("Where is Paris?", DOCUMENTS)} == set(DOCUMENTS)
    base = Reranker.load("embedded", style="pointwise")
    assert all(row.score < 0 for row in base.rank("Where is Paris?", DOCUMENTS))


def test_prompts_that_share_nothing_are_scored_right():
    """No beginning of a sequence, no markup, the document first: the trunk is empty."""
    tokenizer, model = tiny_tokenizer(chat=False), tiny_model("qwen3")
    template = Template("{{ candidates[0].text }} {{ query }}")
    prompt = asked(tokenizer, example(("Heat", "Alien", "x")), template=template).prompt
    assert prompt.text == ""
    item = encode(tokenizer, replace(prompt, chat=True), [0.0] * 3)
    assert item.prompt == ()
    theirs = torch.stack([alone(model, tokenizer, own) for own in prompt.names])
    for one_row in (True, False):
        remember(model, one_row)
        (scores,) = score_lists(model, tokenizer, [item], SCORERS.build("yes_no"))
        torch.testing.assert_close(scores, theirs, atol=1e-5, rtol=1e-4)
