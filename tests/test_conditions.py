from __future__ import annotations

import asyncio
import copy
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import orchestra
from orchestra.errors import PipelineError, SessionError
from orchestra.graph.conditions import ConditionRegistry, condition, default_registry
from orchestra.graph.readonly import read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EDGE = {"reviewer": "reviewer", "writer": "writer", "END": "END"}
HEAD = "from orchestra.graph.conditions import condition\n\n"


def write(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(HEAD + text)
    return path


def loaded(directory: Path) -> ConditionRegistry:
    registry = ConditionRegistry()
    registry.load_directory(directory)
    return registry


async def choose(function: Callable[[Any], Any], targets: Mapping[str, str] = EDGE, **state: Any) -> tuple[str, ...]:
    registry = ConditionRegistry(time_limit=5)
    registry.register("route")(function)
    return (await registry.choose("route", state, targets)).targets


async def refused(function: Callable[[Any], Any], targets: Mapping[str, str] = EDGE) -> SessionError:
    with pytest.raises(SessionError) as caught:
        await choose(function, targets)
    assert caught.value.code == "bad-condition"
    assert "test_conditions.py:" in caught.value.message
    assert "allowed: 'reviewer'" in caught.value.message or targets is not EDGE
    return caught.value


def test_a_directory_is_scanned(tmp_path: Path) -> None:
    path = write(tmp_path, "route.py", '@condition("route")\ndef route(state): return "END"\n')
    write(tmp_path, "_helper.py", "raise RuntimeError\n")
    (tmp_path / "notes.txt").write_text("")
    registry = loaded(tmp_path)
    found = registry.get("route")
    assert (registry.names(), found.path, found.line) == (["route"], path, 3)
    assert found.location.text == '@condition("route")'


def test_two_pipelines_with_one_name_do_not_clash(tmp_path: Path) -> None:
    for who in ("one", "two"):
        write(tmp_path / who, "route.py", f'@condition("h2-route")\ndef route(state): return "{who}"\n')
    one, two = loaded(tmp_path / "one"), loaded(tmp_path / "two")
    assert (one.get("h2-route").function({}), two.get("h2-route").function({})) == ("one", "two")
    assert "h2-route" not in default_registry.names()


def test_a_second_registry_of_the_same_directory_has_its_conditions_too(tmp_path: Path) -> None:
    write(tmp_path, "route.py", '@condition("route")\ndef route(state): return "END"\n')
    assert loaded(tmp_path).names() == loaded(tmp_path).names() == ["route"]


def test_a_duplicate_name_names_both_places(tmp_path: Path) -> None:
    one = write(tmp_path, "a.py", '@condition("route")\ndef first(state): return "END"\n')
    two = write(tmp_path, "b.py", '\n@condition("route")\ndef second(state): return "END"\n')
    with pytest.raises(PipelineError) as caught:
        loaded(tmp_path)
    assert caught.value.code == "duplicate-condition"
    assert f"at {one}:3 and {two}:4" in caught.value.message


def test_the_first_directory_wins_over_later_ones(tmp_path: Path) -> None:
    for who in ("near", "far"):
        write(tmp_path / who, "route.py", f'@condition("route")\ndef route(state): return "{who}"\n')
    registry = loaded(tmp_path / "near")
    registry.load_directory(tmp_path / "far")
    assert registry.get("route").function({}) == "near"


def test_all_files_that_fail_are_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "1 / 0\n")
    write(tmp_path, "b.py", "def broken(:\n")
    with pytest.raises(PipelineError) as caught:
        loaded(tmp_path)
    places = [
        (problem.location.path.name, problem.location.line) for problem in caught.value.problems if problem.location
    ]
    assert places == [("a.py", 3), ("b.py", 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@condition\ndef route(state): return 1\n", "'route' has none"),
        ('@condition("route")\ndef route(): return 1\n', "must take one argument"),
        ('@condition("route")\ndef route(a, b): return 1\n', "must take one argument"),
    ],
)
def test_a_wrong_declaration_is_an_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a.py", text)
    with pytest.raises(PipelineError, match=message) as caught:
        loaded(tmp_path)
    assert caught.value.code == "invalid-condition"


def test_an_unknown_condition_gets_near_names_and_the_directories(tmp_path: Path) -> None:
    write(tmp_path, "a.py", '@condition("critic-routing")\ndef route(state): return "END"\n')
    with pytest.raises(PipelineError) as caught:
        loaded(tmp_path).get("critic_routng")
    assert (caught.value.code, caught.value.hint) == ("unknown-condition", "did you mean 'critic-routing'?")
    assert f"searched {tmp_path}" in caught.value.message


def test_the_module_level_decorator_registers_for_embedding_programs() -> None:
    @condition("h2-embedded")
    def route(state: Mapping[str, Any]) -> str:
        return str(state)

    assert default_registry.get("h2-embedded").function is route


@pytest.mark.parametrize(
    ("returned", "targets"),
    [
        ("writer", ("writer",)),
        (["writer", "reviewer", "writer"], ("reviewer", "writer")),
        (("END",), ("END",)),
        ({"writer", "reviewer"}, ("reviewer", "writer")),
        ("__end__", ("END",)),
    ],
)
async def test_choices_come_in_the_edges_order_and_once(returned: Any, targets: tuple[str, ...]) -> None:
    assert await choose(lambda _: returned) == targets


async def test_an_async_condition_is_awaited() -> None:
    async def route(state: Mapping[str, Any]) -> str:
        await asyncio.sleep(0)
        return str(state["agent_outputs"]["critic"])

    assert await choose(route, agent_outputs={"critic": "writer"}) == ("writer",)
    assert await choose(lambda state: route(state), agent_outputs={"critic": "END"}) == ("END",)  # noqa: PLW0108


async def test_labels_lead_to_their_targets() -> None:
    labels = {"yes": "writer", "fine": "writer", "no": "END"}
    assert await choose(lambda _: ["no", "fine", "yes"], labels) == ("writer", "END")
    error = await refused(lambda _: "writer", labels)
    assert error.hint == "the edge has labels: return 'yes' to go to 'writer'"


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "returned None"),
        ([], "returned [], which chooses nothing"),
        (set(), "which chooses nothing"),
        ("writr", "returned 'writr'"),
        ("", "returned ''"),
        (["writer", "nobody"], "where 'nobody' is no target"),
        (["writer", None], "where None is no target"),
        (["writer", ["reviewer"]], "where ['reviewer'] is no target"),
        (True, "returned True"),
        (1, "returned 1"),
        ({"writer": 1}, "returned {'writer': 1}"),
        ("x" * 10_000, "…"),
    ],
)
async def test_a_wrong_return_value_is_shown_with_what_is_allowed(returned: Any, what: str) -> None:
    error = await refused(lambda _: returned)
    assert what in error.message
    assert len(error.message) < 700
    assert "allowed: 'reviewer', 'writer', 'END'" in error.message


async def test_hints_fit_the_mistake() -> None:
    assert (await refused(lambda _: "writr")).hint == "did you mean 'writer'?"
    assert "every way through" in str((await refused(lambda _: None)).hint)
    assert "return a text, such as 'true'" in str((await refused(lambda _: True)).hint)
    assert "'END' is no target" not in (await refused(lambda _: "END", {"a": "a"})).message


async def test_an_exception_names_its_line() -> None:
    def route(state: Mapping[str, Any]) -> str:
        return str(state["agent_outputs"]["critic"]["verdict"])

    error = await refused(route)
    assert "raised KeyError: 'agent_outputs'" in error.message
    assert f"(at line {route.__code__.co_firstlineno + 1})" in error.message


async def test_an_exit_in_a_condition_is_its_failure() -> None:
    def route(_: Any) -> str:
        raise SystemExit(0)

    assert "SystemExit" in (await refused(route)).message


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_condition_that_never_ends_is_given_up(kind: str) -> None:
    forever = threading.Event()

    def wait(_: Any) -> None:
        forever.wait()

    async def wait_async(_: Any) -> None:
        await asyncio.Event().wait()

    registry = ConditionRegistry(time_limit=0.05)
    registry.register("route")(wait if kind == "sync" else wait_async)
    with pytest.raises(SessionError, match=r"has not ended after 0\.05 seconds"):
        await registry.choose("route", {}, EDGE)
    forever.set()


async def test_a_timeout_that_the_condition_raises_is_its_own() -> None:
    def route(_: Any) -> str:
        raise TimeoutError("mine")

    assert "raised TimeoutError: mine" in (await refused(route)).message


SHIPPED = Path(__file__).parent.parent / "pipelines" / "conditions"
BOTH = ("security-reviewer", "architecture-reviewer")


@pytest.mark.parametrize(
    ("output", "targets"),
    [
        ({"verdict": "approve", "revise": []}, ("synthesizer",)),
        ({"verdict": "approve", "revise": ["security-reviewer"]}, ("synthesizer",)),
        ({"verdict": "revise", "revise": ["security-reviewer"]}, ("security-reviewer",)),
        ({"verdict": "revise", "revise": ["architecture-reviewer", "security-reviewer"]}, BOTH),
        ({"verdict": "revise", "revise": "security-reviewer"}, ("security-reviewer",)),
        ({"verdict": "revise", "revise": []}, ("synthesizer",)),
        ({"verdict": "revise", "revise": ["critic", 7, None, "END"]}, ("synthesizer",)),
        ({"verdict": "revise", "revise": None}, ("synthesizer",)),
        ({"verdict": "revise"}, ("synthesizer",)),
        ("revise, please", ("synthesizer",)),
        (None, ("synthesizer",)),
    ],
)
async def test_critic_routing_understands_every_verdict(
    monkeypatch: pytest.MonkeyPatch, output: Any, targets: tuple[str, ...]
) -> None:
    monkeypatch.setattr(orchestra, "condition", condition, raising=False)
    edge = {name: name for name in (*BOTH, "synthesizer")}
    choice = await loaded(SHIPPED).choose("critic-routing", {"agent_outputs": {"critic": output}}, edge)
    assert choice.targets == targets


@pytest.mark.parametrize(
    ("critic", "synthesizer", "again"),
    [(1, 0, True), (2, 0, True), (3, 0, False), (2, 1, True), (4, 1, True), (5, 1, False), (9, 3, False)],
)
async def test_a_critic_sends_back_twice_and_once_more_for_each_rejection(
    monkeypatch: pytest.MonkeyPatch, critic: int, synthesizer: int, again: bool
) -> None:
    monkeypatch.setattr(orchestra, "condition", condition, raising=False)
    verdict = {"verdict": "revise", "revise": ["security-reviewer"]}
    state = {"agent_outputs": {"critic": verdict}, "turns": {"critic": critic, "synthesizer": synthesizer}}
    edge = {name: name for name in (*BOTH, "synthesizer")}
    choice = await loaded(SHIPPED).choose("critic-routing", state, edge)
    assert choice.targets == (("security-reviewer",) if again else ("synthesizer",))


WRITES: list[Callable[[Any], Any]] = [
    lambda state: state.__setitem__("a", 1),
    lambda state: state["agent_outputs"].update(a=1),
    lambda state: state["agent_outputs"].pop("critic"),
    lambda state: state["agent_outputs"]["critic"]["list"].append(1),
    lambda state: state["agent_outputs"]["critic"]["list"].sort(),
    lambda state: state["agent_outputs"]["critic"].setdefault("x", 1),
    lambda state: state["agent_outputs"].__delitem__("critic"),
    lambda state: state["agent_outputs"].__ior__({"a": 1}),
    lambda state: state["agent_outputs"]["critic"]["list"].__iadd__([1]),
]


@pytest.mark.parametrize("write", WRITES)
async def test_the_state_is_read_only_at_any_depth(write: Callable[[Any], Any]) -> None:
    state: dict[str, Any] = {"agent_outputs": {"critic": {"list": [2, 1]}}}
    with pytest.raises(SessionError, match="raised TypeError: the state is read-only"):
        await choose(write, EDGE, **state)
    assert state == {"agent_outputs": {"critic": {"list": [2, 1]}}}


def test_the_read_only_state_still_is_plain_data() -> None:
    class Message:
        def __init__(self) -> None:
            self.content = "x"

    message = Message()
    state = {"a": [1, {"b": None}], "c": (1, 2)}
    copied = read_only({**state, "m": message})
    copied["m"].content = "changed"
    assert message.content == "x"
    assert json.loads(json.dumps(read_only(state))) == {"a": [1, {"b": None}], "c": [1, 2]}
    assert copied["a"] == state["a"]
    assert sorted(copied["a"][:1]) == [1]
    own = copy.deepcopy(copied["a"])
    own[1]["b"] = own.append(2)
    assert own == [1, {"b": None}, 2]
