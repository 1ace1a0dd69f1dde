"""Prompts and labels of published listwise rerankers: what is read, what the model is fed, what it answers."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest
from tiny import LIKE, tiny_model, tiny_tokenizer

from irpo.config.schema import EvaluationConfig, load_config, load_ranker
from irpo.evaluation import EvaluationOptions, evaluate
from irpo.pipeline import evaluate as measure
from irpo.prompting.markup import end_of_turn, with_markup
from irpo.prompting.parsing import parse_ranking
from irpo.prompting.prompts import AnswerForm, PromptBuilder, label_names, load_template, token_ids_after_newline
from irpo.prompting.templates import Template
from irpo.ranking import constrained_ranking
from irpo.ranking.reranker import Reranker
from irpo.resources import configs_dir, prompts_dir
from irpo.runs.key import contents, run_key, settings
from irpo.scorers import Independent, Label, Stepwise
from irpo.scoring.tokens import encode
from irpo.types import Candidate, Missing, RankingExample, UserError

NUMBERS = r"""
method: "singleturn_listwise"
system_message: "You put things in order."
prefix: |
  Here are {num} things for {query}.
body: |
  [{rank}] {candidate}
suffix: |-
  Order all {num} for {query}, say [2] > [1] {{and no more}}.
output_validation_regex: r"^\[\d+\]( > \[\d+\])*$"
output_extraction_regex: r"\[(\d+)\]"
"""
LETTERS = NUMBERS.replace(r"\d+", "[A-Z]").replace("[2] > [1]", "[B] > [A]")
TEMPLATE = Template("{{ query }}\n{% for c in candidates %}[{{ c.name }}] {{ c.text }}\n{% endfor %}")
FILMS = ("Alien", "Aliens", "Heat", "The Matrix")


@pytest.fixture
def file(tmp_path):
    def _file(text=NUMBERS, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return _file


def example(texts=FILMS, query="space"):
    return RankingExample("q", query, tuple(Candidate(f"c{j}", text, float(j == 0)) for j, text in enumerate(texts)))


def builder(file, tokenizer=None, labels="numbers", **options):
    template = load_template(prompts_dir(), file, "label")
    return PromptBuilder(tokenizer or tiny_tokenizer(), template, "label", labels=labels, **options)


def test_the_prompt_is_what_the_template_says_in_the_models_markup(file):
    prompt = builder(file()).build(example())
    assert prompt.text == (
        "<|bos|><|system|>\nYou put things in order.<|end|>\n"
        "<|user|>\nHere are 4 things for space.\n[1] Alien\n[2] Aliens\n[3] Heat\n[4] The Matrix\n"
        "Order all 4 for space, say [2] > [1] {and no more}.<|end|>\n<|assistant|>\n"
    )
    assert prompt.names == ("1", "2", "3", "4")


def test_letters_and_no_system_message(file):
    path = file(LETTERS.replace('system_message: "You put things in order."\n', ""))
    prompt = builder(path, labels="letters").build(example())
    assert prompt.text.startswith("<|bos|><|user|>\nHere are 4 things for space.\n[A] Alien\n[B] Aliens\n")
    assert prompt.names == ("A", "B", "C", "D")


def test_what_looks_like_a_label_in_a_text_is_none(file):
    prompt = builder(file()).build(example(("see [12]", "as [B] says"), query="what is [3]?"))
    assert "for what is (3)?.\n[1] see (12)\n[2] as [B] says\n" in prompt.text


def test_braces_and_special_tokens_of_texts_are_text(file):
    prompt = builder(file()).build(example(("{query} {0}", "Heat<|end|>")))
    assert "[1] {query} {0}\n[2] Heat< |end|>\n" in prompt.text
    assert prompt.special_texts == 1


def test_a_long_list_is_cut_to_fit(file):
    built = builder(file(), max_tokens=400)
    prompt = built.build(example(("word " * 90,) * 4))
    assert built.length(prompt) <= 400
    assert min(prompt.tokens_cut) > 0
    assert "[4] word word" in prompt.text


@pytest.mark.parametrize("begins", ["{{ bos_token }}", ""])
def test_a_sequence_begins_once(file, begins):
    """Zephyr's markup lacks the token that its tokenizer begins every other text with."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", begins)
    item = encode(tokenizer, builder(file(), tokenizer).build(example()), [0.0] * 4)
    assert item.prompt.count(tokenizer.bos_token_id) == 1
    assert item.prompt[0] == tokenizer.bos_token_id


def test_markup_from_a_file_takes_the_place_of_the_tokenizers(file, tmp_path):
    tokenizer = with_markup(tiny_tokenizer(chat=False), "vicuna")
    prompt = builder(file(), tokenizer).build(example())
    assert prompt.text.startswith("You put things in order. USER: Here are 4 things for space.\n[1] Alien\n")
    assert prompt.text.endswith("say [2] > [1] {and no more}. ASSISTANT:")
    assert encode(tokenizer, prompt, [0.0] * 4).prompt[0] == tokenizer.bos_token_id
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id
    assert with_markup(tiny_tokenizer(), None).chat_template == tiny_tokenizer().chat_template
    own = file("{{ messages[0].content }}", "own.jinja")
    assert with_markup(tiny_tokenizer(), own).chat_template == "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"prompt\.chat_template = 'chatml': give a \.jinja file, or one of: vicuna"):
        with_markup(tiny_tokenizer(), "chatml")
    with pytest.raises(UserError, match=r"no\.jinja: there is no such file"):
        with_markup(tiny_tokenizer(), str(tmp_path / "no.jinja"))


def test_markup_that_cannot_say_it_is_named(file):
    with pytest.raises(UserError, match="tokenizer has no chat template"):
        builder(file(), tiny_tokenizer(chat=False)).build(example())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    with pytest.raises(UserError, match="refuses the template's system message: no system"):
        builder(file(), tokenizer).build(example())


def test_labels_must_be_those_that_the_template_asks_for(file):
    with pytest.raises(UserError, match=r"mine\.yaml asks for numbers as labels; set prompt\.labels to 'numbers'"):
        builder(file(), labels="letters")
    with pytest.raises(UserError, match=r"set prompt\.labels to 'letters'"):
        builder(file(LETTERS))
    unsaid = "\n".join(line for line in NUMBERS.split("\n") if not line.startswith("output"))
    assert builder(file(unsaid), labels="letters").labels == "letters"
    with pytest.raises(UserError, match=r"set prompt\.style to 'label'"):
        load_template(prompts_dir(), file(), "text")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("singleturn", "multiturn", "method is 'multiturn_listwise'"),
        ("{candidate}", "{candidate} {score}", r"body has \{score\}"),
        ("{candidate}", "", r"body needs \{rank\} and \{candidate\}"),
        ("{query}", "it", r"neither prefix nor suffix shows \{query\}"),
        ("{num} things", "{num:>9999999} things", r"prefix has \{num:>9999999\}"),
        ("{num} things", "{num.real} things", r"prefix has \{num\.real\}"),
        ("{num} things", "{num things", "prefix: "),
        ("prefix: |", "few_shot: |", "unknown section 'few_shot'"),
        (r"^\[\d+\]( > \[\d+\])*$", r"^PASSAGE\d$", r"neither of the form \[2\] > \[1\]"),
        (r"^\[\d+\]( > \[\d+\])*$", r"(", "output_validation_regex: "),
        ('method: "', "method: [", "broken YAML"),
        ('"You put things in order."', "7", "names of sections to texts"),
    ],
)
def test_a_template_that_cannot_be_honoured_is_refused(file, old, new, said):
    with pytest.raises(UserError, match=said):
        load_template(prompts_dir(), file(NUMBERS.replace(old, new)), "label")


def test_the_package_is_read_and_never_imported(tmp_path, monkeypatch):
    folder = tmp_path / "rank_llm" / "rerank" / "prompt_templates"
    folder.mkdir(parents=True)
    (tmp_path / "rank_llm" / "__init__.py").write_text("raise ImportError('it needs vllm')")
    (folder / "its_template.yaml").write_text(NUMBERS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    template = load_template(prompts_dir(), "rank_llm:its_template", "label")
    assert (template.name, template.source) == ("its_template.yaml", NUMBERS)
    with pytest.raises(UserError, match="template rank_llm:other: rank_llm has its_template"):
        load_template(prompts_dir(), "rank_llm:other", "label")


def test_without_the_package_one_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("irpo.prompting.rank_llm.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install --no-deps rank-llm.*or give a file.*prompt\.template=FILE"):
        load_template(prompts_dir(), "rank_llm:rank_zephyr_template", "label")


def test_numbers_are_written_and_read_back():
    names = label_names(None, 12, "numbers")
    order = (9, 0, 11, 10, 1, 2, 3, 4, 5, 6, 7, 8)
    for closed in (False, True):
        text = AnswerForm("label", closed).write([names[j] for j in order])
        assert text.startswith("[10] > [1] > [12] > [11] > [2]")
        assert parse_ranking(text, names, "label") == parse_ranking(f"My ranking: {text}.", names, "label")
        assert parse_ranking(text, names, "label")[0].order == order
    ranking, problems = parse_ranking("[10] > [1", names[:10], "label")
    assert (ranking.order, problems) == ((9, 0), tuple(Missing(j) for j in range(1, 9)))


@pytest.mark.parametrize("like", LIKE)
def test_no_number_begins_another(like):
    tokenizer = LIKE[like]()
    films = example([f"film {j}" for j in range(12)])
    prompt = PromptBuilder(tokenizer, TEMPLATE, "label", labels="numbers").build(films)
    item = encode(tokenizer, prompt, [0.0] * 12)
    for one, other in itertools.permutations(item.bodies, 2):
        assert other[: len(one)] != one
    if like in ("llama3", "qwen", "unigram"):  # whose tokens hold no blank but the first, as real ones'
        order = (11, 0, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8)
        written = prompt.form.write([prompt.names[j] for j in order])
        assert item.answer(order)[:-1] == token_ids_after_newline(tokenizer, [written])[0]


@pytest.mark.parametrize("seed", range(3))
def test_constrained_decoding_over_numbers_gives_permutations(seed):
    tokenizer, model = tiny_tokenizer(), tiny_model(seed=seed)
    built = PromptBuilder(tokenizer, TEMPLATE, "label", labels="numbers")
    asked = [built.build(example([f"film {seed} {j}" for j in range(count)])) for count in (12, 9, 2)]
    assert [prompt.closed for prompt in asked] == [True, False, False]
    items = [encode(tokenizer, prompt, [0.0] * len(prompt.names)) for prompt in asked]
    rankings = constrained_ranking(model, tokenizer, items)
    assert [sorted(ranking.order) for ranking in rankings] == [list(range(count)) for count in (12, 9, 2)]


def test_every_mode_takes_numbers_and_the_label_scorer_those_of_one_token():
    films = [example(tuple(f"film {j}" for j in range(12)))]
    built = PromptBuilder(tiny_tokenizer(), TEMPLATE, "label", labels="numbers")
    found = evaluate(films, built, tiny_model(), Independent(), EvaluationOptions())
    assert {row.mode for row in found.rows if row.mode} == {"score", "generate", "constrain"}
    assert found.setting is not None
    assert found.setting.style == "label by numbers"
    for scorer in (Label(), Stepwise()):
        with pytest.raises(UserError, match=r"labels of one token each; set .* prompt\.labels to 'letters'"):
            evaluate(films, built, tiny_model(), scorer, EvaluationOptions(modes=("score",)))
        evaluate([example()], built, tiny_model(), scorer, EvaluationOptions(modes=("score",)))


def test_markup_counts_in_a_runs_key_by_its_content(file):
    base = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
    plain, *marked = (
        load_config(base, options)
        for options in (
            [],
            [f"prompt.chat_template={file('{{ messages }}', 'a.jinja')}"],
            [f"prompt.chat_template={file('{{ messages }}', 'b.jinja')}"],
            [f"prompt.chat_template={file('{{ messages }}!', 'c.jinja')}"],
        )
    )
    assert settings(plain) == settings(marked[0])
    assert "prompt.chat_template" not in contents(plain, "template", "lists")
    same, again, other = (run_key(config, contents(config, "template", "lists")) for config in marked)
    assert same == again != other


def test_labels_count_in_a_runs_key_where_they_are_not_letters():
    base = ["models/embedded.yaml", "tasks/world.yaml", "methods/irpo.yaml"]
    assert "prompt.labels" not in settings(load_config(base, ["prompt.style=label"]))
    assert settings(load_config(base, ["prompt.style=label", "prompt.labels=numbers"]))["prompt.labels"] == "numbers"
    with pytest.raises(UserError, match="labels 'numbers' needs style 'label'"):
        load_config(base, ["prompt.labels=numbers"])


RANKER = "model: {{name: embedded}}\nprompt: {{style: label, labels: numbers, template: {0}}}\n"


def test_a_configuration_lends_a_model_its_prompt_and_scorer(file, tmp_path):
    path = file(RANKER.format(file(NUMBERS)) + "method: {scorer: {name: label}}\n", "ranker.yaml")
    ranker = Reranker.load(path)
    assert (ranker.builder.labels, ranker.builder.template.name, ranker.scorer) == ("numbers", "mine.yaml", Label())
    assert sorted(row.index for row in ranker.rank("Heat", FILMS)) == [0, 1, 2, 3]
    lent = Reranker.load("embedded", like=load_ranker(path))
    assert (lent.builder.labels, lent.scorer) == ("numbers", Label())
    assert Reranker.load(path, style="text", template="default").builder.labels == "letters"


def test_a_ranker_is_measured_as_it_is_configured(file, tmp_path):
    path = file(RANKER.format(file(NUMBERS)), "ranker.yaml")
    spec = {"name": "world", "eval_lists": 2, "train_lists": 2}
    options = EvaluationConfig(modes=("score", "generate", "constrain"))
    summary = measure(path, spec, tmp_path / "out", options)
    assert (summary.about["model"], summary.about["ranker"]) == ("embedded", path)
    assert summary.setting is not None
    assert (summary.setting.template, summary.setting.scorer) == ("mine.yaml", "independent")
    lent = measure("embedded", spec, tmp_path / "lent", options, like=path)
    assert lent.setting == summary.setting
    assert [row.measures for row in lent.rows] == [row.measures for row in summary.rows]
    with pytest.raises(UserError, match="--like 'embedded' lends"):
        measure(path, spec, tmp_path / "no", options, like="embedded")


@pytest.mark.parametrize("path", sorted((configs_dir() / "rankers").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_rankers(path):
    config = load_ranker(f"rankers/{path.name}")
    assert config.prompt.style == "label"
    assert config.prompt.template is not None
    assert config.prompt.template.startswith("rank_llm:")
    assert load_config(["tasks/world.yaml", "methods/irpo.yaml", path]).model.name == config.model.name


def test_a_wrong_key_of_a_ranker_is_named(file):
    path = file("model: {name: embedded}\nranking: {strength: 2}\n", "ranker.yaml")
    with pytest.raises(UserError, match=r"ranker\.yaml:2: unknown key 'ranking'.*model, prompt, method, evaluation"):
        load_ranker(path)


def test_a_run_is_not_a_rankers_model(file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    Path(run, "config.yaml").write_text("model: {name: embedded}\ntask: world\nmethod: {objective: irpo}\n")
    with pytest.raises(UserError, match="is a run, which ranks as it was trained"):
        Reranker.load(file(f"model: {{name: {run}}}\n", "ranker.yaml"))
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "export.json").write_text("{}")
    with pytest.raises(UserError, match="is an exported ranker, which ranks as it was trained"):
        Reranker.load(file(f"model: {{name: {exported}}}\n", "ranker.yaml"))
