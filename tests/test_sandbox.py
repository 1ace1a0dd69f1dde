"""Templates of somebody else's: a prompt's and a tokenizer's, which end within limits and reach nothing."""

from __future__ import annotations

import time

import pytest
from tiny import LIKE, PLAIN_LIKE, tiny_tokenizer

from irpo.processes import peak_of_process
from irpo.prompting.markup import end_of_turn, in_turns, markup, plain_marks
from irpo.prompting.prompts import Template
from irpo.scoring.models import load_tokenizer
from irpo.types import UserError

FAMILIES = {"embedded": lambda: load_tokenizer("embedded"), "tiny": tiny_tokenizer, **LIKE, **PLAIN_LIKE}
TURNS = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": ' What {{ is }} <b>"this"</b>? '},
    {"role": "assistant", "content": "That."},
    {"role": "user", "content": "And?\n"},
]
RUNAWAYS = {
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "ranges in ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a text repeated": "{{ 'a' * 10**10 }}",
    "a power": "{{ 10 ** (10**10) }}",
    "loops over a text": "{% set s = 'x' * 10**6 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro m(n) %}{{ m(n-1) ~ m(n-1) if n }}{% endmacro %}{{ m(60) }}",
    "doubling by ~": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by +": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a long list": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a replacement": "{% set s = 'a' * 10**6 %}{{ s|replace('a', s) }}",
    "a method's replacement": "{% set s = 'a' * 10**6 %}{{ s.replace('a', s) }}",
    "a join": "{% set s = 'a' * 10**6 %}{{ ([s] * 10**6)|join }}",
    "a method's join": "{% set s = 'a' * 10**6 %}{{ ''.join([s] * 10**6) }}",
    "a joint": "{% set s = 'a' * 10**6 %}{{ s.join(s) }}",
    "a filter over many": "{{ range(10**6)|map('center', 10**6)|join }}",
    "a block that gathers": "{% set s = 'a'*9**6 %}{% set t %}{% for i in range(99) %}{{ s }}{% endfor %}{% endset %}",
    "a block of its own text": "{% set t %}{% for i in range(10**6) %}" + "x" * 10**5 + "{% endfor %}{% endset %}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "a wide cell": "{{ 'a'.ljust(10**10) }}",
    "a number in a list": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{% if 1 in l %}{% endif %}{% endfor %}",
    "a number not in a list": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{{ 0 not in l }}{% endfor %}",
    "a test": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{{ 1 is in l }}{% endfor %}",
    "a test of many": "{% set l = [0] * 10**6 %}{{ l|reject('in', [1] * 10**5)|list|length }}",
    "sums": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{% if l|sum %}{% endif %}{% endfor %}",
    "sorting": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{% if l|sort|length %}{% endif %}{% endfor %}",
    "unique ones": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{% if l|unique|first %}{% endif %}{% endfor %}",
    "a part of a text": "{% set l = 'a' * 10**6 %}{% for i in range(9999) %}{% if 'aab' in l %}{% endif %}{% endfor %}",
    "shares": "{% set l = 'a' * 10**6 %}{% for i in range(10**5) %}{% if l[1:] == l[:-1] %}{% endif %}{% endfor %}",
    "shares of a list": "{% set l = [0] * 10**6 %}{% for i in range(10**5) %}{% if l[1:] %}{% endif %}{% endfor %}",
    "counts": "{% set l = 'a' * 10**6 %}{% for i in range(10**5) %}{% if l.count('aab') %}{% endif %}{% endfor %}",
    "counts in a list": "{% set l = [0] * 10**6 %}{% for i in range(9999) %}{% if l.count(1) %}{% endif %}{% endfor %}",
    "links": "{{ ('a ' * 500000)|urlize|length }}",
    "lines": "{{ ('a' * 200000)|wordwrap(1)|length }}",
    "lists in lists": "{{ [[0] * 10**6] * 10**6 == [[0] * 10**6] * 10**6 }}",
    "lists in lists, shown": "{{ [[0] * 10**6] * 10**6 }}",
    "lists in lists, written": "{{ ([[0] * 10**6] * 10**6)|tojson }}",
    "lists in lists, formatted": "{{ '%s' % ([[0] * 10**6] * 10**6) }}{{ '{}'.format([[0] * 10**6] * 10**6) }}",
    "lists twice in lists": "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
    "{% endfor %}{{ n.l ~ '' }}",
    "namespaces twice in namespaces": "{% set n = namespace(l=1) %}{% for i in range(60) %}"
    "{% set n.l = namespace(a=n.l, b=n.l) %}{% endfor %}{{ n }}",
    "a key": "{% set n = namespace(l=1) %}{% for i in range(60) %}{% set n.l = (n.l, n.l) %}{% endfor %}"
    "{{ {1: 2}[n.l] }}",
    "a key of a dictionary": "{% set n = namespace(l=1) %}{% for i in range(60) %}{% set n.l = (n.l, n.l) %}"
    "{% endfor %}{{ {n.l: 2}|length }}",
    "a number squared": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "a translation": "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
    "an indentation": "{{ ('a\\n' * 10**5)|indent(10**6) }}",
    "tabulators": "{{ ('\\t' * 10**5).expandtabs(10**6) }}",
    "wide cells": "{{ ('%999999d' * 10**5) % ((1,) * 10**5) }}",
    "filters of filters": "{% for i in range(10**5) %}{{ (range(10)|map('string')"
    + "|map('trim')" * 99
    + ")|list|length }}{% endfor %}",
    "a deep macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}{{ query.__class__.mro() }}",
    "{{ (query or messages)|attr('__class__')|attr('mro') }}{{ range.__init__.__globals__ }}",
    "{{ namespace(__class__=1) }}{{ ''|attr('format')|attr('__func__') }}",
    "{{ cycler.__init__.__globals__.os.system('x') }}",
    "{{ self._TemplateReference__context.environment.loader.x() }}",
    "{{ '{0.__class__.__mro__}'.format('') ~ ''.mro() }}",
]


def as_prompt(source):
    return Template("{# {{ query }} #}" + source).render("q", ["a", "b"], ["A", "B"])


def as_markup(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    return markup(tokenizer, "q")[0]


# A tokenizer's template goes through the same environment: every fourth is enough for it.
@pytest.mark.parametrize(
    ("render", "source"),
    [(as_prompt, source) for source in RUNAWAYS.values()] + [(as_markup, s) for s in [*RUNAWAYS.values()][::4]],
)
def test_a_template_that_runs_away_is_one_line_soon_and_in_little_memory(source, render):
    start, held = time.process_time(), peak_of_process()
    with pytest.raises(UserError, match="template") as error:
        render(source)
    assert time.process_time() - start < 10
    assert peak_of_process() - held < 600e6
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("render", [as_prompt, as_markup])
@pytest.mark.parametrize("source", ESCAPES)
def test_nor_does_one_reach_out(source, render):
    with pytest.raises(UserError, match="template"):
        render(source)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("header", [True, False])
def test_markup_is_what_transformers_makes_of_it(family, header):
    tokenizer = FAMILIES[family]()
    for turns in (TURNS, TURNS[1:], TURNS[1:2]):
        expected = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=header, date_string="26 Jul 2024", enable_thinking=False
        )
        assert in_turns(tokenizer, turns, header=header) == expected


def test_so_is_what_other_templates_use():
    source = """
    {%- if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}
    {{- bos_token + date_string }}{% if tools is not none %}T{% endif %}
    {%- set state = namespace(last=-1, seen=dict(a=1)) %}
    {%- for m in messages[::-1] %}
      {%- if m.role == 'system' %}{% continue %}{% endif %}
      {{- loop.index0 ~ '/' ~ loop.length ~ loop.last ~ loop.revindex }} {{ m | tojson }} {{ m.content | trim | upper }}
      {%- set state.last = loop.index %}
      {%- generation %}{{ m['content'].split('a')[0].rstrip() }}{% endgeneration %}
      {%- if loop.index > 3 %}{% break %}{% endif %}
    {%- endfor %}
    {%- for k, v in messages[0].items() if k != 'role' %}[{{ k }}={{ v }}]{% else %}none{% endfor %}
    {% macro say(x, n=2) %}<{{ x * n }}>{{ caller() if caller }}{% endmacro %}
    {% call say('ab') %}in{% endcall %}{{ state.last + 1 }}{{ missing }}{{ 7 % 4 }}{{ '%s-%d' % ('a', 3) }}
    {{- state.seen }}
    {% if enable_thinking is defined and enable_thinking is false %}quiet{% endif %}
    {{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'eq', 'user') | list | length }}
    """
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    for turns in (TURNS, TURNS[1:2]):
        expected = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024", enable_thinking=False
        )
        assert in_turns(tokenizer, turns) == expected


@pytest.mark.parametrize(
    "source", ["{{ 1/0 }}", "{% if %}", "{{ 1 + messages[0].content }}", "{{ raise_exception('') }}"]
)
def test_markup_that_fails_is_one_line(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    for use in (
        *(lambda: markup(tokenizer, "q"), lambda: markup(tokenizer, "q", "s")),
        *(lambda: end_of_turn(tokenizer), lambda: plain_marks(tokenizer)),
    ):
        with pytest.raises(UserError, match="chat template"):
            use()


def test_a_long_dialogue_is_no_runaway():
    long = "a word\n" * 100_000
    turns = [{"role": "user", "content": long}, {"role": "assistant", "content": long}] * 2
    for family in ("tiny", "qwen", "gemma", "llama2"):
        assert len(in_turns(FAMILIES[family](), turns)) > 2_000_000
    shown = Template("{{ query }}{% for c in candidates %}\n- {{ c.text }}{% endfor %}")
    assert len(shown.render(long, [long] * 6, ["A"] * 6)) > 4_000_000
