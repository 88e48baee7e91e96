from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ModelAuthenticationError, ModelRateLimitError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from pydantic import BaseModel

from orchestra.agents.context import TurnFailed
from orchestra.agents.script import ERROR_KINDS, check_script, load_script
from orchestra.agents.scripted import ScriptedChatModel
from orchestra.errors import PipelineError
from orchestra.testing import git_repo, write_script

ASK = HumanMessage("go")


def model(directory: Path, turns: list[list[dict[str, Any]]], *, turn: int = 1) -> ScriptedChatModel:
    script = load_script(write_script(directory / "script.yaml", {"critic": turns}))
    return ScriptedChatModel(script=script, agent="critic", turn=turn)


async def test_a_reply_bears_text_usage_and_a_stop_reason(tmp_path: Path) -> None:
    reply = await model(tmp_path, [[{"text": "Fine.", "usage": {"input_tokens": 9, "output_tokens": 2}}]]).ainvoke(
        [ASK]
    )
    assert reply.text == "Fine."
    assert reply.usage_metadata is not None
    assert (reply.usage_metadata["input_tokens"], reply.usage_metadata["total_tokens"]) == (9, 11)
    metadata = reply.response_metadata
    assert (metadata["stop_reason"], metadata["model_name"], metadata["model_provider"]) == (
        "end_turn",
        "scripted",
        "scripted",
    )


def test_the_turn_and_the_earlier_replies_choose_the_reply(tmp_path: Path) -> None:
    turns = [[{"text": "one"}, {"text": "two"}], [{"text": "again"}]]
    first = model(tmp_path, turns)
    assert first.invoke([ASK]).text == "one"
    assert first.invoke([ASK]).text == "one"
    assert first.invoke([ASK, AIMessage("one")]).text == "two"
    assert model(tmp_path, turns, turn=2).invoke([ASK]).text == "again"


def test_tools_are_called_under_their_wire_names(tmp_path: Path) -> None:
    turns = [[{"text": "I look.", "tools": [{"name": "backend:read-file", "args": {"path": "a.py"}}, {"name": "x"}]}]]
    reply = model(tmp_path, turns).invoke([ASK])
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [
        ("backend__read-file", {"path": "a.py"}),
        ("x", {}),
    ]
    assert len({call["id"] for call in reply.tool_calls}) == 2
    assert reply.response_metadata["stop_reason"] == "tool_use"


def test_an_output_without_a_tool_for_it_is_text(tmp_path: Path) -> None:
    assert model(tmp_path, [[{"output": {"verdict": "é"}}]]).invoke([ASK]).text == '{"verdict": "é"}'


def test_langchains_structured_output_works(tmp_path: Path) -> None:
    class Verdict(BaseModel):
        verdict: str

    structured = model(tmp_path, [[{"output": {"verdict": "approve"}}]]).with_structured_output(Verdict)
    assert structured.invoke([ASK]) == Verdict(verdict="approve")


async def test_a_stream_gives_words_then_calls_then_usage(tmp_path: Path) -> None:
    turns = [[{"text": "I look  now.\n", "tools": [{"name": "repo:x", "args": {"a": [1]}}]}]]
    playing = model(tmp_path, turns)
    chunks = [chunk async for chunk in playing.astream([ASK])]
    assert [chunk.text for chunk in chunks[:3]] == ["I", " look", "  now.\n"]
    assert isinstance(chunks[3], AIMessageChunk)
    assert chunks[3].tool_call_chunks[0]["name"] == "repo__x"
    assert chunks[4].usage_metadata is not None
    assert chunks[4].response_metadata["stop_reason"] == "tool_use"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    plain = playing.invoke([ASK])
    assert (whole.text, whole.usage_metadata) == (plain.text, plain.usage_metadata)
    assert [(call["name"], call["args"], call["id"]) for call in whole.tool_calls] == [
        (call["name"], call["args"], call["id"]) for call in plain.tool_calls
    ]


def test_an_error_is_met_as_often_as_it_says_and_then_passed_over(tmp_path: Path) -> None:
    playing = model(tmp_path, [[{"text": "a"}, {"error": "rate_limit", "times": 2}, {"text": "b"}]])
    assert playing.invoke([ASK]).text == "a"
    for _ in range(2):
        with pytest.raises(ModelRateLimitError):
            playing.invoke([ASK, AIMessage("a")])
    assert playing.invoke([ASK, AIMessage("a")]).text == "b"


def test_errors_are_langchains_own(tmp_path: Path) -> None:
    with pytest.raises(ModelAuthenticationError, match="401"):
        model(tmp_path, [[{"error": "auth"}]]).invoke([ASK])


def test_a_truncated_answer_names_no_stop_reason(tmp_path: Path) -> None:
    reply = model(tmp_path, [[{"error": "truncated"}]]).invoke([ASK])
    assert "stop_reason" not in reply.response_metadata


def test_the_end_of_the_script_is_named(tmp_path: Path) -> None:
    playing = model(tmp_path, [[{"text": "a"}]])
    with pytest.raises(TurnFailed, match="no reply 2 in turn 1 of the agent 'critic'") as caught:
        playing.invoke([ASK, AIMessage("a")])
    assert caught.value.code == "script-exhausted"
    assert f"add a reply in {tmp_path / 'script.yaml'}, after line 3" in str(caught.value.hint)
    with pytest.raises(TurnFailed, match=r"no turn 3 for the agent 'critic' \(it has 1\)"):
        model(tmp_path, [[{"text": "a"}]], turn=3).invoke([ASK])


# The file


def mistakes(directory: Path, text: str) -> list[tuple[int, int, str, str | None]]:
    path = directory / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load_script(path)
    return [
        (problem.location.line, problem.location.column, problem.message, problem.hint)
        for problem in caught.value.problems
        if problem.location is not None
    ]


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("critic:\n  - [{text: x}]\n", (1, 1), "unknown key 'critic' in a script", "known keys: agents"),
        ("agents:\n  critic: {text: x}\n", (2, 11), "the turns of 'critic' must be a list", "a turn is a list"),
        ("agents:\n  critic:\n    - {text: x}\n", (3, 7), "turn 1 of 'critic' must be a list of replies", "- [{text"),
        ("agents:\n  critic:\n    - []\n", (3, 7), "turn 1 of 'critic' must be a list of replies", "- [{text"),
        ("agents:\n  critic:\n    - [hello]\n", (3, 8), "a reply must be a mapping", "{text: Done.}"),
        ("agents:\n  c:\n    - [{txt: x}]\n", (3, 9), "unknown key 'txt' in a reply", "did you mean 'text'?"),
        ("agents:\n  c:\n    - [{delay: 1}]\n", (3, 8), "a reply needs one of: text", "write {text"),
        ("agents:\n  c:\n    - [{error: ratelimit}]\n", (3, 16), "unknown error kind 'ratelimit'", "'rate_limit'"),
        ("agents:\n  c:\n    - [{error: 429}]\n", (3, 16), "unknown error kind 429", "one of: rate_limit"),
        ("agents:\n  c:\n    - [{error: auth, text: x}]\n", (3, 16), "an error stands alone", None),
        ("agents:\n  c:\n    - [{error: auth, times: 0}]\n", (3, 29), "`times` must be a whole number", None),
        ("agents:\n  c:\n    - [{text: x, times: 2}]\n", (3, 25), "`times` belongs to an error", None),
        ("agents:\n  c:\n    - [{text: x, delay: soon}]\n", (3, 25), "`delay` must be a number", None),
        ("agents:\n  c:\n    - [{text: 3}]\n", (3, 15), "`text` must be a string", "quote it"),
        ("agents:\n  c:\n    - [{tools: x}]\n", (3, 16), "`tools` must be a list of calls", "write [{name"),
        ("agents:\n  c:\n    - [{tools: [{nam: x}]}]\n", (3, 18), "unknown key 'nam' in a tool call", "'name'"),
        ("agents:\n  c:\n    - [{tools: [{name: x, args: [1]}]}]\n", (3, 33), "`args` must be a mapping", None),
        ("agents:\n  c:\n    - [{text: x, usage: {tokens: 3}}]\n", (3, 26), "unknown key 'tokens' in `usage`", None),
        ("agents:\n  c:\n    - [{output: 1, tools: []}]\n", (3, 17), "a reply has either `tools` or `output`", None),
    ],
)
def test_a_mistake_in_a_script_has_its_place(
    tmp_path: Path, text: str, place: tuple[int, int], message: str, hint: str | None
) -> None:
    line, column, said, advised = mistakes(tmp_path, text)[0]
    assert (line, column) == place
    assert message in said
    assert hint is None or hint in str(advised)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "agents:\n  a:\n    - [{txt: x, text: y}]\n  b:\n    - [{error: no}]\n")
    assert [line for line, *_ in found] == [3, 5]


def test_a_script_is_compared_with_the_agents(tmp_path: Path) -> None:
    script = load_script(write_script(tmp_path / "s.yaml", {"critik": [[{"text": "x"}]], "fixer": [[{"text": "x"}]]}))
    found = [(problem.code, problem.hint, problem.severity) for problem in check_script(script, ["critic", "fixer"])]
    assert found == [
        ("script-missing-agent", "rename the entry: did you mean 'critik'?", "warning"),
        ("script-unknown-agent", "did you mean 'critic'?", "warning"),
    ]


def test_each_error_kind_can_be_played(tmp_path: Path) -> None:
    for kind in ERROR_KINDS:
        playing = model(tmp_path, [[{"error": kind}, {"text": "ok"}]])
        if kind != "truncated":
            with pytest.raises(Exception, match="scripted"):
                playing.invoke([ASK])


# Helpers for the tests of others


def test_a_script_with_a_mistake_is_not_written_silently(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="unknown key"):
        write_script(tmp_path / "s.yaml", {"a": [[{"txt": "x"}]]})


def test_a_repository_has_the_same_commits_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = git_repo(tmp_path / "one", {"src/a.py": "x = 1\n"})
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone Else")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    second = git_repo(tmp_path / "two", {"src/a.py": "x = 1\n"})
    assert first.head == second.head == "4b3fa9cadd0d3ece4766cf8aa46dc79d2dcd8c5e"
    assert first.commit({"src/a.py": None, "b": b"\0"}) == second.commit({"src/a.py": None, "b": b"\0"})
    assert first.git("ls-files") == "b"
    with pytest.raises(AssertionError, match="git rev-parse nope failed"):
        first.git("rev-parse", "nope")


def test_the_script_of_the_documentation_is_right(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "scripted-models.md"
    blocks = page.read_text().split("```yaml\n")[1:]
    script = next(block.split("```")[0] for block in blocks if block.startswith("# script"))
    (tmp_path / "script.yaml").write_text(script)
    assert list(load_script(tmp_path / "script.yaml").agents) == ["critic", "fixer", "flaky"]
    for kind in ERROR_KINDS:
        assert f"| `{kind}` |" in page.read_text()
