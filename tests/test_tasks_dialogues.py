"""ReDial's and INSPIRED's rows, written by hand, as lists of films; suggestions from a file or an endpoint."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from handmade import (
    RECOMMENDER,
    SEEKER,
    build,
    by_source,
    crowd,
    hub_redial,
    inspired,
    labels,
    redial,
    write_lines,
    write_list,
)

from irpo.tasks import Intake
from irpo.types import UserError

FILMS = {"1": "Alien  (1979)", "2": "Heat (1995) ", "3": "Tides", "4": "Alien (1979)", "5": "Up (2009)"}
FILMS |= {"6": "Ran (1985)"}
TALK = [
    (RECOMMENDER, "hello!"),
    (RECOMMENDER, "what  do you like?"),
    (SEEKER, "something like @1"),
    (RECOMMENDER, "you mean @4 ?"),
    (SEEKER, "yes, or @6"),
    (RECOMMENDER, "then see @2"),
    (RECOMMENDER, "or @3 or @6"),
    (SEEKER, "seen it"),
    (RECOMMENDER, "and @5"),
]


def _redial_folder(folder: Path, **options: Any) -> Path:
    write_lines(folder / "train_data.jsonl", crowd())
    write_lines(folder / "test_data.jsonl", [redial("77", TALK, FILMS, **options)])
    return folder


def test_a_dialogue_is_cut_before_its_first_recommendation(tmp_path):
    intake = Intake()
    (example,) = build("redial", _redial_folder(tmp_path), intake)["eval"]
    assert example.query == (
        "Recommender: hello! what do you like?\nSeeker: something like Alien (1979)\n"
        "Recommender: you mean Alien (1979) ?\nSeeker: yes, or Ran (1985)"
    )
    found = by_source(example)
    assert sorted(found["ground_truth"]) == ["Heat (1995)", "Tides", "Up (2009)"]
    assert len(found["random"]) == 17
    assert not {"Alien (1979)", "Ran (1985)"} & set(example.texts)
    assert {labels(example)[text] for text in found["ground_truth"]} == {2.0}
    assert "no LLM suggestions: their places went to random movies" in intake.notes


def test_accepted_films_come_first_then_the_most_named(tmp_path):
    (example,) = build("redial", _redial_folder(tmp_path, liked=["5"]), ground_truth=1)["eval"]
    assert by_source(example)["ground_truth"] == ["Up (2009)"]
    rows = [redial("1", [(SEEKER, "hi"), (RECOMMENDER, "@3")], FILMS), *crowd()]
    write_lines(tmp_path / "train_data.jsonl", rows)
    write_lines(tmp_path / "test_data.jsonl", [redial("77", TALK, FILMS)])
    (example,) = build("redial", tmp_path, ground_truth=1)["eval"]
    assert by_source(example)["ground_truth"] == ["Tides"]


def test_both_redial_forms_make_the_same_lists(tmp_path):
    ours = build("redial", _redial_folder(tmp_path / "a", liked=["5"]))
    write_lines(tmp_path / "b" / "train.json", map(hub_redial, crowd()))
    write_list(tmp_path / "b" / "test.json", [hub_redial(redial("77", TALK, FILMS, liked=["5"]))])
    assert build("redial", tmp_path / "b") == ours


def test_dialogues_that_recommend_nothing_are_refused(tmp_path):
    silent = redial("1", [(RECOMMENDER, "see @1"), (SEEKER, "@2"), (RECOMMENDER, "yes @2")], FILMS)
    alone = redial("2", TALK, FILMS) | {"initiatorWorkerId": RECOMMENDER}
    stranger = redial("3", [(33, "hi"), *TALK], FILMS)
    write_lines(tmp_path / "test.jsonl", [silent, alone, stranger, redial("4", TALK, FILMS), *crowd(3)])
    intake = Intake()
    assert [e.id for e in build("redial", tmp_path, intake)["eval"]] == ["4", "9000", "9001", "9002"]
    assert intake.dropped["eval"] == {
        "no turn of the recommender names a new movie after a non-empty context": 1,
        "seeker and recommender are one worker": 1,
        "a message of neither the seeker nor the recommender": 1,
    }
    assert "no training split: random movies follow the evaluation dialogues' own frequency" in intake.notes


def test_random_films_follow_the_mentions_file_where_there_is_no_training_split(tmp_path):
    write_lines(tmp_path / "test.jsonl", [redial("77", TALK, FILMS)])
    lines = ["movieId,movieName,nbMentions", "1,Alien  (1979),900", "8,Alien (1979),5", '9,"Ten, and More (1999)",3']
    (tmp_path / "movies_with_mentions.csv").write_bytes("\r\n".join([*lines, ""]).encode())
    intake = Intake()
    (example,) = build("redial", tmp_path, intake)["eval"]
    assert by_source(example)["random"] == ["Ten, and More (1999)"]
    assert "no training split: random movies follow movies_with_mentions.csv" in intake.notes


def test_suggestions_that_are_there_already_are_dropped(tmp_path):
    titles = ["heat", "ALIEN", "Aliens", "Tide", "Tides (1983)", "Filler Number 37 (1951)", "Aliens", "Cold", "Dew"]
    titles += ["Eel"]
    write_lines(tmp_path / "suggestions.jsonl", [{"id": "77", "suggestions": titles}])
    intake = Intake()
    (example,) = build("redial", _redial_folder(tmp_path), intake)["eval"]
    found = by_source(example)
    assert sorted(found["llm"]) == ["Aliens", "Cold", "Dew", "Filler Number 37 (1951)", "Tide"]
    assert {labels(example)[text] for text in found["llm"]} == {1.0}
    assert len(found["random"]) == 12
    assert len(example.candidates) == 20
    assert "Filler Number 37 (1951)" not in found["random"]
    dropped = intake.dropped["eval"]
    assert dropped["suggestion that is a ground truth"] == 2
    assert dropped["suggestion that the context mentions"] == 1
    assert dropped["suggestion that repeats another one"] == 1
    assert any("show no year as other movies do" in note for note in intake.notes)


def test_suggestions_can_be_named_or_left_aside(tmp_path):
    folder = _redial_folder(tmp_path / "data")
    write_lines(folder / "llm.jsonl", [{"conversationId": 77, "llm_recs_a": ["Ash"], "llm_recs_b": ["Elm"]}])
    assert by_source(build("redial", folder)["eval"][0])["llm"] == ["Ash"]
    assert by_source(build("redial", folder, suggestion_column="llm_recs_b")["eval"][0])["llm"] == ["Elm"]
    assert "llm" not in by_source(build("redial", folder, suggestions="none")["eval"][0])
    other = write_lines(tmp_path / "mine.jsonl", [{"id": "77", "suggestions": ["Oak"]}])
    assert by_source(build("redial", folder, suggestions=str(other))["eval"][0])["llm"] == ["Oak"]
    bad = write_lines(tmp_path / "bad.jsonl", [{"id": "77", "suggestions": "Oak"}])
    with pytest.raises(UserError, match=r"bad.jsonl:1: 'suggestions' is 'Oak'; it must be a list"):
        build("redial", folder, suggestions=str(bad))


def test_no_film_twice_under_other_ids_or_spellings(tmp_path):
    rows = crowd(40)
    for i, row in enumerate(crowd(40)):
        films = {str(700 + i): next(iter(row["movieMentions"].values())).upper()}
        rows.append(redial(f"8{i:03}", [(SEEKER, "hi"), (RECOMMENDER, f"@{700 + i}")], films))
    write_lines(tmp_path / "train.jsonl", rows)
    for example in build("redial", tmp_path)["train"]:
        assert len({text.casefold() for text in example.texts}) == len(example.candidates) == 20


SAID = [
    ("d1", "RECOMMENDER", "hello", ""),
    ("d1", "SEEKER", "I liked Alien", "Alien (1979)"),
    ("d1", "RECOMMENDER", "ok", ""),
    ("d1", "RECOMMENDER", 'then "Heat"', "Heat (1995);  Up (2009)"),
    ("d1", "SEEKER", "maybe", ""),
    ("d2", "RECOMMENDER", "see Ran", "Ran (1985)"),
    ("d2", "SEEKER", "no", ""),
    *[("d3", "RECOMMENDER" if i % 2 else "SEEKER", f"line {i}", f"Filler Number {i * 37} (2001)") for i in range(50)],
]


def test_inspired(tmp_path):
    inspired(tmp_path / "test.tsv", SAID)
    intake = Intake()
    first, _ = build("inspired", tmp_path, intake)["eval"]
    assert first.id == "d1"
    assert first.query == "Recommender: hello\nSeeker: I liked Alien"
    assert sorted(by_source(first)["ground_truth"]) == ["Heat", "Up"]
    assert "Alien" not in first.texts
    assert {c.id for c in first.candidates if c.relevance} == {"Heat (1995)", "Up (2009)"}
    assert intake.dropped["eval"]["no turn of the recommender names a new movie after a non-empty context"] == 1
    with_years = build("inspired", tmp_path, years=True)["eval"][0]
    assert sorted(by_source(with_years)["ground_truth"]) == ["Heat (1995)", "Up (2009)"]


def test_inspired_suggestions_go_by_the_turn(tmp_path):
    inspired(tmp_path / "test.tsv", SAID)
    rows = [
        {"dialog_id": "d1", "utt_ids_of_response": ["1"], "llm_recs_gpt": ["Ash"]},
        {"dialog_id": "d1", "utt_ids_of_response": ["3", "4"], "llm_recs_gpt": ["Up", "Elm", "Aliens"]},
    ]
    write_lines(tmp_path / "llm_recs.derived.jsonl", rows)
    first, second = build("inspired", tmp_path)["eval"]
    assert sorted(by_source(first)["llm"]) == ["Aliens", "Elm"]
    assert "llm" not in by_source(second)


def test_inspired_turn_level_rows_make_one_list_a_dialogue(tmp_path):
    start = "\nSystem: hello\nUser: hi\nthere\nSystem: "
    rows = [
        (start, "['Heat']"),
        (f"{start}see Heat\nUser: more\nSystem: ", "['Heat', 'Up']"),
        ("\nSystem: good day\nUser: help\nSystem: ", "['Ran']"),
    ]
    cells = [f'{i},"{text}","{films}"' for i, (text, films) in enumerate(rows)]
    (tmp_path / "train.csv").write_text("\n".join([",full_situation,movies", *cells, ""]))
    first, second = build("inspired", tmp_path)["train"]
    assert first.query == "Recommender: hello\nSeeker: hi there"
    assert labels(first) == {"Heat": 2, "Up": 2, "Ran": 0}
    assert second.query == "Recommender: good day\nSeeker: help"
    inspired(tmp_path / "train.tsv", SAID)
    assert [e.id for e in build("inspired", tmp_path)["train"]] == ["d1", "d3"]


def test_cells_are_never_run(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(',full_situation,movies\n0,"System: a\nUser: b\nSystem: ",__import__("os").abort()\n')
    with pytest.raises(UserError, match=r"train.csv:2: 'movies' is .*; it must be a list of titles"):
        build("inspired", tmp_path)


def test_room_for_every_kind(tmp_path):
    with pytest.raises(UserError, match=r"list_size 8, ground_truth 3, llm_suggested 5: .* room for at least 1 random"):
        build("redial", _redial_folder(tmp_path), list_size=8)


# ---- an endpoint -----------------------------------------------------------------------------------------------------


class _Stub(http.server.BaseHTTPRequestHandler):
    asked: list[dict[str, Any]]
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body | {"path": self.path})
        message = {"role": "assistant", "content": '1. "Aliens (1986)"\n2. Heat\n\n3. Cold'}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        content = json.dumps(reply).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def stub(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (_Stub,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler
        server.shutdown()


def test_an_endpoint_is_asked_once_and_its_answers_kept(tmp_path, stub):
    pytest.importorskip("openai")
    url, handler = stub
    folder = write_lines(tmp_path / "test.jsonl", [redial("77", TALK, FILMS), *crowd(2)]).parent
    cache = tmp_path / "deep" / "cache.jsonl"
    options = {"llm_endpoint": url, "llm_model": "m", "llm_cache": str(cache)}
    lists = build("redial", folder, **options)["eval"]
    assert sorted(by_source(lists[0])["llm"]) == ["Aliens (1986)", "Cold"]
    # The two other dialogues have one context, so they ask one question.
    assert [body["path"] for body in handler.asked] == ["/v1/chat/completions"] * 2
    assert "Seeker: something like Alien (1979)" in handler.asked[0]["messages"][0]["content"]
    assert len(cache.read_text().splitlines()) == 2
    assert build("redial", folder, **options | {"llm_endpoint": "http://127.0.0.1:9/v1"})["eval"] == lists
    assert len(handler.asked) == 2


def test_an_endpoint_that_fails(tmp_path, stub):
    pytest.importorskip("openai")
    url, handler = stub
    handler.status = 401
    path = write_lines(tmp_path / "test.jsonl", [redial("77", TALK, FILMS)])
    cache = tmp_path / "cache.jsonl"
    with pytest.raises(UserError, match=r"llm_endpoint: 'http.*' gives no answer") as error:
        build("redial", path, llm_endpoint=url, llm_model="m", llm_cache=str(cache))
    assert "\n" not in str(error.value)
    assert not cache.exists()
    with pytest.raises(UserError, match="without llm_model"):
        build("redial", path, llm_endpoint=url)
