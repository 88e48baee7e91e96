"""What a person sees and types at a terminal: a small session in a real one, with every key pressed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from orchestra.runtime.inbox import Inbox
from orchestra.runtime.store import SessionFiles
from tests.terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, ENTER, TAB, UP, Terminal, paste

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Talking: TypeAlias = Callable[..., Terminal]
    Answers: TypeAlias = Callable[[], list[str]]

HERE = Path(__file__).parent.parent
OPEN = "/help  /approve"
"""Stands below a prompt as long as it is open; keys that are pressed before are taken as the terminal takes them."""


@pytest.fixture
def talking(tmp_path: Path) -> Callable[..., Terminal]:
    (tmp_path / "inbox").mkdir()

    def start(agents: dict[str, list[str]], *, diff: int = 3, env: dict[str, str] | None = None, **kw: Any) -> Terminal:
        (tmp_path / "script.json").write_text(json.dumps({"agents": agents, "diff": diff}), encoding="utf-8")
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})}
        command = [sys.executable, "-m", "tests.talking", str(tmp_path)]
        return Terminal(command, directory=HERE, environment=environment, **kw)

    return start


@pytest.fixture
def answers(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "answers").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(SessionFiles(tmp_path))


def test_a_person_answers_until_they_approve(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["What do you think?", "I see."]}) as terminal:
        display = terminal.shows("critic>", OPEN, "What do you think?")
        assert display.index("── critic ──") < display.index("What do you think?") < display.index("critic>")
        terminal.type("it is ok", ENTER)
        terminal.shows("I see.", OPEN)
        terminal.type("/approve fine", ENTER)

        assert terminal.exit_code() == 0

    assert answers() == ['critic: "it is ok"', 'critic: "/approve fine"']
    shown = terminal.whole
    assert shown.count("it is ok") == 1, "what was typed stands there once"
    assert shown.count("What do you think?") == 1


def test_an_empty_line_says_nothing(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type(ENTER)
        terminal.until(lambda display: display.count("critic>") == 2 and OPEN in display, "two prompts")
        terminal.type("  ", ENTER)
        terminal.until(lambda display: display.count("critic>") == 3 and OPEN in display, "three prompts")
        terminal.type("/done", ENTER)

        assert terminal.exit_code() == 0
    assert answers() == ['critic: "/done"']


@pytest.mark.parametrize("key", [ALT_ENTER, CTRL_J])
def test_a_turn_may_have_several_lines(talking: Talking, answers: Answers, key: str) -> None:
    with talking({"critic": ["Well?", "Good."]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("one", key, "two")
        terminal.shows("critic> one\n      … two")
        terminal.type(ENTER)
        terminal.shows("Good.", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    assert answers()[0] == r'critic: "one\ntwo"'


def test_what_is_pasted_is_one_turn(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?", "Good."]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type(paste("one\rtwo\rthree"))
        terminal.shows("three")
        terminal.type(ENTER)
        terminal.shows("Good.", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    assert answers()[0] == r'critic: "one\ntwo\nthree"'


def test_what_was_said_before_comes_back_by_the_arrow(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?", "Good.", "Better."]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("again", ENTER)
        terminal.shows("Good.", OPEN)
        terminal.type(UP)
        terminal.until(lambda display: display.count("critic> again") == 2, "the line of before")
        terminal.type(ENTER)
        terminal.shows("Better.", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    assert answers()[:2] == ['critic: "again"', 'critic: "again"']


def test_commands_are_completed_and_named_below(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"]}) as terminal:
        terminal.shows("critic>", OPEN, "/help  /approve  /reject [why]  /done  /undo  /diff")
        terminal.type("/app", TAB)
        terminal.shows("critic> /approve")
        terminal.type(ENTER)
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "/approve"']
    assert "/reject [why]" not in terminal.whole, "the help goes away with the prompt"


def test_control_d_leaves_and_the_channel_is_closed(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"], "second": ["And?"]}) as terminal:
        terminal.shows("critic>", OPEN, "1 more waits: second")
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    assert sorted(answers()) == ["critic: nobody", "second: nobody"]
    assert "And?" in terminal.whole, "what was held back is shown in the end"


def test_control_d_behind_a_text_does_not_leave(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/done", CTRL_D, ENTER)
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "/done"']


def test_control_c_raises_the_signal_and_leaves(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("half a sent", CTRL_C)
        assert terminal.exit_code() == 0
    assert answers() == ["interrupted", "critic: nobody"]


def test_a_prompt_goes_away_when_somebody_else_answers_and_keeps_what_was_typed(
    talking: Talking, answers: Answers, inbox: Inbox
) -> None:
    with talking({"critic": ["Well?", "And now?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("I was abo")
        terminal.shows("I was abo")
        assert inbox.give("critic-0", "faster", by="respond")

        display = terminal.shows("by respond> faster", "And now?", "critic> I was abo", OPEN)
        assert display.count("critic>") == 1, "the prompt of before is gone"
        terminal.type("ut to say", ENTER)
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "faster"', 'critic: "I was about to say"']


def test_what_was_typed_to_one_agent_is_not_said_to_another(talking: Talking, inbox: Inbox) -> None:
    with talking({"critic": ["Well?", "And now?"], "second": ["Hello?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("for the critic")
        terminal.shows("critic> for the critic")
        inbox.give("critic-0", "faster", by="respond")
        assert "for the critic" not in terminal.shows("second>", OPEN)
        terminal.type("/done", ENTER)
        terminal.shows("critic> for the critic")


def test_what_others_do_appears_above_the_prompt(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?"]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/approve wide 漢字")
        terminal.shows("/approve wide")
        os.kill(terminal.pid, signal.SIGUSR1)
        display = terminal.shows("something happened", "critic> /approve")
        assert display.index("something happened") < display.index("critic> /approve")
        terminal.type(" it is", ENTER)
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "/approve wide 漢字 it is"']


def test_two_agents_are_answered_one_after_the_other(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["First?", "Second?"], "editor": ["Other?"]}) as terminal:
        display = terminal.shows("critic>", OPEN, "1 more waits: editor")
        assert "Other?" not in display, "one speaks at a time"
        terminal.type("one", ENTER)
        display = terminal.shows("editor>", "Other?", "1 more waits: critic", OPEN)
        assert "Second?" not in display
        terminal.type("/help", ENTER)
        terminal.shows("send it back, with your reason", OPEN)
        terminal.type("/approve", ENTER)
        terminal.shows("Second?", "critic>", OPEN)
        terminal.type("/reject no", ENTER)
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "one"', 'editor: "/approve"', 'critic: "/reject no"']


def test_a_long_difference_goes_through_the_pager_and_the_prompt_comes_back(talking: Talking) -> None:
    with talking({"critic": ["Well?"]}, diff=5_000, lines=20, env={"PAGER": "less"}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/diff", ENTER)
        display = terminal.shows("+critic 10")
        assert "critic>" not in display.splitlines()[-1]
        os.kill(terminal.pid, signal.SIGUSR1)
        terminal.type("q")
        display = terminal.shows("something happened", "critic>", OPEN)
        assert "+critic 4999" not in terminal.whole
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0


def test_a_pager_is_closed_when_somebody_else_answers(talking: Talking, inbox: Inbox) -> None:
    with talking({"critic": ["Well?", "And now?"]}, diff=5_000, lines=20, env={"PAGER": "less"}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/diff", ENTER)
        terminal.shows("+critic 10")
        assert inbox.give("critic-0", "faster", by="respond")
        terminal.shows("by respond> faster", "And now?", "critic>", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0


def test_without_a_pager_a_long_text_is_cut_and_says_so(talking: Talking) -> None:
    with talking({"critic": ["Well?"]}, diff=5_000, env={"PAGER": "no-such-pager"}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/diff", ENTER)
        terminal.shows("4,800 more lines are left out", "critic>", OPEN)
        assert "+critic 199" in terminal.whole
        assert "+critic 200\n" not in terminal.whole


HOSTILE = (
    "Before \x1b[2J\x1b[31mred \x1b]0;title\x07 \x9b31m \u202edrowssap\u202c \x08\x08 \r over \x0e after\n\n\x1b[6n"
)
ESCAPE = re.compile(rb"\x1b(?:\[[?\d;]*[A-Za-z]|[=>])")


def test_no_control_character_of_a_model_reaches_the_screen(talking: Talking) -> None:
    with talking({"critic": [HOSTILE]}) as terminal:
        display = terminal.shows("critic>", OPEN)
        for shown in (r"Before \x1b[2J\x1b[31mred", r"\x1b]0;title\x07", r"\x9b31m", r"\u202edrowssap", r"\x1b[6n"):
            assert shown in display
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    reply = terminal.written.partition(b"Before")[2].partition(b"\\x1b[6n")[0].decode()
    assert {char for char in reply if not char.isprintable()} <= {"\r", "\n"}
    assert reply.count("\r") == reply.count("\n"), "only the terminal's own line ends"


@pytest.mark.parametrize("columns", [80, 200])
def test_a_long_answer_is_wrapped_at_words_and_code_is_not(talking: Talking, columns: int) -> None:
    words = "several words that make a sentence " * 12
    code = "call(" + ", ".join(f"argument_{number}" for number in range(20)) + ")"
    wide = "这是一个很长的中文句子\uff0c" * 12
    text = f"{words}\n\n```python\n{code}\n```\n\n{wide}"
    with talking({"critic": [text]}, columns=columns) as terminal:
        display = terminal.shows("critic>", OPEN)
        lines = display.split("\n")
        assert code.replace(" ", "") in display.replace("\n", "").replace(" ", "")
        first = next(number for number, line in enumerate(lines) if line.startswith("several"))
        assert lines[first + 1].split()[0] in words.split(), "no word is broken"
        assert columns - 12 < len(lines[first]) < columns
        assert not any(line.startswith("\uff0c") for line in lines)


def test_a_resize_draws_the_prompt_anew(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?", "word " * 60]}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("x" * 30)
        terminal.resize(50, 30)
        terminal.shows("critic> " + "x" * 30)
        terminal.type(ENTER)
        display = terminal.until(lambda display: display.count("critic>") == 2, "the next question")
        terminal.shows(OPEN)
        lines = [line for line in display.split("\n") if line.startswith("word")]
        assert max(map(len, lines)) in range(44, 50)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    assert answers()[0] == f'critic: "{"x" * 30}"'


def test_a_dumb_terminal_gets_no_escape_sequences(talking: Talking, answers: Answers) -> None:
    with talking({"critic": ["Well?", "And?"]}, env={"TERM": "dumb"}) as terminal:
        terminal.shows("critic>", OPEN, "/reject [why]")
        terminal.type("hello\n")
        terminal.shows("And?", OPEN)
        os.kill(terminal.pid, signal.SIGUSR1)
        terminal.shows("something happened")
        terminal.type("/done\n")
        assert terminal.exit_code() == 0
    assert answers() == ['critic: "hello"', 'critic: "/done"']
    assert b"\x1b" not in terminal.written


def test_colours_are_not_used_where_they_are_not_wanted(talking: Talking) -> None:
    with talking({"critic": ["Well?"]}, env={"NO_COLOR": "1"}) as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    styles = re.findall(rb"\x1b\[([\d;]*)m", terminal.written)
    assert {part for style in styles for part in style.split(b";")} <= {b"", b"0", b"1"}


def test_standard_output_may_go_elsewhere(talking: Talking, tmp_path: Path) -> None:
    with talking({"critic": ["Well?"]}, stdout=tmp_path / "out") as terminal:
        terminal.shows("critic>", OPEN)
        terminal.type("/done", ENTER)
        assert terminal.exit_code() == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_the_terminal_is_left_as_it_was(talking: Talking) -> None:
    with talking({"critic": ["Well?", "And?"]}) as terminal:
        before = terminal.modes()
        terminal.shows("critic>", OPEN)
        assert terminal.modes() != before, "keys are read one by one"
        terminal.type("/done", ENTER)
        terminal.shows("session completed")
        assert terminal.exit_code() == 0
    assert terminal.written.rstrip().endswith(b"session completed")
    assert terminal.written.rfind(b"\x1b[?2004l") > terminal.written.rfind(b"\x1b[?2004h"), "pasting is as before"
