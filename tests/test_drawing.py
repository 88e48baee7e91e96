"""Pictures of graphs: readable whatever the graph, and no text in them that could mean something."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra.cli.render import escape
from orchestra.graph.drawing.ascii import render_ascii
from orchestra.graph.drawing.dot import render_dot
from orchestra.graph.drawing.layers import Arrow, Size
from orchestra.graph.drawing.layout import Metrics, lay_out
from orchestra.graph.drawing.mermaid import render_mermaid
from orchestra.graph.drawing.picture import Picture
from orchestra.graph.drawing.route import Fork, Route, Visit
from orchestra.graph.drawing.svg import render_svg
from orchestra.graph.drawing.text import columns
from orchestra.graph.outline import Outline, OutlineEdge, OutlineNode
from tests.drawkit import LOOPS, faults, outlines, sketch

if TYPE_CHECKING:
    from orchestra.graph.outline import Kind

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = st.text(
    st.sampled_from("ab<>&\"'`#;|\\[](){}%-=\n\r\t\0\x1b\x7f\u202e\u200b\ud800\ufffe/*$@ 标") | st.characters(),
    max_size=24,
)
ROUTE = Route(
    session_id="7kq2mfzd",
    status="failed",
    visits={
        "START": Visit(state="done"),
        "plan": Visit(state="done", turns=1, seconds=1.25, input_tokens=900, output_tokens=100, model_calls=1),
        "left": Visit(state="failed", turns=2, seconds=75, model_calls=1, cost_usd=None),
        "right": Visit(state="waiting", turns=1),
        "join.critic": Visit(state="done", turns=2),
        "critic": Visit(state="done", turns=1, seconds=3700),
    },
    taken=(1, 1, 1, 2, 1, 2, 1, 0),
    forks=(Fork(session_id="abcd", checkpoint_id="1f", node="critic", turn=1, status="completed"),),
    forked_from=Fork(session_id="efgh", checkpoint_id="2f"),
)


def drawn(picture: str) -> str:
    return "\n".join(row.rstrip() for row in picture.strip("\n").splitlines())


def shown(text: str) -> str:
    return dedent(text).strip("\n")


def test_a_graph_is_drawn_in_characters_with_its_joins_labels_and_bounds() -> None:
    assert drawn(render_ascii(LOOPS, width=60)) == shown(
        """
        sketch: A sketch

                          START
                            ▼
                        ╭───────╮
                        │ plan  │
                        │  p/m  │
                        ╰───┬───╯
                       ┌────┴─────┐
                       ▼          ▼
                   ╭───────╮  ╭───────╮
                   │ left  │  │ right │
                   │  p/m  │  │  p/m  │
                   ╰───┬───╯  ╰───┬───╯
                     ▲ │          │
               ┌─────┘ └───────┬──┘
               │               ▼
            revise       wait for all
        at most 2 times        │
               └─────┐   ┌─────┘
                     │   ▼
                 ╭───┴──────────╮
                 │    critic    │
                 │     p/m      │
                 │ asks verdict │
                 ╰───────┬──────╯
                         │
                      approve
                         ▼
                        END
        """
    )


def test_the_way_of_a_session_is_laid_over_it() -> None:
    assert drawn(render_ascii(LOOPS, ROUTE, width=80)) == shown(
        """
        sketch: A sketch
        session 7kq2mfzd: failed
        left efgh at 2f

                               START
                                 ▼
                     ┏━━━━━━━━━━━━━━━━━━━━━━━┓
                     ┃        ✓ plan         ┃
                     ┃          p/m          ┃
                     ┃     1 turn, 1.2 s     ┃
                     ┃ 1,000 tokens, $0.0000 ┃
                     ┗━━━━━━━━━━━┳━━━━━━━━━━━┛
                     ┏━━━━━━━━━━━┻━━━━━━━━━━┓
                     ▼                      ▼
        ┏━━━━━━━━━━━━━━━━━━━━━━━━┓  ┏━━━━━━━━━━━━━━━┓
        ┃         ✗ left         ┃  ┃    ? right    ┃
        ┃          p/m           ┃  ┃      p/m      ┃
        ┃         failed         ┃  ┃    waiting    ┃
        ┃  2 turns, 1 min 15 s   ┃  ┃ 1 turn, 0.0 s ┃
        ┃ 0 tokens, cost unknown ┃  ┗━━━━━━━┳━━━━━━━┛
        ┗━━━━━━━━━━━━┳━━━━━━━━━━━┛          ┃
               ▲     ┃                      ┃
               ┃     ┗━━━━━━━━━━┳━━━━━━━━━━━┛
               ┃                ▼
            revise       ✓ wait for all
        at most 2 times     2 rounds
           taken 1x             ┃
               ┗━━━━━┓          ┃
                     ┃          ▼ 2x
                ┏━━━━┻━━━━━━━━━━━━━━┓
                ┃     ✓ critic      ┃
                ┃        p/m        ┃
                ┃   asks verdict    ┃
                ┃ 1 turn, 1 h 1 min ┃
                ┃ fork abcd, turn 1 ┃
                ┗━━━━━━━━━┯━━━━━━━━━┛
                          │
                       approve
                          ▼
                         END
        """
    )


def test_a_terminal_without_unicode_gets_the_same_in_ascii() -> None:
    picture = render_ascii(LOOPS, ROUTE, width=80, unicode=False)
    assert picture.isascii()
    assert "|         x left         |" in picture
    assert "                  :\n               approve\n" in picture


def test_what_does_not_fit_stands_below_the_picture_and_in_the_end_all_of_it_is_a_list() -> None:
    label = "the reviewers have found something that must be mended before anybody goes on"
    graph = sketch(OutlineEdge("START", "one"), OutlineEdge("one", "END", "choose", label))

    cut = render_ascii(graph, width=60)
    assert "the reviewers have found someth…" in cut
    assert label in " ".join(cut.rpartition("one → END")[2].split())
    noted = render_ascii(graph, width=24)
    assert " [1]\n" in noted
    wide = sketch(*(OutlineEdge("START", f"agent-{number}") for number in range(9)))
    assert drawn(render_ascii(wide, width=40)).splitlines()[2:5] == ["START", "  → agent-0", "  → agent-1"]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@settings(max_examples=8, deadline=None)
@given(outline=outlines())
def test_a_picture_keeps_to_its_width_and_has_every_node(width: int, outline: Outline) -> None:
    picture = render_ascii(outline, width=width)
    plain = [line for line in picture.splitlines() if "─" in line or "│" in line or "▼" in line]
    assert all(columns(line) <= width for line in plain)
    for node in outline.nodes:
        assert node.name in picture or node.kind == "join"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.sampled_from([None, (3, 1), (16, 2)])),
        max_size=18,
    ),
    st.lists(st.sampled_from([(), ("a",), ("a", "b"), ("c",)]), min_size=10, max_size=10),
    st.sampled_from([Metrics(gap=2, line=1, head=1), Metrics(gap=28, line=12, head=18, lead=12, frame=10)]),
)
def test_no_line_runs_through_a_box_or_along_another_line(
    ends: list[tuple[int, int, bool, tuple[int, int] | None]], groups: list[tuple[str, ...]], metrics: Metrics
) -> None:
    nodes = [Size(9 + 4 * (place % 4), 1 + 2 * (place % 3), group) for place, group in enumerate(groups)]
    arrows = [Arrow(one, other, back, Size(*label) if label else None) for one, other, back, label in ends]
    assert faults(lay_out(nodes, arrows, metrics, 9)) == []


def test_svg_has_each_node_and_arrow_with_all_that_is_known_of_it() -> None:
    root = ET.fromstring(render_svg(LOOPS, ROUTE))  # noqa: S314 - our own
    titles = [element.text or "" for element in root.iter(f"{SVG}title")]
    assert titles[0] == "sketch: A sketch, session 7kq2mfzd: failed, left efgh at 2f"
    assert root.get("aria-label") == titles[0]
    assert "✗ left; p/m; failed; 2 turns, 1 min 15 s; 0 tokens, cost unknown" in titles
    assert "critic → left, where verdict says so, revise, at most 2 times, taken 1 time" in titles
    assert "left → join.critic, taken 2 times" in titles
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[-3:] == ["1 turn, 1 h 1 min", "fork abcd, turn 1", "END"]
    classes = {name for element in root.iter() for name in element.get("class", "").split()}
    assert classes
    assert all(name.startswith("og-") for name in classes)
    assert not any(element.get("id") for element in root.iter())


@settings(max_examples=25, deadline=None)
@given(outlines(HOSTILE))
def test_no_text_breaks_out_of_svg(outline: Outline) -> None:
    picture = render_svg(outline)
    root = ET.fromstring(picture)  # noqa: S314 - our own
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "title",
        "style",
        "g",
        "rect",
        "path",
        "text",
    }
    for element in root.iter():
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)
    assert "url(" not in picture
    assert "@import" not in picture


LABEL = r'"(?:[\w \-.,:/+()$]|#\d+;|<br/>)*"'
MERMAID = re.compile(
    rf"flowchart TD|\s+accTitle: [^\n\"<>]*|\s+n\d+(\(\[|\[|\(|\{{\{{){LABEL}(\]\)|\]|\)|\}}\}})"
    rf"|\s+subgraph bn\d+\[{LABEL}\]|\s+end|\s+n\d+ (-->|-\.->|==>)(\|{LABEL}\|)? n\d+"
)


@settings(max_examples=25, deadline=None)
@given(outlines(HOSTILE))
def test_no_text_breaks_out_of_mermaid(outline: Outline) -> None:
    for line in render_mermaid(outline).removesuffix("\n").split("\n"):
        assert MERMAID.fullmatch(line), line


@settings(max_examples=25, deadline=None)
@given(outlines(HOSTILE), st.sampled_from([30, 80, 160]))
def test_no_text_steers_a_terminal(outline: Outline, width: int) -> None:
    picture = render_ascii(outline, width=width)
    assert escape(picture, keep_lines=True) == picture


QUOTED = re.compile(r'"(?:[^"\\\n]|\\[\\"n])*"')


@settings(max_examples=25, deadline=None)
@given(outlines(HOSTILE))
def test_no_text_breaks_out_of_dot(outline: Outline) -> None:
    bare = QUOTED.sub("Q", render_dot(outline))
    assert re.fullmatch(r"[\w\s=,;\[\]{}>-]*", bare), bare
    for text in QUOTED.findall(render_dot(outline)):
        assert re.sub(r"&amp;", "", text).count("&") == 0


def test_a_graph_that_nobody_could_read_is_not_laid_out() -> None:
    chain = [OutlineEdge(f"agent-{number}", f"agent-{number + 1}") for number in range(500)]
    huge = sketch(OutlineEdge("START", "agent-0"), *chain)
    (text,) = ET.fromstring(render_svg(huge)).iter(f"{SVG}text")  # noqa: S314 - our own
    assert text.text == "too large: 503 nodes, 501 arrows"
    assert render_ascii(huge).splitlines()[2:4] == ["START", "  → agent-0"]


def test_mermaid_and_dot_frame_branches_and_mark_what_was_reached() -> None:
    def node(name: str, kind: Kind = "agent", *branches: str) -> OutlineNode:
        return OutlineNode(name, kind, branches=branches)

    nodes = (node("START", "start"), node("a", "agent", "a"), node("b", "step", "a"), node("c", "agent", "c"))
    edges = (
        OutlineEdge("START", "a"),
        OutlineEdge("a", "b"),
        OutlineEdge("START", "c"),
        OutlineEdge("b", "a", "x", None, 0, True),
    )
    graph = Outline("x", "", nodes, edges)
    way = Route(session_id="s", status="running", visits={"a": Visit(state="running", turns=1)}, taken=(1, 0, 1, 0))

    flow = render_mermaid(graph, way).splitlines()
    place = flow.index('    subgraph bn1["a"]')
    assert flow[place + 1 : place + 4] == [
        '        n1("a<br/>running<br/>1 turn, 0.0 s")',
        '        n2["b<br/>asks x<br/>not reached"]',
        "    end",
    ]
    assert '    n2 -.->|"never"| n1' in flow
    assert "    class n1 running" in flow
    text = render_dot(graph, way)
    assert "subgraph cluster_n1 {" in text
    assert "cluster_n3" not in text
    assert 'n0 -> n1 [label="taken 1x", penwidth=2, color="#0969da"];' in text


def test_a_picture_shows_itself_in_a_notebook_and_in_print() -> None:
    picture = Picture(LOOPS, ROUTE)
    assert picture._repr_svg_() == picture._repr_html_() == picture.svg() == render_svg(LOOPS, ROUTE)
    assert str(picture) == render_ascii(LOOPS, ROUTE)
    document = picture.as_json()
    assert [*document] == ["version", "pipeline", "description", "nodes", "edges", "route"]
    assert document["route"]["forked_from"]["session_id"] == "efgh"
    assert Outline.from_json(document) == LOOPS
    assert "route" not in Picture(LOOPS).as_json()
