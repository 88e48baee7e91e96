"""What a person's line means."""

from __future__ import annotations

import pytest

from orchestra.agents.conversation import Said, UnknownCommandError, understand


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("go on", Said("message", "go on")),
        ("  two\nlines ", Said("message", "two\nlines")),
        ("//etc is a path", Said("message", "/etc is a path")),
        ("/approve", Said("approve", "")),
        ("/reject  too short", Said("reject", "too short")),
        ("/reject\ntoo short\n  and wrong", Said("reject", "too short\n  and wrong")),
        ("/reject\ttoo short", Said("reject", "too short")),
        ("/done\u00a0so far", Said("done", "so far")),
        ("/undo ", Said("undo", "")),
        ("/diff", None),
        (" \n", None),
    ],
)
def test_a_line_is_a_message_or_a_command(line: str, said: Said | None) -> None:
    assert understand(line) == said


@pytest.mark.parametrize("line", ["/aprove", "/undo that", "/approved", "/"])
def test_what_begins_like_a_command_and_is_none_is_refused(line: str) -> None:
    with pytest.raises(UnknownCommandError):
        understand(line)
