"""The parser: what models write in place of what was asked for, and laws that hold for every string."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from irpo.chance import random_order
from irpo.prompting.parsing import parse_ranking, repair
from irpo.prompting.prompts import AnswerForm, one_line
from irpo.types import Missing, Ranking, Repeated, Unknown, Unparseable

FILMS = ("Alien", "Aliens", "Heat", "The Matrix (1999)", "2001: A Space Odyssey", "Rocky II", "Rocky III", "Amélie")
LABELS = ("A", "B", "C", "D")
PASSAGES = (
    "The 2013 season of the club was long and difficult for everyone who took part in it.",
    "The 2014 season of the club was long and difficult for everyone who took part in it.",
    "Paris is the capital of France, and a large city on the river Seine.",
)


def named(text, names, style="text"):
    ranking, problems = parse_ranking(text, names, style)
    return [names[j] for j in ranking.order], [p for p in problems if not isinstance(p, Missing)]


@pytest.mark.parametrize(
    "text",
    [
        "1. Aliens\n2. Heat\n3. Alien\n",
        "1) Aliens\n2) Heat\n3) Alien",
        "- Aliens\n- Heat\n- Alien",
        "* **Aliens**\n* **Heat**\n* **Alien**",
        "**1.** Aliens\n**2.** Heat\n**3.** Alien",
        '1. "aliens."\n\n2.   HEAT\n3. \u201cAlien\u201d,',
        "Here is the ranking, best first:\n\n1. Aliens\n2. Heat\n3. Alien\n\nI hope this helps!",
        "1. **Aliens** - a sequel that is better than the first\n2. Heat (my favourite)\n3. Alien, because it is slow",
        "1. **Aliens**: more of everything\n2. Heat \u2014 it has everything\n3. Alien. The first of its kind.",
        "Aliens\nHeat\nAlien",
        "Aliens, Heat, Alien",
        "Aliens > Heat > Alien",
        "1. Aliens 2. Heat 3. Alien",
        "1: Aliens\r\n2: Heat\r\n3: Alien\r\n",
        "[1] Aliens\n[2] Heat\n[3] Alien",
    ],
)
def test_ways_to_write_a_list(text):
    assert named(text, FILMS) == (["Aliens", "Heat", "Alien"], [])


@pytest.mark.parametrize(
    ("text", "film"),
    [
        ("1. the matrix", "The Matrix (1999)"),
        ("1. Matrix, The (1999)", "The Matrix (1999)"),
        ("1. 2001: A Space Odyssey", "2001: A Space Odyssey"),
        ("2001: A Space Odyssey", "2001: A Space Odyssey"),
        ("1. 2001 - a space odissey", "2001: A Space Odyssey"),
        ("1. Amelie", "Amélie"),
        ("1. Rocky III (1982)", "Rocky III"),
    ],
)
def test_other_spellings_of_a_title(text, film):
    assert named(text, FILMS) == ([film], [])


@pytest.mark.parametrize(
    "title",
    [
        "Alienz",
        "Alien: Covenant",
        "Alien 3",
        "Rocky",
        "Rocky IV",
        "The Matrix (2021)",
        "2010: A Space Odyssey",
        "Hea ter",
    ],
)
def test_other_films_are_unknown(title):
    assert named(f"1. {title}\n2. Heat\n", FILMS) == (["Heat"], [Unknown(title)])


def test_a_sequel_does_not_stand_for_a_film():
    assert named("1. Aliens\n", ("Alien", "Heat")) == ([], [Unknown("Aliens")])
    assert named("1. Alien\n", ("Aliens", "Heat")) == ([], [Unknown("Alien")])


def test_problems_in_reading_order_then_the_missing():
    ranking, problems = parse_ranking("1. Heat\n2. Zork\n3. heat\n4. Alien\n", FILMS[:4], "text")
    assert ranking == Ranking((2, 0))
    assert problems == (Unknown("Zork"), Repeated(2), Missing(1), Missing(3))


def test_passages_cut_off_or_misspelt():
    cut = f"1. {PASSAGES[1]}\n2. {PASSAGES[0][:40]}\n3. {PASSAGES[2][:45]}"
    assert named(cut, PASSAGES) == ([PASSAGES[1], PASSAGES[0], PASSAGES[2]], [])
    misspelt = "1. The 2014 season of the club was long and dificult for everybody who took part in it"
    assert named(misspelt, PASSAGES) == ([PASSAGES[1]], [])
    other_year = "The 2015 season of the club was long and difficult for everyone"
    assert named(f"1. {other_year}\n", PASSAGES[1:]) == ([], [Unknown(other_year)])
    assert named(f"1. {PASSAGES[2]}\n2. The 20", PASSAGES) == ([PASSAGES[2]], [])  # cut too early to name one


def test_loose_lines_share_candidates_out_one_to_one():
    names = ("The Wonderful Garden", "The Wonderful Gardens", "Heat")
    assert named("1. The Wonderfull Gardens\n2. The Wonderful Garden", names) == ([names[1], names[0]], [])
    assert named("1. The Wonderful Garden\n2. The Wonderfull Garden", names[:1] + names[2:]) == (
        [names[0]],
        [Repeated(0)],
    )


def test_a_candidate_that_is_named_outright_is_not_taken_by_a_loose_line():
    names = ("The Wonderful Gardens of Babylon", "The Wonderful Garden of Babylon")
    assert named(f"1. The Wonderful Gardenss of Babylon\n2. {names[0]}\n", names) == ([names[1], names[0]], [])


def test_of_equal_names_the_first_unplaced():
    ranking, problems = parse_ranking("1. Heat\n2. Heat\n3. Heat\n", ["Heat", "Alien", "Heat"], "text")
    assert ranking == Ranking((0, 2))
    assert problems == (Repeated(0), Missing(1))


def test_names_that_differ_in_punctuation_alone():
    names = ("C", "C++", "C#")
    assert named("1. C++\n2. **C**\n3. c#\n", names) == (["C++", "C", "C#"], [])
    assert named("1. C +\n2. C\n", names) == (["C"], [Unknown("C +")])


@pytest.mark.parametrize("style", ["text", "label"])
@pytest.mark.parametrize("text", ["", "\n \n", "I cannot rank these.", "[]", "1.", ">"])
def test_nothing_that_could_be_read(text, style):
    ranking, problems = parse_ranking(text, LABELS, style)
    assert ranking == Ranking(())
    assert problems == (Unparseable(text), *(Missing(j) for j in range(4)))


@pytest.mark.parametrize(
    "text",
    [
        "[B] > [A] > [C] > [D]",
        "[B]>[A]>[C]>[D]",
        "[b] > [a] > [c] > [d",
        "B > A > C > D",
        "The order is: B > A > C > D, I think.",
        "B, A, C, D",
        "B A C D",
        "B\nA\nC\nD",
        "1. B\n2. A\n3. C\n4. D",
        "1. **B** - on the point\n2. A: less so\n3. C\n4. D",
        "**B** > **A** > **C** > **D**",
        "Ranking (best first):\n[B] > [A] > [C] > [D]\nI chose B for its detail.",
        "[Passage B] > [Passage A] > [Passage C] > [Passage D]",
        "B = A > C > D",
    ],
)
def test_ways_to_write_labels(text):
    assert named(text, LABELS, "label") == (["B", "A", "C", "D"], [])


def test_labels_that_are_numbers():
    _, problems = parse_ranking("[2] > [9] > [2]", ["1", "2", "3"], "label")
    assert problems == (Unknown("9"), Repeated(1), Missing(0), Missing(2))
    for text in ("3, 1, 2", "3\n1\n2", "1. 3\n2. 1\n3. 2", "3 > 1 > 2", "[3] > [1] > [2]"):
        assert named(text, ("1", "2", "3"), "label") == (["3", "1", "2"], [])


def test_labels_nobody_has():
    assert named("[B] > [E] > [A]", LABELS, "label") == (["B", "A"], [Unknown("E")])
    assert named("B > Z > A", LABELS, "label") == (["B", "A"], [Unknown("Z")])


MESSY = st.text(st.sampled_from("ABab12 .:)(>[]*-\n,\"'"), max_size=60)
NAMES = st.lists(
    st.one_of(st.sampled_from(["A", "B", "1", "2", "Alien", "Aliens", ""]), st.text(max_size=12)), max_size=6
)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=80), MESSY), NAMES, st.sampled_from(["text", "label"]))
@example("1. \ud800\x00", ["\ud800"], "text")
def test_total_and_never_repeats_or_invents(text, names, style):
    ranking, problems = parse_ranking(text, names, style)
    assert len(set(ranking.order)) == len(ranking.order)
    assert set(ranking.order) <= set(range(len(names)))
    missing = [p.index for p in problems if isinstance(p, Missing)]
    assert sorted([*ranking.order, *missing]) == list(range(len(names)))
    assert parse_ranking(text, names, style) == (ranking, problems)


def names_of(alphabet):
    folded = st.text(alphabet, min_size=1, max_size=20).map(one_line).filter(bool)
    return st.lists(folded, min_size=1, max_size=8, unique=True)


@settings(max_examples=300)
@given(names_of(st.characters()), st.randoms(use_true_random=False))
@example(["1. Alien", "Alien"], None)
@example(["- Alien", "Alien", "ALIEN", "1. - Alien", "(2) Alien"], None)
def test_a_written_list_is_read_back(names, random):
    order = list(range(len(names)))
    if random is not None:
        random.shuffle(order)
    ranking, problems = parse_ranking(AnswerForm("text").write([names[j] for j in order]), names, "text")
    assert ranking.order == tuple(order)
    assert problems == ()


@settings(max_examples=200)
@given(names_of(st.characters(categories=["L", "N"])), st.randoms(use_true_random=False))
def test_written_labels_are_read_back(names, random):
    order = random.sample(range(len(names)), len(names))
    ranking, problems = parse_ranking(AnswerForm("label").write([names[j] for j in order]), names, "label")
    assert ranking.order == tuple(order)
    assert problems == ()


@given(st.integers(1, 12), st.data())
def test_repair_completes_and_keeps_what_was_said(count, data):
    said = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    whole = repair(Ranking(tuple(said)), count, "q", 0)
    assert sorted(whole.order) == list(range(count))
    assert list(whole.order[: len(said)]) == said
    assert whole == repair(Ranking(tuple(said)), count, "q", 0)


def test_repair_is_random_and_not_the_prompts_order():
    orders = [repair(Ranking(()), 4, f"q{i}", 0).order for i in range(400)]
    for position in range(4):
        counts = [sum(order[position] == j for order in orders) for j in range(4)]
        assert all(60 < n < 140 for n in counts)  # 100 expected, standard deviation 8.7
    assert orders != [repair(Ranking(()), 4, f"q{i}", 1).order for i in range(400)]
    assert random_order(5, "a", 1) != random_order(5, "a", 2)
