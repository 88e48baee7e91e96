from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from pydantic import BaseModel

from orchestra.agents.attempts import AttemptMiddleware
from orchestra.agents.calls import NO_PAUSES, Backoff
from orchestra.agents.context import TurnFailed
from orchestra.agents.harness import turn_namespace
from orchestra.agents.outputs import OutputSpec
from orchestra.errors import AgentError, PipelineError
from tests.harness_support import RecordingTurn, echo_tool, make_graph, make_harness, make_tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.agents.harness import AgentHarness, TurnResult

VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["approve", "revise"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


async def run(harness: AgentHarness, turn: RecordingTurn | None = None) -> TurnResult:
    return await harness.run(
        variables={"what": "the bug"}, context="Inputs: none.", turn=turn or RecordingTurn(), config={}
    )


async def failure(harness: AgentHarness, turn: RecordingTurn | None = None) -> TurnFailed:
    with pytest.raises(TurnFailed) as caught:
        await run(harness, turn)
    return caught.value


# What a turn gives


async def test_the_last_reply_is_the_output(tmp_path: Path) -> None:
    result = await run(make_harness(tmp_path, [[{"text": "All fixed."}]]))
    assert (result.output, result.text, result.calls) == ("All fixed.", "All fixed.", 1)


async def test_the_context_is_the_first_human_message(tmp_path: Path) -> None:
    result = await run(make_harness(tmp_path, [[{"text": "ok"}]]))
    assert isinstance(result.messages[0], HumanMessage)
    assert result.messages[0].text == "Inputs: none."


async def test_a_tool_call_is_answered_and_logged_under_the_users_name(tmp_path: Path) -> None:
    turn = RecordingTurn()
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo", "args": {"text": "hi"}}]}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=(echo_tool(),)), turn)
    answer = result.messages[2]
    assert isinstance(answer, ToolMessage)
    assert (answer.text, answer.name, answer.status) == ("echo hi", "repo__echo", "success")
    assert answer.artifact is None
    call = {"tool": "repo:echo", "call": "call-1-1-1"}
    assert turn.of("tool_started") == [{"type": "tool_started", **call, "args": {"text": "hi"}}]
    (ended,) = turn.of("tool_ended")
    assert ended == {**ended, **call, "ok": True, "exit_code": None, "result": "echo hi"}
    assert [reply["calls"] for reply in turn.of("model_ended")] == [["repo:echo"], []]


async def test_what_an_agent_was_told_and_what_it_wrote_is_logged(tmp_path: Path) -> None:
    turn = RecordingTurn()
    replies: list[dict[str, Any]] = [{"text": "First I look."}, {"text": "Done."}]
    replies[0]["tools"] = [{"name": "repo:echo", "args": {"text": "hi"}}]
    await run(make_harness(tmp_path, [replies], tools=(echo_tool(),)), turn)

    assert turn.of("prompt_given") == [
        {"type": "prompt_given", "system": "You fix things.\n\nFix the bug.", "message": "Inputs: none."}
    ]
    written = [(piece["text"], piece["spoken"]) for piece in turn.of("text_delta")]
    assert written == [("First I look.", False), ("Done.", False)]


async def test_long_arguments_are_cut_in_the_log(tmp_path: Path) -> None:
    turn = RecordingTurn()
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo", "args": {"text": "x" * 5000}}]}, {"text": "ok"}]
    await run(make_harness(tmp_path, [replies], tools=(echo_tool(),)), turn)
    assert turn.of("tool_started")[0]["args"]["text"].endswith("… (5000 characters)")


async def test_what_is_cut_for_the_log_is_not_cut_within_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", "canary-0123456789abcdef")
    text = "x" * 490 + "canary-0123456789abcdef"
    turn = RecordingTurn()
    calls = [{"name": "repo:echo", "args": {"text": text}}, {"name": "repo:echo", "args": {"text": [text]}}]
    harness = make_harness(tmp_path, [[{"tools": calls}, {"text": "ok"}]], tools=(echo_tool(),))
    await run(harness, turn)
    attempts = AttemptMiddleware(cast("Any", turn), harness._ref, NO_PAUSES, harness._resolver.redact, {})
    assert len(turn.of("tool_started")) == 2
    assert "canary" not in json.dumps(turn.of("tool_started")) + attempts._text(ValueError(text))


async def test_a_failed_tool_is_a_message_to_the_model(tmp_path: Path) -> None:
    async def fail(_: Mapping[str, Any]) -> None:
        return None

    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:bad"}]}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=(make_tool("repo:bad", fail),)))
    assert isinstance(result.messages[2], ToolMessage)
    assert (result.messages[2].status, result.messages[2].text) == ("error", "it failed")


@pytest.mark.parametrize("args", [{"tex": "hi"}, {"text": []}, {"self": 1}, {"config": {}}, {"run_manager": 1}])
async def test_wrong_arguments_are_a_message_to_the_model(tmp_path: Path, args: dict[str, Any]) -> None:
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo", "args": args}]}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=(echo_tool(),)))
    assert isinstance(result.messages[2], ToolMessage)
    assert result.messages[2].status == "error"
    assert result.output == "ok"


async def test_an_unknown_tool_is_answered_with_the_tools_there_are(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:ecko"}]}, {"text": "ok"}]
    turn = RecordingTurn()
    result = await run(make_harness(tmp_path, [replies], tools=(echo_tool(),)), turn)
    assert result.messages[2].text == "there is no tool 'repo__ecko'; the tools are: repo__echo"
    assert [event["unknown"] for kind in ("tool_started", "tool_ended") for event in turn.of(kind)] == [True, True]


async def test_the_last_git_commit_call_names_the_commit(tmp_path: Path) -> None:
    schema_tool = make_tool("repo:git-commit", lambda _: asyncio.sleep(0, "ok"))
    tool = type(schema_tool)(
        schema_tool.name,
        schema_tool.description,
        {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
        schema_tool.run,
    )
    commits = [{"name": "repo:git-commit", "args": {"message": text}} for text in ("one", "two")]
    broken = {"name": "repo:git-commit", "args": {"note": "no message"}}
    replies: list[dict[str, Any]] = [{"tools": commits}, {"tools": [broken]}, {"text": "ok"}]
    assert (await run(make_harness(tmp_path, [replies], tools=(tool,)))).commit_messages == {"repo": "two"}


async def test_each_repo_has_the_message_of_its_own_git_commit_call(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
    made = [make_tool(f"{repo}:git-commit", lambda _: asyncio.sleep(0, "ok")) for repo in ("x", "y", "z")]
    tools = tuple(type(tool)(tool.name, tool.description, schema, tool.run) for tool in made)
    commits = [{"name": f"{repo}:git-commit", "args": {"message": f"in {repo}"}} for repo in ("x", "y")]
    replies: list[dict[str, Any]] = [{"tools": commits}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=tools))
    assert result.commit_messages == {"x": "in x", "y": "in y"}


async def test_an_empty_answer_is_kept_with_a_warning(tmp_path: Path) -> None:
    turn = RecordingTurn()
    result = await run(make_harness(tmp_path, [[{"text": ""}]]), turn=turn)
    assert result.output == ""
    assert [event["code"] for event in turn.of("warning")] == ["empty-answer"]


async def test_an_answer_cut_at_the_limit_is_kept_with_a_warning(tmp_path: Path) -> None:
    turn = RecordingTurn()
    result = await run(make_harness(tmp_path, [[{"text": "half", "stop_reason": "max_tokens"}]]), turn)
    assert result.output == "half"
    assert [event["code"] for event in turn.of("warning")] == ["answer-cut"]


async def test_a_call_cut_at_the_limit_is_not_run(tmp_path: Path) -> None:
    ran: list[Any] = []

    async def note(args: Mapping[str, Any]) -> str:
        ran.append(args["text"])
        return "ok"

    calls = [{"name": "repo:note", "args": {"text": text}} for text in ("whole", "ha")]
    replies: list[dict[str, Any]] = [{"tools": calls, "stop_reason": "max_tokens"}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=(make_tool("repo:note", note, writes=True),)))
    assert ran == ["whole"]
    assert "token limit" in str([message.text for message in result.messages])


# Limits and models that fail


async def test_too_many_calls_fail_the_turn(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo"}]}] * 3
    error = await failure(make_harness(tmp_path, [replies], tools=(echo_tool(),), max_calls=2))
    assert (error.code, error.retry) == ("max-calls", "restart")
    assert "max_calls" in str(error.hint)


async def test_many_calls_do_not_reach_the_recursion_limit(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo"}]}] * 40
    result = await run(make_harness(tmp_path, [[*replies, {"text": "ok"}]], tools=(echo_tool(),)))
    assert result.calls == 41


async def test_a_limit_of_the_session_stops_the_turn_as_it_is(tmp_path: Path) -> None:
    turn = RecordingTurn()

    def refuse() -> None:
        raise AgentError("limits.max_cost_usd is reached", code="cost-limit")

    turn.before_call = refuse
    with pytest.raises(AgentError, match="max_cost_usd"):
        await run(make_harness(tmp_path, [[{"text": "never"}]]), turn)
    assert [event["type"] for event in turn.events] == ["prompt_given"]


@pytest.mark.parametrize("kind", ["rate_limit", "overloaded", "timeout", "server", "connection", "truncated"])
async def test_passing_failures_are_tried_again(tmp_path: Path, kind: str) -> None:
    turn = RecordingTurn()
    result = await run(make_harness(tmp_path, [[{"error": kind, "times": 2}, {"text": "ok"}]]), turn)
    assert (result.output, result.calls) == ("ok", 1)
    assert [event["retry_in"] for event in turn.of("model_failed")] == [0.0, 0.0]
    assert [event["attempt"] for event in turn.of("model_started")] == [1, 2, 3]
    assert not turn.failures


async def test_a_model_that_stays_away_fails_the_turn_which_can_go_on(tmp_path: Path) -> None:
    turn = RecordingTurn()
    error = await failure(make_harness(tmp_path, [[{"error": "overloaded", "times": 99}]]), turn)
    assert (error.code, error.retry) == ("model-failed", "continue")
    assert "after 5 attempts: ModelAPIError: 529: overloaded" in error.message
    assert turn.of("model_failed")[-1]["retry_in"] is None


async def test_the_call_is_made_again_while_the_session_has_patience(tmp_path: Path) -> None:
    turn = RecordingTurn()
    turn.patience = 1
    result = await run(make_harness(tmp_path, [[{"error": "server", "times": 7}, {"text": "ok"}]]), turn)
    assert result.output == "ok"
    assert [error.code for error in turn.failures] == ["model-failed"]
    assert [event["attempt"] for event in turn.of("model_failed")] == [1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("auth", "model-auth"),
        ("not_found", "model-not-found"),
        ("invalid_request", "model-request"),
        ("context_overflow", "context-overflow"),
    ],
)
async def test_lasting_failures_are_not_tried_again(tmp_path: Path, kind: str, code: str) -> None:
    turn = RecordingTurn()
    error = await failure(make_harness(tmp_path, [[{"error": kind}, {"text": "never"}]]), turn)
    assert (error.code, error.retry) == (code, "never")
    assert error.hint
    assert len(turn.of("model_started")) == 1
    assert not turn.failures


async def test_a_model_that_can_not_be_built_any_more_fails_the_turn(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, [[{"text": "x"}]])
    (tmp_path / "script.yaml").unlink()
    error = await failure(harness)
    assert (error.code, error.retry) == ("file-not-found", "never")


async def test_a_refusal_fails_the_turn(tmp_path: Path) -> None:
    error = await failure(make_harness(tmp_path, [[{"text": "", "stop_reason": "refusal"}]]))
    assert (error.code, error.retry) == ("model-refused", "never")


async def test_a_script_without_a_further_reply_says_where_to_add_one(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, [[{"tools": [{"name": "repo:echo"}]}]], tools=(echo_tool(),))
    error = await failure(harness)
    assert (error.code, error.retry) == ("script-exhausted", "never")
    assert "no reply 2 in turn 1 of the agent 'fixer'" in error.message
    assert error.location is not None
    assert error.location.path == tmp_path / "script.yaml"


async def test_a_model_call_is_logged_with_its_tokens(tmp_path: Path) -> None:
    turn = RecordingTurn()
    usage = {"input_tokens": 900, "output_tokens": 40, "cached_tokens": 100, "cost_usd": 0.25}
    await run(make_harness(tmp_path, [[{"text": "ok", "usage": usage}]]), turn)
    ended = turn.of("model_ended")[0]
    assert {key: ended[key] for key in usage} == usage
    assert (ended["model"], ended["provider"], ended["attempt"]) == ("m", "offline", 1)
    assert ended["stop_reason"] == "end_turn"


def test_retry_after_is_obeyed_up_to_the_cap() -> None:
    error = Exception()
    error.response = type("Response", (), {"headers": {"retry-after": "7"}})()  # type: ignore[attr-defined]
    backoff = Backoff(initial_delay=1, max_delay=60, max_total=100)
    assert backoff.delay(0, error, 0.0, 0.0) == 7
    error.response.headers = {"retry-after": "4000000"}  # type: ignore[attr-defined]
    assert backoff.delay(0, error, 0.0, 0.0) == 60
    assert backoff.delay(0, error, 90.0, 0.0) == 10
    assert backoff.delay(3, Exception(), 0.0, 0.0) == 8


# The order of tool calls


async def test_calls_that_write_run_in_their_order_and_reads_between_them(tmp_path: Path) -> None:
    happened: list[str] = []
    both_reading = asyncio.Barrier(2)

    def traced(name: str, *, writes: bool) -> Any:
        async def run(_: Mapping[str, Any]) -> str:
            happened.append(f"{name} starts")
            await (asyncio.sleep(0) if writes else both_reading.wait())
            happened.append(f"{name} ends")
            return name

        return make_tool(f"repo:{name}", run, writes=writes)

    names = ["write-a", "read-a", "read-b", "write-b"]
    tools = tuple(traced(name, writes=name.startswith("write")) for name in names)
    turn = RecordingTurn()
    replies: list[dict[str, Any]] = [{"tools": [{"name": f"repo:{name}"} for name in names]}, {"text": "ok"}]
    result = await run(make_harness(tmp_path, [replies], tools=tools), turn)
    assert happened[:2] == ["write-a starts", "write-a ends"]
    assert sorted(happened[2:4]) == ["read-a starts", "read-b starts"]
    assert happened[6:] == ["write-b starts", "write-b ends"]
    assert turn.snapshots == 2
    assert result.snapshot == {"_session": {"repo": {"commit": "after repo:write-b", "n": 2}}}
    assert [message.text for message in result.messages[2:6]] == names


# Structured output


async def test_a_structured_output_is_a_json_value(tmp_path: Path) -> None:
    harness = make_harness(
        tmp_path, [[{"output": {"verdict": "approve"}}]], output=OutputSpec.from_schema(VERDICT), tools=(echo_tool(),)
    )
    assert (await run(harness)).output == {"verdict": "approve"}


async def test_an_invalid_output_can_be_mended_once(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"output": {"verdict": "maybe"}}, {"output": {"verdict": "revise"}}]
    turn = RecordingTurn()
    result = await run(make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT)), turn)
    assert result.output == {"verdict": "revise"}
    assert "verdict: 'maybe' is not one of ['approve', 'revise']" in result.messages[2].text
    assert [event["code"] for event in turn.of("warning")] == ["output-repair"]


async def test_an_output_that_stays_invalid_fails_the_turn(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"output": {"verdict": "maybe"}}] * 3
    turn = RecordingTurn()
    error = await failure(make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT)), turn)
    assert (error.code, error.retry) == ("invalid-output", "restart")
    assert "- verdict: 'maybe' is not one of" in error.message
    assert len(turn.of("model_started")) == 2


async def test_an_output_written_as_text_is_taken(tmp_path: Path) -> None:
    fenced = '```json\n{"verdict": "approve"}\n```'
    replies: list[dict[str, Any]] = [{"text": f"I approve.\n{fenced}"}, {"text": fenced}]
    result = await run(make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT)))
    assert (result.output, result.calls) == ({"verdict": "approve"}, 2)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}}, [1, 2]),
        ({"type": "string"}, "yes"),
        ({"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}, {"b": 1}),
        ({"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}, [1]),
    ],
)
async def test_an_output_need_not_be_an_object(tmp_path: Path, schema: dict[str, Any], value: Any) -> None:
    harness = make_harness(tmp_path, [[{"output": value}]], output=OutputSpec.from_schema(schema))
    assert (await run(harness)).output == value


class Finding(BaseModel):
    line: int
    why: str = "unclear"


class Findings(BaseModel):
    findings: list[Finding]


async def test_a_pydantic_output_is_stored_in_its_json_form(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"output": {"findings": [{"line": "x"}]}}, {"output": {"findings": [{"line": 3}]}}]
    result = await run(make_harness(tmp_path, [replies], output=OutputSpec.from_model(Findings)))
    assert result.output == {"findings": [{"line": 3, "why": "unclear"}]}
    assert "findings[0].line: Input should be a valid integer" in result.messages[2].text


async def test_an_output_beside_other_calls_lets_them_run(tmp_path: Path) -> None:
    harness = make_harness(tmp_path, [[{"text": "x"}]], output=OutputSpec.from_schema(VERDICT), tools=(echo_tool(),))
    reply = AIMessage(
        "",
        tool_calls=[
            {"name": "repo__echo", "args": {"text": "hi"}, "id": "1"},
            {"name": "submit_output", "args": {"verdict": "approve"}, "id": "1"},
        ],
        response_metadata={"stop_reason": "tool_use"},
    )
    result = await run(with_replies(harness, reply))
    assert result.output == {"verdict": "approve"}
    assert "echo hi" in [message.text for message in result.messages]
    assert result.calls == 1


async def test_an_output_cut_at_the_limit_is_not_taken(tmp_path: Path) -> None:
    cut = {"output": {"verdict": "approve"}, "stop_reason": "max_tokens"}
    error = await failure(make_harness(tmp_path, [[cut, cut, cut]], output=OutputSpec.from_schema(VERDICT)))
    assert error.code == "invalid-output"
    assert "token limit" in error.message
    replies: list[dict[str, Any]] = [cut, {"output": {"verdict": "revise"}}]
    result = await run(make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT)))
    assert result.output == {"verdict": "revise"}


async def test_no_answer_at_all_can_be_mended(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"text": ""}, {"output": {"verdict": "approve"}}]
    result = await run(make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT)))
    assert result.output == {"verdict": "approve"}
    assert result.messages[1].text == "(no answer)"


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"type": "array", "items": {"$ref": "https://example.com/schema.json"}}],
)
def test_a_schema_that_can_not_be_used_is_an_error(schema: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="is no usable schema") as caught:
        OutputSpec.from_schema(schema)
    assert caught.value.code == "bad-output-schema"


# Replies as other models write them


def with_replies(harness: AgentHarness, *replies: AIMessage) -> AgentHarness:
    """Let the harness's model give these messages, as a provider's client would."""
    from orchestra.agents.scripted import ScriptedChatModel

    build = harness._resolver.build

    class Played(ScriptedChatModel):
        def _message(self, reply: Any, messages: list[Any], bound: dict[str, Any]) -> AIMessage:
            return replies[sum(isinstance(message, AIMessage) for message in messages)].model_copy()

        def _reply(self, messages: list[Any]) -> Any:
            return self.script.agents["fixer"][0][0]

    def played(ref: Any, *, agent: str, turn: int) -> Any:
        model = build(ref, agent=agent, turn=turn)
        return Played(script=model.script, agent=agent, turn=turn)  # type: ignore[attr-defined]

    harness._resolver.build = played  # type: ignore[method-assign]
    return harness


DONE = AIMessage("ok", response_metadata={"finish_reason": "stop"})


async def test_malformed_arguments_are_a_message_to_the_model(tmp_path: Path) -> None:
    broken = AIMessage(
        "",
        invalid_tool_calls=[
            {"name": "repo__echo", "args": '{"text": "', "id": None, "error": "bad", "type": "invalid_tool_call"}
        ],
        response_metadata={"finish_reason": "tool_calls"},
    )
    harness = make_harness(tmp_path, [[{"text": "x"}]], tools=(echo_tool(),))
    result = await run(with_replies(harness, broken, DONE))
    assert result.output == "ok"
    assert "not valid JSON" in result.messages[2].text
    assert "repo__echo" in result.messages[2].text


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"text": "x"}
    for _ in range(levels - 1):
        value = {"text": value}
    return value


@pytest.mark.parametrize("levels", [101, 600, 5_000])
async def test_a_call_nested_too_deep_is_a_message_to_the_model(tmp_path: Path, levels: int) -> None:
    args = nested(levels)
    content: Any = [{"type": "tool_use", "id": "c1", "name": "repo__echo", "input": args}]
    deep = AIMessage(
        content,
        tool_calls=[{"name": "repo__echo", "args": args, "id": "c1"}],
        response_metadata={"finish_reason": "tool_calls"},
    )
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        harness = with_replies(make_harness(tmp_path, [[{"text": "x"}]], tools=(echo_tool(),)), deep, DONE)
        graph = make_graph(harness, RecordingTurn(), saver)
        state = await graph.ainvoke({"calls": 0}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert state["output"] == "ok"


async def test_the_answer_to_a_call_nested_too_deep_names_the_depth(tmp_path: Path) -> None:
    calls: Any = [{"name": "repo__echo", "args": nested(levels), "id": f"c{levels}"} for levels in (101, 1)]
    deep = AIMessage("", tool_calls=calls, response_metadata={"finish_reason": "tool_calls"})
    result = await run(with_replies(make_harness(tmp_path, [[{"text": "x"}]], tools=(echo_tool(),)), deep, DONE))
    answers = {item.tool_call_id: item.text for item in result.messages if isinstance(item, ToolMessage)}
    assert "nested more than 100 levels deep" in answers["c101"]
    assert answers["c1"] == "echo x"


@pytest.mark.parametrize("levels", [101, 600, 900])
async def test_an_output_nested_too_deep_is_repaired(tmp_path: Path, levels: int) -> None:
    deep = AIMessage("[" * levels + "]" * levels, response_metadata={"finish_reason": "stop"})
    good = AIMessage("[1]", response_metadata={"finish_reason": "stop"})
    spec = OutputSpec.from_schema({"type": "array"})
    result = await run(with_replies(make_harness(tmp_path, [[{"text": "x"}]], output=spec), deep, good))
    assert result.output == [1]
    assert "nested more than 100 levels" in result.messages[2].text


async def test_calls_that_share_an_id_are_told_apart(tmp_path: Path) -> None:
    calls: Any = [{"name": "repo__echo", "args": {"text": text}, "id": "call_0"} for text in ("a", "b")]
    asked = AIMessage("", tool_calls=calls, response_metadata={"finish_reason": "tool_calls"})
    harness = make_harness(tmp_path, [[{"text": "x"}]], tools=(echo_tool(writes=True),))
    result = await run(with_replies(harness, asked, asked, DONE))
    answers = [message for message in result.messages if isinstance(message, ToolMessage)]
    assert [message.text for message in answers] == ["echo a", "echo b"] * 2
    assert len({message.tool_call_id for message in answers}) == 4


async def test_a_reply_that_can_not_be_stored_is_made_storable(tmp_path: Path) -> None:
    odd = AIMessage(
        "half a pair: \ud83d",
        response_metadata={"finish_reason": "stop", "date": Path("x")},
        additional_kwargs={"p": {1}},
    )
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        harness = with_replies(make_harness(tmp_path, [[{"text": "x"}]]), odd)
        graph = make_graph(harness, RecordingTurn(), saver)
        state = await graph.ainvoke({"calls": 0}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert state["output"] == "half a pair: \ufffd"


# Checkpoints


async def test_a_model_call_and_a_tool_call_are_one_checkpoint_each(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"tools": [{"name": "repo:echo"}, {"name": "repo:echo"}]}, {"text": "ok"}]
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        graph = make_graph(make_harness(tmp_path, [replies], tools=(echo_tool(),)), RecordingTurn(), saver)
        await graph.ainvoke({"calls": 0}, {"configurable": {"thread_id": "t"}}, durability="sync")
        spaces = [item.config["configurable"]["checkpoint_ns"] async for item in saver.alist(None)]
    # input, before the first call, then: model, tools, model
    assert len([space for space in spaces if space.startswith("fixer:")]) == 5


async def test_only_json_and_messages_are_stored(tmp_path: Path) -> None:
    """What the strict serializer of the runtime must accept; anything new here is for its list."""
    seen: set[str] = set()

    def collect(value: Any) -> None:
        seen.add(type(value).__name__)
        if isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)

    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        plain = saver.serde.dumps_typed

        def watched(obj: Any) -> tuple[str, bytes]:
            collect(obj)
            return plain(obj)

        saver.serde.dumps_typed = watched  # type: ignore[method-assign]
        replies: list[dict[str, Any]] = [
            {"tools": [{"name": "repo:echo"}, {"name": "repo:write"}]},
            {"output": {"verdict": "?"}},
            {"output": {"verdict": "approve"}},
        ]
        tools = (echo_tool(), echo_tool("repo:write", writes=True))
        harness = make_harness(tmp_path, [replies], tools=tools, output=OutputSpec.from_schema(VERDICT))
        graph = make_graph(harness, RecordingTurn(), saver)
        await graph.ainvoke({"calls": 0}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert seen <= {"dict", "list", "tuple", "str", "int", "float", "bool", "NoneType"} | {
        "HumanMessage",
        "AIMessage",
        "ToolMessage",
        "Send",
    }


async def test_a_failed_model_call_goes_on_inside_the_turn(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [
        {"tools": [{"name": "repo:echo"}]},
        {"error": "server", "times": 5},
        {"text": "ok"},
    ]
    turn = RecordingTurn()
    config = {"configurable": {"thread_id": "t"}}
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        graph = make_graph(make_harness(tmp_path, [replies], tools=(echo_tool(),)), turn, saver)
        with pytest.raises(TurnFailed, match="after 5 attempts"):
            await graph.ainvoke({"calls": 0}, config, durability="sync")
        state = await graph.ainvoke(None, config, durability="sync")
    assert (state["output"], state["calls"]) == ("ok", 2)
    assert len(turn.of("tool_started")) == 1
    assert len(turn.of("model_ended")) == 2


async def test_an_invalid_output_is_checked_again_on_resume_without_a_call(tmp_path: Path) -> None:
    replies: list[dict[str, Any]] = [{"output": {"verdict": "maybe"}}] * 2
    turn = RecordingTurn()
    config = {"configurable": {"thread_id": "t"}}
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        harness = make_harness(tmp_path, [replies], output=OutputSpec.from_schema(VERDICT))
        graph = make_graph(harness, turn, saver)
        for _ in range(2):
            with pytest.raises(TurnFailed, match="invalid, also after a repair"):
                await graph.ainvoke(None if turn.events else {"calls": 0}, config, durability="sync")
    assert len(turn.of("model_started")) == 2


async def test_a_further_attempt_starts_the_turn_anew_also_on_resume(tmp_path: Path) -> None:
    turn = RecordingTurn()
    config = {"configurable": {"thread_id": "t"}}
    async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
        (tmp_path / "second").mkdir()
        tool_call: dict[str, Any] = {"tools": [{"name": "read", "args": {}}]}
        graph = make_graph(make_harness(tmp_path, [[tool_call, {"text": "late"}]], max_calls=1), turn, saver)
        with pytest.raises(TurnFailed, match="1 model calls"):
            await graph.ainvoke({"calls": 0}, config, durability="sync")
        turn.attempt = 2
        graph = make_graph(make_harness(tmp_path / "second", [[{"text": "better"}]]), turn, saver)
        state = await graph.ainvoke(None, config, durability="sync")
        spaces = {item.config["configurable"]["checkpoint_ns"] async for item in saver.alist(None)}
    assert state["output"] == "better"
    inner = min(space for space in spaces if space)
    assert spaces == {"", inner, turn_namespace(inner, 2)}


def kill_and_resume(directory: Path, moment: str) -> dict[str, Any]:
    """Run the turn of `harness_support.main` until it kills itself, go on with it, and return its result."""
    program = [sys.executable, "-m", "tests.harness_support", str(directory), moment]
    root = Path(__file__).parent.parent
    for expected in (-signal.SIGKILL, 0):
        process = subprocess.run(program, capture_output=True, text=True, check=False, cwd=root, timeout=100)
        assert process.returncode == expected, process.stderr
    state: dict[str, Any] = json.loads((directory / "result").read_text())
    events = [json.loads(line) for line in (directory / "events").read_text().splitlines()]
    state["model_calls"] = sum(event["type"] == "model_ended" for event in events)
    state["tools"] = (directory / "tools").read_text().split()
    return state


@pytest.mark.parametrize("moment", ["tool", "model", "end"])
def test_a_killed_turn_goes_on_and_nothing_is_done_twice(tmp_path: Path, moment: str) -> None:
    state = kill_and_resume(tmp_path, moment)
    assert (state["output"], state["calls"]) == ("Done.", 3)
    assert state["model_calls"] == 3
    assert state["tools"] == ["first", "second", "deadly", "last", "first"]
    assert state["snapshot"]["_session"]["repo"]["commit"] == "after repo:first"
