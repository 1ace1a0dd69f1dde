"""Rows in the shapes of the datasets, invented by a seed: what damage is done to. Nothing here is copied from them."""

from __future__ import annotations

import random
import re
from typing import Any

Row = dict[str, Any]

_SYLLABLES = re.findall(r"\w+", "ba de fi go hu ka le mi no pu ra se ti vo zu dan kel mir ros tan vel")
_COLUMNS = (
    "dialog_id utt_id speaker turn_id text text_with_placeholder movies genres people_names movie_dict genre_dict "
    "actor_dict director_dict others_dict expert_label second_label fine_label coarse_label movie_id"
)


class Inventor:
    """Words, sentences and ids, each row's own: no bit flipped in one id makes another row's id."""

    def __init__(self, seed: object) -> None:
        self._chance = random.Random(str(seed))
        self._given: set[str] = set()

    def word(self) -> str:
        """A word that was not given before."""
        while (made := "".join(self._chance.choices(_SYLLABLES, k=4))) in self._given:
            pass
        self._given.add(made)
        return made

    def words(self, count: int) -> str:
        """Several new words."""
        return " ".join(self.word() for _ in range(count))

    def number(self) -> int:
        """A number that no slip of one digit makes of another one's."""
        return self._chance.randrange(10**9, 10**10)

    def below(self, count: int) -> int:
        """A number in [0, count)."""
        return self._chance.randrange(count)


def own(i: Inventor) -> Row:
    """A list of the jsonl task."""
    candidates = [{"id": i.word(), "text": i.words(2), "relevance": y} for y in (2, 0, 1, 0)]
    return {"id": i.word(), "query": f"which {i.words(3)}?", "candidates": candidates}


def own_whole(i: Inventor) -> Row:
    """The same with everything that may be there."""
    row = own(i)
    for n, candidate in enumerate(row["candidates"]):
        candidate |= {"source": "user", "teacher": n - 1.5}
    return row | {"group": i.word()}


def question(i: Inventor) -> Row:
    """A question of ARC's and CommonsenseQA's websites."""
    choices = [{"text": i.word(), "label": label} for label in "ABCD"]
    return {"id": i.word(), "question": {"stem": f"{i.words(4)}?", "choices": choices}, "answerKey": "ABCD"[i.below(4)]}


def hub_question(i: Inventor) -> Row:
    """The same in the hub's form."""
    row = question(i)
    choices = row["question"]["choices"]
    columns = {key: [choice[key] for choice in choices] for key in ("text", "label")}
    return {"id": row["id"], "question": row["question"]["stem"], "choices": columns, "answerKey": row["answerKey"]}


def hotpot(i: Inventor) -> Row:
    """A question of HotpotQA's website: paragraphs 1 and 3 support it."""
    context = [[i.words(2), [f"{i.words(3)}.", f" {i.words(3)}."]] for _ in range(5)]
    return {
        "_id": i.word(), "question": f"{i.words(4)}?", "answer": i.word(), "type": "bridge", "level": "hard",
        "supporting_facts": [[context[1][0], 0], [context[3][0], 1]], "context": context,
    }  # fmt: skip


def hub_hotpot(i: Inventor) -> Row:
    """The same in the hub's form."""
    row = hotpot(i)
    facts, context = row["supporting_facts"], row["context"]
    return {
        "id": row["_id"], "question": row["question"], "answer": row["answer"], "level": row["level"],
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
        "context": {"title": [t for t, _ in context], "sentences": [s for _, s in context]},
    }  # fmt: skip


def musique(i: Inventor) -> Row:
    """A question of MuSiQue: paragraphs 1 and 4 support it."""
    paragraphs = [
        {
            "idx": n,
            "title": i.words(2),
            "paragraph_text": f"A {i.words(3)}. B {i.words(3)}.",
            "is_supporting": n in (1, 4),
        }
        for n in range(6)
    ]
    steps = [
        {
            "id": n,
            "question": i.words(3),
            "answer": paragraphs[n]["paragraph_text"].split()[1],
            "paragraph_support_idx": n,
        }
        for n in (1, 4)
    ]
    return {
        "id": i.word(), "paragraphs": paragraphs, "question": f"{i.words(4)}?", "question_decomposition": steps,
        "answer": steps[1]["answer"], "answer_aliases": [], "answerable": True,
    }  # fmt: skip


def redial(i: Inventor) -> Row:
    """A dialogue of ReDial's website: two films are recommended, one of them is liked."""
    films = {str(i.number()): f"{i.words(2).title()} ({1950 + i.below(60)})" for _ in range(3)}
    first, second, third = films
    seeker, recommender = i.number(), i.number()
    said = [
        (recommender, f"hello {i.word()}"), (seeker, f"I like @{first} and {i.words(2)}"),
        (recommender, f"watch @{second} {i.word()}"), (seeker, i.words(3)), (recommender, f"or @{third}"),
    ]  # fmt: skip
    return {
        "movieMentions": films,
        "respondentQuestions": [],
        "initiatorQuestions": {key: {"suggested": 1, "seen": 0, "liked": int(key == second)} for key in films},
        "messages": [
            {"timeOffset": n, "text": text, "senderWorkerId": who, "messageId": n} for n, (who, text) in enumerate(said)
        ],
        "conversationId": str(i.number()),
        "respondentWorkerId": recommender,
        "initiatorWorkerId": seeker,
    }


def hub_redial(i: Inventor) -> Row:
    """The same in the hub's form."""
    row = redial(i)
    form = [{"movieId": key, **answer} for key, answer in row["initiatorQuestions"].items()]
    mentions = [{"movieId": key, "movieName": title} for key, title in row["movieMentions"].items()]
    return row | {"conversationId": int(row["conversationId"]), "movieMentions": mentions, "initiatorQuestions": form}


def mention(i: Inventor) -> Row:
    """A row of ReDial's table of films."""
    return {"movieId": str(i.number()), "movieName": f"{i.words(2).title()} (1999)", "nbMentions": str(1 + i.below(50))}


def inspired(i: Inventor, dialogues: int) -> list[Row]:
    """Utterances of INSPIRED's dialogues: one film is recommended in each."""
    rows = []
    for _ in range(dialogues):
        name = i.word()
        said = [("SEEKER", i.words(3), ""), ("RECOMMENDER", i.words(4), f"{i.words(2).title()} (2001)")]
        said += [("SEEKER", i.words(2), "")]
        for number, (speaker, text, movies) in enumerate(said, start=1):
            row = dict.fromkeys(_COLUMNS.split(), "") | {
                "dialog_id": name, "utt_id": str(number), "speaker": speaker, "turn_id": str(number), "text": text,
                "movies": movies, "movie_dict": "{'x': 0}", "fine_label": "accept_others",
            }  # fmt: skip
            rows.append(row)
    return rows


def situation(i: Inventor) -> Row:
    """A turn-level row of INSPIRED."""
    text = f"System: hello {i.word()}\nUser: {i.words(3)}\nSystem: "
    return {"": str(i.number()), "full_situation": text, "movies": repr([i.words(2).title()])}


def suggestion(i: Inventor, dialogue: str) -> Row:
    """Films that a language model suggested in a dialogue."""
    return {"id": dialogue, "utt_ids_of_response": ["2"], "suggestions": [i.words(2).title() for _ in range(3)]}


def scored(i: Inventor) -> Row:
    """A row of UltraFeedback."""
    responses = [{"response": i.words(3), "overall_score": score} for score in (3.5, 1.0, 2.0)]
    return {"id": i.word(), "instruction": i.words(4), "completions": responses}


def parallel(i: Inventor) -> Row:
    """Responses and their scores side by side."""
    return {"prompt": i.words(4), "responses": [i.words(3) for _ in range(3)], "scores": [1, 3, 2]}


def pair(i: Inventor) -> Row:
    """A chosen and a rejected response."""
    return {"prompt": i.words(4), "chosen": i.words(3), "rejected": i.words(3)}


def messages(i: Inventor) -> Row:
    """The same as conversations that begin alike."""
    asked = {"role": "user", "content": i.words(4)}
    said = [[asked, {"role": "assistant", "content": i.words(3)}] for _ in range(2)]
    return {"chosen": said[0], "rejected": said[1], "score_chosen": 2.0, "score_rejected": 1.0}


def transcript(i: Inventor) -> Row:
    """The same as transcripts."""
    asked = f"\n\nHuman: {i.words(4)}\n\nAssistant: "
    return {"chosen": asked + i.words(3), "rejected": asked + i.words(3)}


def nectar(i: Inventor) -> Row:
    """Ranked answers."""
    asked = f"\n\nHuman: {i.words(4)}\n\nAssistant: "
    return {"prompt": asked, "answers": [{"answer": i.words(3), "rank": rank} for rank in (2, 1, 3)]}


def helpsteer(i: Inventor) -> Row:
    """Two responses and which is better."""
    asked = [{"role": "user", "content": i.words(4)}]
    return {"context": asked, "response1": i.words(3), "response2": i.words(3), "overall_preference": -2}


def judged(i: Inventor) -> list[Row]:
    """A table's rows of one query, a document each."""
    name, asked = i.word(), i.words(3)
    return [{"id": name, "query": asked, "doc_id": i.word(), "text": i.words(3), "label": y} for y in (0, 2, 1)]


def lists(i: Inventor) -> Row:
    """A table's row with a query's positives and negatives."""
    good, bad = ([i.words(2) for _ in range(count)] for count in (2, 3))
    return {"id": i.word(), "query": i.words(3), "positives": good, "negatives": bad}


def document(i: Inventor) -> Row:
    """A document of BEIR's."""
    return {"_id": i.word(), "title": i.words(2), "text": i.words(8), "metadata": {}}
