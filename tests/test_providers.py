from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.agents.calls import Backoff, is_retryable, retry_after
from orchestra.agents.clients import _arguments
from orchestra.agents.context import TurnFailed
from orchestra.agents.harness import AgentHarness
from orchestra.agents.integrations import INTEGRATIONS
from orchestra.agents.outputs import OutputSpec
from orchestra.agents.providers import KNOWN_TYPES, ModelRef, ProviderConfig, ProviderResolver
from orchestra.agents.usage import Usage, price_known
from orchestra.errors import PipelineError
from orchestra.prompts.composer import ComposedPrompt
from orchestra.testing import write_script
from orchestra.tools.output import redact
from tests.harness_support import RecordingTurn, echo_tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def resolver(*configs: ProviderConfig, default: str | None = None) -> ProviderResolver:
    return ProviderResolver({config.name: config for config in configs}, default or configs[0].name)


ANTHROPIC = ProviderConfig("anthropic", "anthropic", models={"smart": "claude-opus-5-5", "cheap": "claude-haiku-4-5"})
ROUTER = ProviderConfig("router", "openai", models={"smart": "meta/llama"}, api_base="http://127.0.0.1:9/v1")


# Names


def test_an_alias_is_looked_up_in_the_agents_provider_first() -> None:
    both = resolver(ANTHROPIC, ROUTER)
    assert both.resolve("smart", "router") == ModelRef(ROUTER, "meta/llama", "smart")
    assert both.resolve("smart") == ModelRef(ANTHROPIC, "claude-opus-5-5", "smart")


def test_an_alias_that_the_provider_lacks_comes_from_the_default() -> None:
    assert resolver(ANTHROPIC, ROUTER).resolve("cheap", "router") == ModelRef(ROUTER, "claude-haiku-4-5", "cheap")


def test_what_is_no_alias_is_a_literal_name() -> None:
    assert resolver(ANTHROPIC).resolve("claude-sonnet-5-5") == ModelRef(ANTHROPIC, "claude-sonnet-5-5")


def test_a_literal_name_close_to_an_alias_is_noticed() -> None:
    assert resolver(ANTHROPIC).near_alias("smrt") == "smart"
    assert resolver(ANTHROPIC).near_alias("smart") is None
    assert resolver(ANTHROPIC).near_alias("gpt-5") is None


def test_an_unknown_provider_is_an_error_with_a_hint() -> None:
    with pytest.raises(PipelineError, match="there is no provider 'antropic'") as caught:
        resolver(ANTHROPIC).resolve("smart", "antropic")
    assert (caught.value.code, caught.value.hint) == ("unknown-provider", "did you mean 'anthropic'?")


def test_no_provider_at_all_is_an_error_with_a_hint() -> None:
    with pytest.raises(PipelineError) as caught:
        ProviderResolver({}, None).resolve("smart")
    assert caught.value.code == "unknown-provider"


# What is missing


def problems(config: ProviderConfig) -> list[tuple[str, str, str | None]]:
    found = resolver(config).check(ModelRef(config, "m"))
    return [(problem.code, problem.message, problem.hint) for problem in found]


def test_all_integrations_of_langchain_are_known() -> None:
    from langchain.chat_models.base import _BUILTIN_PROVIDERS

    assert set(_BUILTIN_PROVIDERS) == set(KNOWN_TYPES) - {"scripted", "llama-cpp"}
    for name, (module, *_) in _BUILTIN_PROVIDERS.items():
        assert INTEGRATIONS[name].module == module


def test_an_unknown_type_is_an_error_with_a_hint() -> None:
    [(code, message, hint)] = problems(ProviderConfig("mine", "opnai"))
    assert (code, hint) == ("unknown-provider-type", "did you mean 'openai'?")
    assert "'opnai'" in message


def test_a_missing_integration_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "x")
    [(code, _, hint)] = problems(ProviderConfig("groq", "groq"))
    assert (code, hint) == ("missing-integration", "pip install langchain-groq")


def test_the_local_provider_says_that_it_comes_later() -> None:
    [(code, message, hint)] = problems(ProviderConfig("local", "llama-cpp"))
    assert code == "missing-integration"
    assert "orchestra-agents[local]" in message
    assert "api_base" in str(hint)


@pytest.mark.parametrize(
    ("config", "variable"),
    [
        (ANTHROPIC, "ANTHROPIC_API_KEY"),
        (ProviderConfig("openai", "openai"), "OPENAI_API_KEY"),
        (ProviderConfig("mine", "openai", api_base="http://x/v1", api_key_env="MY_KEY"), "MY_KEY"),
        (ProviderConfig("openai", "openai", api_base="https://api.openai.com/v1"), "OPENAI_API_KEY"),
    ],
)
def test_a_missing_key_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, config: ProviderConfig, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    [(code, message, hint)] = problems(config)
    assert code == "missing-key"
    assert f"{variable} is not set" in message
    assert f"export {variable}=" in str(hint)
    monkeypatch.setenv(variable, "x")
    assert not problems(config)


def test_a_server_of_ones_own_needs_no_key() -> None:
    assert not problems(ROUTER)


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/v1",
        "https://api.openai.com@evil.example/v1",
        "https://evil.example#.openai.com",
        "https://evilopenai.com/v1",
        "https://evil.example\\\\.openai.com",
        "http://api.openai.com/v1",
        "https://[::1/v1",
    ],
)
def test_the_usual_key_is_for_the_usual_server_alone(address: str) -> None:
    config = ProviderConfig("openai", "openai", api_base=address)
    assert config.is_own_server
    assert config.key_variable is None


def test_a_scripted_provider_needs_its_script(tmp_path: Path) -> None:
    assert problems(ProviderConfig("offline", "scripted"))[0][0] == "missing-script"
    assert problems(ProviderConfig("offline", "scripted", script=tmp_path / "no.yaml"))[0][0] == "file-not-found"


def test_building_without_a_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(PipelineError, match="ANTHROPIC_API_KEY is not set"):
        resolver(ANTHROPIC).build(ModelRef(ANTHROPIC, "m"), agent="a", turn=1)


def test_providers_import_nothing_heavy() -> None:
    program = (
        "import sys, orchestra.agents.providers, orchestra.agents.script; "
        "print([m for m in ('langchain', 'langchain_core', 'langgraph', 'pydantic', 'jinja2') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


# Clients


def build(config: ProviderConfig, model: str = "m") -> Any:
    return resolver(config).build(ModelRef(config, model), agent="a", turn=1)


def test_a_client_makes_one_attempt_with_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-very-secret")
    model = build(ProviderConfig("anthropic", "anthropic", max_tokens=77), "claude-sonnet-5-5")
    assert (model.max_retries, model.default_request_timeout, model.max_tokens) == (0, 120.0, 77)
    assert "very-secret" not in repr(model)


def test_options_are_passed_on_and_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    model = build(ProviderConfig("openai", "openai", timeout=7, options={"temperature": 0.5, "streaming": False}))
    assert (model.temperature, model.streaming, model.request_timeout) == (0.5, False, 7)


def test_a_model_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    found = resolver(ANTHROPIC)
    ref = found.resolve("smart")
    assert found.build(ref, agent="a", turn=1) is found.build(ref, agent="b", turn=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperatur": 0}, "has no option 'temperatur'"), ({"temperature": "hot"}, "temperature: Input should be")],
)
def test_a_bad_option_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-very-secret")
    with pytest.raises(PipelineError, match=message) as caught:
        build(ProviderConfig("anthropic", "anthropic", options={**options, "api_key": "sk-other-secret"}))
    assert caught.value.code == "bad-option"
    assert "secret" not in caught.value.message


def test_keys_are_taken_out_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "open-sesame-1")
    config = ProviderConfig("mine", "openai", api_key_env="MY_KEY", options={"api_key": "other-key-2"})
    text = resolver(config).redact("401: open-sesame-1 other-key-2 sk-proj-abcdef123456")
    assert text == "401: [MY_KEY] [api_key] sk-***"
    assert "other-key-2" not in repr(config)


def test_tools_and_providers_take_the_same_out_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "canary-of-github")
    monkeypatch.setenv("SOME_TOKEN", "canary-of")
    text = "canary-of-github canary-of gsk-abcdef123456 ghp_" + 36 * "a"
    assert resolver(ANTHROPIC).redact(text) == redact(text) == "[GITHUB_TOKEN] [SOME_TOKEN] gsk-*** ghp_***"


# Where keys travel


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "https://evil.example"},
        {"openai_api_base": "https://evil.example"},
        {"azure_endpoint": "https://evil.example"},
        {"anthropic_api_url": "https://evil.example"},
        {"endpoint-url": "https://evil.example"},
        {"client_options": {"api_endpoint": "evil.example"}},
        {"model_kwargs": {"fallbacks": [{"api_base": "https://evil.example"}]}},
    ],
)
def test_an_address_among_the_options_is_refused(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    [(code, message, hint)] = problems(ProviderConfig("openai", "openai", options=options))
    assert (code, hint) == ("bad-option", "write api_base under the provider")
    assert "is an address" in message


@pytest.mark.parametrize(
    "options",
    [
        {"openai_proxy": "http://evil.example"},
        {"http_client": "x"},
        {"client_args": {"proxy": "http://evil.example"}},
        {"location": "evil.example/#"},
        {"api_key": None},
        {"openai_api_key": ""},
    ],
)
def test_options_that_send_a_key_elsewhere_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert [code for code, *_ in problems(ProviderConfig("openai", "openai", options=options))] == ["bad-option"]


def test_headers_and_other_options_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    options = {
        "default_headers": {"HTTP-Referer": "https://me.example", "url": "https://me.example"},
        "extra_body": {"endpoint": "x"},
        "service_tier": "flex",
        "temperature": 0,
        "max_tokens": 5,
        "region": "us-east-1",
    }
    assert not problems(ProviderConfig("openai", "openai", options=options))


@pytest.mark.parametrize("kind", ["langsmith", "litellm", "bedrock", "azure_ai"])
def test_a_type_whose_key_is_unknown_takes_no_server_of_ones_own(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("MY_KEY", "x")
    config = ProviderConfig("mine", kind, api_base="https://evil.example/v1", api_key_env="MY_KEY")
    code, message, hint = problems(config)[0]
    assert (code, f"the type {kind!r} takes no `api_base`" in message) == ("bad-option", True)
    assert "`type: openai`" in str(hint)


def test_a_type_whose_key_is_unknown_takes_its_usual_server() -> None:
    assert not problems(ProviderConfig("mine", "langsmith", api_base="https://eu.gateway.smith.langchain.com/v1"))


@pytest.mark.parametrize("host", ["evil.westeurope.cloudapp.azure.com", "azure.com"])
def test_machines_rented_at_azure_are_not_azure(host: str) -> None:
    assert ProviderConfig("azure", "azure_openai", api_base=f"https://{host}/openai").is_own_server


@pytest.mark.parametrize("domain", ["openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com"])
def test_azures_own_servers_get_the_usual_key(domain: str) -> None:
    config = ProviderConfig("azure", "azure_openai", api_base=f"https://mine.{domain}")
    assert config.key_variable == "AZURE_OPENAI_API_KEY"


def test_azures_address_is_its_endpoint_and_no_token_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "very-secret-token")
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    model = build(ProviderConfig("azure", "azure_openai", api_base="https://gateway.example"))
    assert str(model.root_async_client.base_url).startswith("https://gateway.example/openai/")
    assert (model.azure_ad_token, model.openai_api_key.get_secret_value()) == (None, "none")


def test_ollama_sends_no_key_to_a_server_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ProviderConfig("o", "ollama", api_base="http://box:11434", options={"client_kwargs": {"verify": False}})
    headers = {"Authorization": "Bearer none"}
    assert _arguments(ModelRef(config, "m"))["client_kwargs"] == {"verify": False, "headers": headers}
    monkeypatch.setenv("MY_KEY", "k")
    keyed = ProviderConfig("o", "ollama", api_base="http://box:11434", api_key_env="MY_KEY")
    assert _arguments(ModelRef(keyed, "m"))["client_kwargs"] == {"headers": {"Authorization": "Bearer k"}}


def test_a_client_that_found_a_key_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-strangers")
    monkeypatch.setattr("orchestra.agents.clients._credentials", lambda _: {})
    with pytest.raises(PipelineError, match="would send a key of the environment") as caught:
        build(ROUTER)
    assert (caught.value.code, "strangers" in caught.value.message) == ("bad-option", False)


# Prices


@pytest.mark.parametrize(
    ("config", "model", "known"),
    [
        (ANTHROPIC, "claude-sonnet-4-5", True),
        (ANTHROPIC, "nobody-knows-it", False),
        (ROUTER, "gpt-4o", False),
        (ProviderConfig("router", "openai", api_base="https://openrouter.ai/api/v1"), "openai/gpt-4o", True),
        (ProviderConfig("local", "ollama"), "anything", True),
        (ProviderConfig("mine", "litellm"), "gpt-4o", False),
    ],
)
def test_it_is_known_which_models_are_priced(config: ProviderConfig, model: str, known: bool) -> None:
    assert price_known(ModelRef(config, model)) is known


def test_no_tool_call_is_forced_since_models_that_always_think_refuse_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent to Claude for an agent with an `output`."""
    import langchain_anthropic

    sent: list[dict[str, Any]] = []

    async def create(self: Any, payload: dict[str, Any]) -> Any:
        sent.append(payload)
        raise TypeError("enough")

    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    monkeypatch.setattr(langchain_anthropic.ChatAnthropic, "_acreate", create)
    prompt = ComposedPrompt(static="", template="Judge.")
    output = OutputSpec.from_schema({"type": "array", "items": {"type": "string"}})
    found = resolver(ANTHROPIC)
    harness = AgentHarness("fixer", prompt, (echo_tool(),), found, found.resolve("smart"), output=output)
    with pytest.raises(TurnFailed):
        asyncio.run(harness.run(variables={}, context="go", turn=RecordingTurn(), config={}))
    assert [tool["name"] for tool in sent[0]["tools"]] == ["repo__echo", "submit_output"]
    assert "tool_choice" not in sent[0]
    assert "submit_output" in sent[0]["system"]


# A real client against a server


class Server(ThreadingHTTPServer):
    """Answers chat completions with the next of its answers: a list of SSE events, or (status, headers, error)."""

    def __init__(self, answers: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
        answer = self.server.answers.pop(0)
        status, headers, error = answer if isinstance(answer, tuple) else (200, {}, None)
        events = "" if error else "".join(sse(event) for event in answer)
        content = (json.dumps({"error": error}) if error else events).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json" if error else "text/event-stream")
        self.send_header("content-length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


def sse(event: dict[str, Any]) -> str:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n"


def said(text: str = "", *, finish: str | None = "stop", calls: list[Any] | None = None) -> list[dict[str, Any]]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    delta = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    events: list[dict[str, Any]] = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}]
    if finish:
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        events.append({**base, "choices": [], "usage": usage})
    return events


@contextmanager
def serving(*answers: Any) -> Iterator[Server]:
    server = Server(list(answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def run(server: Server, turn: RecordingTurn, kind: str = "openai", **options: Any) -> Any:
    base = f"http://127.0.0.1:{server.server_port}" + ("/v1" if kind == "openai" else "")
    config = ProviderConfig("mine", kind, api_base=base, **options)
    harness = AgentHarness(
        "fixer",
        ComposedPrompt(static="", template="Fix it."),
        (echo_tool(),),
        resolver(config),
        ModelRef(config, "m"),
        backoff=Backoff(initial_delay=0.0),
    )
    return await harness.run(variables={}, context="go", turn=turn, config={})


async def test_a_real_client_streams_tools_and_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-strangers")
    call = {
        "index": 0,
        "id": "1",
        "type": "function",
        "function": {"name": "repo__echo", "arguments": '{"text": "hi"}'},
    }
    turn = RecordingTurn()
    with serving(said(finish="tool_calls", calls=[call]), said("done")) as server:
        result = await run(server, turn, max_tokens=50)
    assert (result.output, result.messages[2].text) == ("done", "echo hi")
    headers, body = server.requests[0]
    assert headers["authorization"] == "Bearer none"
    assert (body["stream"], body["max_tokens"], body["tools"][0]["function"]["name"]) == (True, 50, "repo__echo")
    assert [event["input_tokens"] for event in turn.of("model_ended")] == [9, 9]
    assert turn.of("model_ended")[0]["cost_usd"] is None


@pytest.mark.parametrize("levels", [600, 5_000])
async def test_a_real_clients_call_nested_too_deep_does_not_end_the_turn(levels: int) -> None:
    arguments = '{"text": ' + "[" * levels + "]" * levels + "}"
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "repo__echo", "arguments": arguments}}
    with serving(said(finish="tool_calls", calls=[call]), said("done")) as server:
        result = await run(server, RecordingTurn())
        sent = json.dumps(server.requests[-1][1])
    assert result.output == "done"
    assert ("nested more than 100 levels" in sent) is (levels == 600), "the control: 5,000 levels are never read"


def claude_said(*blocks: dict[str, Any], stop: str | None) -> list[dict[str, Any]]:
    """Make the events in which Claude streams blocks of text or tool calls."""
    usage = {"input_tokens": 20, "output_tokens": 1}
    head: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    message = {**head, "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        call = "input" in block
        text_delta = {**block, "type": "text_delta"}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])} if call else text_delta
        start = {**block, "input": {}} if call else {"type": "text", "text": ""}
        events += [
            {"type": "content_block_start", "index": index, "content_block": start},
            {
                "type": "content_block_delta",
                "index": index,
                "delta": delta if call else {**block, "type": "text_delta"},
            },
            {"type": "content_block_stop", "index": index},
        ]
    if stop:
        end = {"stop_reason": stop, "stop_sequence": None}
        events += [
            {"type": "message_delta", "delta": end, "usage": {"input_tokens": 20, "output_tokens": 7}},
            {"type": "message_stop"},
        ]
    return events


async def test_claude_streams_tools_and_usage_and_a_cut_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-not-for-strangers")
    text = {"type": "text", "text": "I look."}
    call = {"type": "tool_use", "id": "toolu_1", "name": "repo__echo", "input": {"text": "hi"}}
    cut, asked = claude_said(text, stop=None), claude_said(text, call, stop="tool_use")
    turn = RecordingTurn()
    done = claude_said({"type": "text", "text": "done"}, stop="end_turn")
    with serving(cut, asked, done) as server:
        result = await run(server, turn, "anthropic", max_tokens=50)
    assert (result.output, result.messages[2].text) == ("done", "echo hi")
    assert [event["error"] for event in turn.of("model_failed")] == ["TruncatedStream"]
    assert [(event["output_tokens"], event["stop_reason"]) for event in turn.of("model_ended")] == [
        (7, "tool_use"),
        (7, "end_turn"),
    ]
    headers, last = server.requests[-1]
    assert "not-for-strangers" not in str(headers)
    assert last["max_tokens"] == 50
    asked_block, answered = last["messages"][1]["content"][-1], last["messages"][2]["content"][0]
    assert (asked_block["id"], asked_block["input"]) == ("toolu_1", {"text": "hi"})
    assert (answered["tool_use_id"], answered["type"]) == ("toolu_1", "tool_result")


async def test_a_key_goes_where_the_pipeline_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    with serving(said("ok")) as server:
        await run(server, RecordingTurn(), api_key_env="MY_KEY")
    assert server.requests[0][0]["authorization"] == "Bearer sesame"


async def test_failures_of_a_real_server_are_tried_again() -> None:
    turn = RecordingTurn()
    busy = (429, {"retry-after": "0"}, {"message": "slow down"})
    with serving(busy, (503, {}, {"message": "down"}), said("cut", finish=None), said("ok")) as server:
        result = await run(server, turn)
    assert result.output == "ok"
    assert [event["error"] for event in turn.of("model_failed")] == [
        "OpenAIRateLimitError",
        "OpenAIAPIError",
        "TruncatedStream",
    ]


async def test_a_refused_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame-1234")
    turn = RecordingTurn()
    refusal: Any = (401, {}, {"message": "Incorrect API key provided: sesame-1234"})
    with serving(refusal) as server, pytest.raises(TurnFailed) as caught:
        await run(server, turn, api_key_env="MY_KEY")
    assert (caught.value.code, caught.value.hint) == ("model-auth", "check the key in MY_KEY")
    assert "sesame" not in caught.value.message
    assert "sesame" not in json.dumps(turn.events)


async def test_an_empty_account_is_not_tried_again() -> None:
    empty: Any = (429, {}, {"message": "no credit", "code": "insufficient_quota"})
    with serving(empty) as server, pytest.raises(TurnFailed) as caught:
        await run(server, RecordingTurn())
    assert (caught.value.code, caught.value.retry) == ("model-quota", "never")


# Which failures pass


class StatusError(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


def test_raw_errors_of_the_clients_are_told_apart() -> None:
    import httpx2

    passing = [StatusError(408), StatusError(409), StatusError(500), TimeoutError(), json.JSONDecodeError("", "", 0)]
    assert all(map(is_retryable, [*passing, httpx2.RemoteProtocolError("x"), httpx2.ReadTimeout("x")]))
    assert not any(map(is_retryable, [StatusError(413), StatusError(422), TypeError("x"), PipelineError("x")]))


def test_a_date_and_nonsense_in_retry_after_are_understood() -> None:
    error: Any = Exception()
    error.response = type("Response", (), {"headers": {"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}})()
    assert (retry_after(error) or 0) > 1e9
    for nonsense in ("soon", "-5", "nan", "inf", ""):
        error.response.headers = {"retry-after": nonsense}
        assert retry_after(error) is None
    assert retry_after(ValueError()) is None


# What it costs


def test_a_known_price_is_applied_with_cached_tokens() -> None:
    usage = {
        "input_tokens": 12_000,
        "output_tokens": 800,
        "input_token_details": {"cache_read": 4_000, "cache_creation": 0, "ephemeral_5m_input_tokens": 1_000},
    }
    counted = Usage.of(usage, ref=ModelRef(ANTHROPIC, "claude-sonnet-5-5"))
    assert (counted.input_tokens, counted.output_tokens, counted.cached_tokens) == (12_000, 800, 4_000)
    assert counted.cost_usd == pytest.approx(0.0249)
    usage["input_token_details"] = {"cache_read": 4_000, "cache_creation": 0, "ephemeral_1h_input_tokens": 1_000}
    longer = Usage.of(usage, ref=ModelRef(ANTHROPIC, "claude-sonnet-5-5"))
    assert longer.cost_usd == pytest.approx(0.0249 + 0.0015), "an hour costs twice an input token, 5 minutes 1.25 times"


def test_an_unknown_price_is_unknown() -> None:
    usage = {"input_tokens": 10, "output_tokens": 5}
    assert Usage.of(usage, ref=ModelRef(ANTHROPIC, "claude-nobody-knows")).cost_usd is None
    assert Usage.of(usage, ref=ModelRef(ROUTER, "meta/llama")).cost_usd is None
    for uncounted in (None, {}, {"input_tokens": 0, "output_tokens": 0}):
        assert Usage.of(uncounted, ref=ModelRef(ANTHROPIC, "claude-sonnet-5-5")).cost_usd is None


def test_a_scripted_call_costs_nothing(tmp_path: Path) -> None:
    script = write_script(tmp_path / "s.yaml", {"a": [[{"text": "x"}]]})
    ref = ModelRef(ProviderConfig("offline", "scripted", script=script), "claude-opus-5-5")
    assert Usage.of({"input_tokens": 10, "output_tokens": 5}, ref=ref).cost_usd == 0.0
