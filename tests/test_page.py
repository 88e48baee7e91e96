"""The page of a report: what it can be made of, how long texts are bounded, how times are laid out."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra.cli.page.html import Style, el, render, visible
from orchestra.cli.page.scale import Scale
from orchestra.cli.page.texts import MOST, Room, arguments, block, value_block
from orchestra.cli.page.turns import level
from orchestra.cli.page.words import cost, duration
from orchestra.runtime.report.redaction import KEPT, without_contents
from orchestra.runtime.spending import Usage
from tests.reportkit import Elements, payloads

if TYPE_CHECKING:
    from orchestra.cli.page.html import Node

ANY_TEXT = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(payloads("http://127.0.0.1:9")),
    st.text("<>&\"'/\0\r\n "),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def html(node: Node) -> str:
    return "".join(render(node))


def read(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    elements.close()
    return elements


class TestElements:
    @given(ANY_TEXT)
    def test_a_text_comes_back_as_a_text_and_nothing_else(self, text: str) -> None:
        for tag in ("p", "pre", "title", "summary", "text"):
            found = read(html(el(tag, text)))
            assert found.found == [(tag, ())]
            assert "".join(found.text).removeprefix("\n" if tag == "pre" else "") == visible(text)

    @given(ANY_TEXT)
    def test_an_attribute_holds_any_text_and_stays_one(self, text: str) -> None:
        found = read(html(el("svg", "x", aria_label=text)))
        assert found.found == [("svg", (("aria-label", visible(text)),))]

    @given(ANY_TEXT)
    def test_what_cant_be_seen_is_made_visible(self, text: str) -> None:
        page = html(el("p", text))
        page.encode()
        unseen = {char for char in page if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}}
        assert unseen <= set("\n\t\u200c\u200d")

    @pytest.mark.parametrize(
        "tag", ["script", "iframe", "object", "link", "img", "form", "base", "style", "foreignObject"]
    )
    def test_no_element_that_runs_or_loads_anything_can_be_made(self, tag: str) -> None:
        with pytest.raises(ValueError, match="no element"):
            el(tag)

    @pytest.mark.parametrize("name", ["onload", "onclick", "style", "src", "xlink_href", "action", "srcset", "ping"])
    def test_no_attribute_that_runs_or_loads_anything_can_be_made(self, name: str) -> None:
        attributes: dict[str, Any] = {name: "x"}
        with pytest.raises(ValueError, match="no attribute"):
            el("p", **attributes)

    @pytest.mark.parametrize("target", ["javascript:x", "//host", "http://host", "", "#", "#A b", "\t#a", "#a\n"])
    def test_a_link_leads_to_a_place_in_the_page_only(self, target: str) -> None:
        with pytest.raises(ValueError, match="places in itself"):
            el("a", href=target)

    def test_a_class_or_an_id_cant_be_a_content(self) -> None:
        for name in ("class_", "id"):
            attributes: dict[str, Any] = {name: 'x" y'}
            with pytest.raises(ValueError, match="of a page"):
                el("p", **attributes)

    def test_a_style_with_markup_is_refused(self) -> None:
        with pytest.raises(ValueError, match="markup"):
            Style("p{}</style>")


class TestTexts:
    @given(JSON, st.integers(0, 3_000))
    @settings(max_examples=60)
    def test_whatever_is_shown_takes_no_more_than_its_room(self, value: Any, size: int) -> None:
        room = Room(size)
        parts: list[Node] = [value_block(value, room, label="result")]
        if isinstance(value, dict):
            parts.append(list(arguments(value, room)))
        page = html(parts)
        entries = 1 + (len(value) * 2 if isinstance(value, dict) else 0)
        # Each entry has its markup, the least of a text, and the line of a folded one.
        assert len(page.encode()) <= size + entries * 2_200

    def test_a_long_text_is_folded_and_a_very_long_one_cut_with_a_note(self) -> None:
        assert "<details" not in html(block("short", Room(10_000)))
        assert "<details" in html(block("line\n" * 40, Room(10_000)))
        page = html(block("x" * (MOST + 5_000), Room(10**6)))
        assert page.count("x" * MOST) == 1
        assert "[… 5,000 characters left out]" in page

    def test_a_text_that_escapes_make_long_is_cut_where_there_is_no_room(self) -> None:
        room = Room(1_000)
        shown, cut = room.take("\u202e" * 5_000)
        assert 0 < len(shown) < 200
        assert len(shown) + cut == 5_000
        assert room.is_cut

    @given(st.lists(st.integers(0, 1000), max_size=20), st.integers(0, 5000))
    def test_room_is_shared_so_that_all_get_what_they_need_or_the_same(self, needs: list[int], room: int) -> None:
        most = level(needs, room)
        assert sum(min(need, most) for need in needs) <= room or not needs
        if sum(needs) <= room:
            assert most >= max(needs, default=0)


class TestTimes:
    @given(
        st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 1_000)), max_size=20),
        st.floats(0.01, 20_000),
    )
    def test_the_axis_keeps_the_order_of_times_and_fills_its_width(
        self, parts: list[tuple[float, float]], length: float
    ) -> None:
        end = max([length, *(start + took for start, took in parts)])
        scale = Scale(0.0, end, [(start, start + took) for start, took in parts])
        times = sorted({0.0, end, *(time for start, took in parts for time in (start, start + took))})
        places = [scale.at(time) for time in times]
        assert all(one <= other + 1e-6 for one, other in pairwise(places))
        assert places[0] == pytest.approx(0, abs=0.01)
        assert places[-1] == pytest.approx(100, abs=0.01)
        ticks = list(scale.ticks())
        assert len(ticks) < 30
        assert all(one[0] < other[0] for one, other in pairwise(ticks))

    def test_a_night_without_work_takes_little_room(self) -> None:
        night = 8 * 3_600.0
        scale = Scale(0.0, night + 20, [(0.0, 10.0), (night + 10, night + 20)])
        ((left, width, seconds),) = scale.pauses()
        assert (seconds, width) == (night, 4.0)
        assert left == pytest.approx(48.0)

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [
            (0, "0 s"),
            (0.004, "4 ms"),
            (1.26, "1.3 s"),
            (59.4, "59 s"),
            (61, "1 min 01 s"),
            (3_660, "1 h 01 min"),
            (90_000, "1 d 01 h"),
        ],
    )
    def test_a_duration_reads_in_its_largest_units(self, seconds: float, shown: str) -> None:
        assert duration(seconds) == shown

    def test_an_unknown_cost_is_never_shown_as_none(self) -> None:
        assert cost(Usage()) == "nothing"
        assert cost(Usage(model_calls=2, unpriced_calls=2)) == "unknown"
        assert cost(Usage(model_calls=2, unpriced_calls=1, cost_usd=0.5)) == "at least $0.5000"
        assert cost(Usage(model_calls=2, cost_usd=0.5)) == "$0.5000"


class TestRedaction:
    @given(
        st.sampled_from([*KEPT, "a_type_of_a_later_version"]), st.dictionaries(st.text(max_size=8), JSON, max_size=4)
    )
    def test_a_key_that_is_not_known_to_be_a_structure_is_hidden(self, kind: str, payload: dict[str, Any]) -> None:
        shown = without_contents(kind, payload)
        assert shown.keys() == payload.keys()
        for key in payload.keys() - KEPT.get(kind, frozenset()):
            assert shown[key] in (None, True, False, "", [], {}) or str(shown[key]).startswith("[redacted")

    def test_a_name_that_a_model_made_up_is_hidden(self) -> None:
        told = without_contents("tool_called", {"tool": "read my diary: dear diary", "ok": False, "args": {"a": "b"}})
        assert told == {"tool": "[redacted: 25 characters]", "ok": False, "args": "[redacted: 1 entry]"}
