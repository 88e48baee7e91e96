"""A session full of hostile contents, and what a report of it may be made of."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from orchestra.cli.page.document import write_page
from orchestra.cli.page.html import ATTRIBUTES, ELEMENTS
from orchestra.runtime.event_types import EVENT_TYPES
from orchestra.runtime.report.reading import open_report
from tests.pastkit import change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestra.runtime.store import SessionFiles
    from tests.pastkit import Past

_DO = "document.title='RAN';window.ran=1;fetch('URL/js')"
_PAYLOADS = (
    *(f"{before}<script>{_DO}</script>" for before in ("", "</pre>", "</title>", "</style>", "-->", "]]>", "</svg>")),
    *(f"{before}<script>{_DO}</script>" for before in ("</details></section></main></body></html>", '">', "'>", "<")),
    *(f"<img src=URL/{name} onerror={_DO}>" for name in ("a", "b.png?x=1&y=2")),
    f'"><img src=x onerror="{_DO}">',
    f"'><img src=x onerror='{_DO}'>",
    f"`><img src=x onerror=`{_DO}`>",
    f"<IMG/SRC=x\tOnErRoR={_DO}>",
    f"<img src=x\x00 onerror={_DO}>",
    f"<scr\x00ipt>{_DO}</scr\x00ipt>",
    f"\x1b]8;;URL/osc\x07<script>{_DO}</script>\x1b]8;;\x07",
    f"\u202e<script>{_DO}</script>\u2066",
    f"\ud800<script>{_DO}</script>",
    f"\r\n\r\n<script>{_DO}</script>",
    f"&lt;script&gt;{_DO}&lt;/script&gt;",
    f"&#60;script&#62;{_DO}&#60;/script&#62;",
    f"&#x3c;img src=URL/entity onerror={_DO}&#x3e;",
    f"\uff1cscript\uff1e{_DO}\uff1c/script\uff1e",
    f"+ADw-script+AD4-{_DO}+ADw-/script+AD4-",
    f"%3Cscript%3E{_DO}%3C/script%3E",
    f"\\u003cscript\\u003e{_DO}\\u003c/script\\u003e",
    f"<svg onload={_DO}>",
    f"<svg><script>{_DO}</script></svg>",
    "<svg><script href=URL/svg.js></script></svg>",
    f"<svg><animate onbegin={_DO} attributeName=x dur=1s>",
    f'<svg><a xlink:href="javascript:{_DO}"><text y=20>go</text></a></svg>',
    "<svg><image href=URL/svgimage></svg>",
    "<svg><use href=URL/use#x></svg>",
    f"<svg><foreignObject><body onload={_DO}></foreignObject></svg>",
    f"<svg><set attributeName=href to=javascript:{_DO}></svg>",
    "<svg><style>@import 'URL/svgstyle';</style></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={_DO}></style></mglyph></table></mtext></math>",
    f'<math href="javascript:{_DO}">go</math>',
    f"<body onload={_DO}>",
    "<body background=URL/body>",
    "<html manifest=URL/manifest>",
    f"<details open ontoggle={_DO}>",
    f"<input autofocus onfocus={_DO}>",
    f"<select autofocus onfocus={_DO}>",
    f"<textarea autofocus onfocus={_DO}></textarea>",
    f'<textarea><img title="</textarea><img src=x onerror={_DO}>">',
    f'<noscript><p title="</noscript><img src=x onerror={_DO}>">',
    f'<title><p title="</title><img src=x onerror={_DO}>">',
    f'<style><p title="</style><img src=x onerror={_DO}>">',
    f'<xmp><p title="</xmp><img src=x onerror={_DO}>">',
    "<plaintext>",
    "<template><img src=URL/template></template>",
    f"<!--><script>{_DO}</script>-->",
    f"<!-- --!><script>{_DO}</script>",
    f"<![CDATA[><script>{_DO}</script>]]>",
    f"<?xml-stylesheet href='URL/pi'?><script>{_DO}</script>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'URL/dtd'>]>&e;",
    f'<a href="javascript:{_DO}" autofocus>click</a>',
    '<a href="URL/link" ping="URL/ping">link</a>',
    "<iframe src=URL/iframe></iframe>",
    f'<iframe srcdoc="<script>parent.document.title=1;{_DO}</script>"></iframe>',
    f'<iframe src="javascript:parent.{_DO.replace(chr(39), "`")}"></iframe>',
    f"<frameset onload={_DO}><frame src=URL/frame>",
    "<object data=URL/object></object>",
    f"<object data='data:text/html,<script>{_DO}</script>'></object>",
    "<embed src=URL/embed>",
    "<applet code=URL/applet></applet>",
    f"<video src=URL/video onerror={_DO} autoplay></video>",
    "<video poster=URL/poster></video>",
    f"<audio src=URL/audio onerror={_DO}></audio>",
    "<picture><source srcset=URL/source><img></picture>",
    "<img srcset='URL/srcset 1x'>",
    f"<image src=URL/image onerror={_DO}>",
    "<input type=image src=URL/inputimage>",
    "<link rel=stylesheet href=URL/css>",
    "<link rel=preload as=script href=URL/preload>",
    "<link rel=prefetch href=URL/prefetch>",
    "<link rel=icon href=URL/icon>",
    "<link rel=manifest href=URL/webmanifest>",
    "<script src=URL/src.js></script>",
    "<script type=module>import 'URL/module.js'</script>",
    "<style>@import 'URL/import';</style>",
    "<style>*{background:url(URL/background)}</style>",
    "<style>@font-face{font-family:f;src:url(URL/font)}*{font-family:f}</style>",
    '<div style="background:url(URL/style)">',
    '" style="background:url(URL/attribute)" x="',
    f"' autofocus tabindex=0 onfocus={_DO} x='",
    f'" onmouseover={_DO} x="',
    "<meta http-equiv=refresh content='0;url=URL/refresh'>",
    '<meta http-equiv=Content-Security-Policy content="default-src *">',
    "<base href=URL/>",
    "<form action=URL/form><button autofocus>send</button></form>",
    "<button formaction=URL/formaction>send</button>",
    f"<marquee onstart={_DO}>x</marquee>",
    f"<dialog open onclose={_DO}>x</dialog>",
    "<table background=URL/table><tr><td background=URL/td>",
    "<bgsound src=URL/bgsound>",
    "<portal src=URL/portal></portal>",
    f"<x onanimationstart={_DO} style=animation:x>",
    f"<custom-element onclick={_DO} id=x tabindex=0>x</custom-element>",
    "<h1 id=turn-1 class=status>completed</h1><a href=#turn-1>forged</a>",
    f"{{{{constructor.constructor('{_DO}')()}}}}${{{_DO}}}<%= {_DO} %>",
    f"javascript:{_DO}//",
    f"data:text/html,<script>{_DO}</script>",
    f"[link](javascript:{_DO}) ![image](URL/markdown) URL/bare",
)


def payloads(url: str) -> list[str]:
    """Return what must not run or load, told to call a server."""
    return [text.replace("URL", url) for text in _PAYLOADS]


def fill(past: Past, texts: Sequence[str], *, names: bool = True) -> None:
    """Put texts into every place of a session that holds contents.

    Args:
        past: The session.
        texts: What to put there.
        names: Whether also where the names of agents, steps and models stand.
    """
    again = itertools.cycle(texts)
    commit = _commit(past, texts)
    with closing(sqlite3.connect(past.files.database)) as connection:
        _fill_events(connection, again, commit, names=names)
        _fill_checkpoints(connection, again)
        connection.execute("UPDATE sessions SET pipeline = ?", (_storable(next(again)),))
        for column in ("error", "waiting_for"):
            keys = ("code", "message", "hint", "agent") if column == "error" else ("agent", "text")
            value = {key: next(again) for key in keys}
            connection.execute(f"UPDATE sessions SET {column} = ?", (json.dumps(value),))  # noqa: S608
        connection.commit()
    origin = {"session_id": next(again), "checkpoint_id": next(again), "seq": 3, "changes": [next(again), next(again)]}
    change(
        past.files,
        inputs={next(again): next(again) for _ in range(3)},
        workspace={"app": {"branch": next(again)}, "web": {"branch": next(again)}},
        settings={"forked_from": origin},
    )


def _fill_events(connection: sqlite3.Connection, texts: Iterator[str], commit: str, *, names: bool) -> None:
    rows = connection.execute("SELECT seq, type, payload FROM events ORDER BY seq").fetchall()
    for seq, kind, payload in rows:
        known = json.loads(payload)
        for key in known.keys() - {"commit", "id", "namespace", "resolver", "repo", "n", "repos", "call"}:
            known[key] = _hostile(known[key], texts, names=names)
        if kind == "turn_committed" and known["repo"] == "app":
            known["commit"] = commit
        connection.execute("UPDATE events SET payload = ? WHERE seq = ?", (json.dumps(known), seq))
    if names:
        connection.execute("UPDATE events SET node = ? WHERE node = 'more'", (_storable(next(texts)),))
    (last,) = connection.execute("SELECT MAX(seq) FROM events").fetchone()
    for number, (kind, about) in enumerate([*EVENT_TYPES.items()] * 4, last + 1):
        payload = {key: _made(fragment, texts) for key, fragment in {**about.required, **about.optional}.items()}
        if kind == "session_forked" or "graph" in payload:
            payload.pop("graph", None)
        node = next(texts) if names and number % 3 == 0 else "lead"
        values = (number, f"2099-01-01T00:00:00.{number:06d}+00:00", _storable(node), 77, 1, kind, json.dumps(payload))
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def _fill_checkpoints(connection: sqlite3.Connection, texts: Iterator[str]) -> None:
    rows = connection.execute("SELECT rowid, checkpoint_ns, checkpoint, metadata FROM checkpoints").fetchall()
    for rowid, namespace, blob, metadata in rows:
        about, state = json.loads(metadata), json.loads(blob)
        about["orchestra"]["next"] = [next(texts)]
        if not namespace:
            values = state["channel_values"]
            for name in values.get("agent_outputs") or {}:
                values["agent_outputs"][name] = next(texts)
            for one in (values.get("_conflicts") or {}).values():
                one["repo"] = one["resolved_by"] = next(texts)
                one["paths"] = [{key: next(texts) for key in ("path", "kind")} | {"agents": [next(texts)]}]
        connection.execute(
            "UPDATE checkpoints SET checkpoint = ?, metadata = ? WHERE rowid = ?",
            (json.dumps(state), json.dumps(about), rowid),
        )


def _hostile(value: Any, texts: Iterator[str], *, names: bool) -> Any:
    """Put a text in the place of every other one, of keys too; the shape of a graph has to stay."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, list):
        return [_hostile(item, texts, names=names) for item in value]
    if isinstance(value, dict) and "nodes" in value and "edges" in value:
        return _hostile_graph(value, texts, names=names)
    if isinstance(value, dict):
        return {next(texts): _hostile(item, texts, names=names) for item in value.values()}
    return value


def _hostile_graph(graph: dict[str, Any], texts: Iterator[str], *, names: bool) -> dict[str, Any]:
    called = {node["name"]: node["name"] for node in graph["nodes"]}
    called |= {name: next(texts) for name in ("left", "page") if names}
    nodes = [
        {**node, "name": called[node["name"]], "branches": [next(texts) for _ in node["branches"]]}
        | {key: next(texts) for key in ("mode", "model", "tool") if node[key]}
        | {"writes": [next(texts) for _ in node["writes"]]}
        for node in graph["nodes"]
    ]
    edges = [
        {**edge, "from": called[edge["from"]], "to": called[edge["to"]]}
        | {key: next(texts) for key in ("condition", "label") if edge[key]}
        for edge in graph["edges"]
    ]
    return {"pipeline": next(texts), "description": next(texts), "nodes": nodes, "edges": edges}


def _made(fragment: dict[str, Any], texts: Iterator[str]) -> Any:
    """Make a value of a JSON Schema."""
    kinds = fragment.get("type", "anything")
    match kinds if isinstance(kinds, str) else kinds[0]:
        case "number" | "integer":
            return 1
        case "boolean":
            return False
        case "array":
            return [next(texts), next(texts)] if "items" in fragment else [[next(texts), next(texts)]]
        case "object":
            return {next(texts): next(texts)}
        case "anything":
            return {"a": next(texts), "b": [next(texts)], next(texts): 1}
        case _:
            return next(texts)


def _commit(past: Past, texts: Sequence[str]) -> str:
    """Make a commit whose message, names of files and contents are hostile; return it."""
    repo = past.workshop.repo
    branch = next(line[2:].strip() for line in repo.git("branch", "--list", "orchestra/*").splitlines())
    where = past.root.parent / "elsewhere"
    repo.git("worktree", "add", "--detach", str(where), branch)
    printable = [text for text in texts if not {"\0", "\ud800"} & set(text)]
    for number, text in enumerate(printable[:25]):
        (where / f"{number}{text.replace('/', '_')[:120]}").write_text("x\n")
    for name in ("all.html", "<b>dir", "zz"):
        (where / name).mkdir() if name == "<b>dir" else (where / name).write_text("\n".join(printable))
    (where / "<b>dir" / "'\".txt").write_text("\n".join(printable[::-1]))
    repo.git("-C", str(where), "add", "-A")
    repo.git("-C", str(where), "-c", "user.name=<i>", "-c", "user.email=<i>", "commit", "-qm", printable[0])
    commit = repo.git("-C", str(where), "rev-parse", "HEAD")
    repo.git("worktree", "remove", "--force", str(where))
    return commit


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # SQLite takes no lone surrogates


def page_of(files: SessionFiles, root: Path, *, redact: bool = False) -> str:
    """Return the page of a session."""
    with open_report(files, root, redact=redact) as report:
        return "".join(write_page(report, made=1_800_000_000.0))


class Elements(HTMLParser):
    """Reads a page, and holds each element against the list of those that a page may have."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text: list[str] = []
        self.title: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(sorted(attrs))))

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.title is None and self.found and self.found[-1][0] == "title":
            self.title = data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:100]!r}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data[:100]!r}")


def read_page(page: str) -> Elements:
    """Read a page, and check that nothing in it could run, load or link out."""
    elements = Elements()
    elements.feed(page)
    elements.close()
    attributes = {name.lower() for name in ATTRIBUTES}  # as `HTMLParser` tells them
    for tag, attrs in elements.found:
        assert tag in ELEMENTS | {"style"}, tag
        for name, value in attrs:
            assert name in attributes, (tag, name)
            assert name != "href" or (value or "").startswith("#"), value
    assert [tag for tag, _ in elements.found].count("style") == 1
    assert sum(tag == "meta" for tag, _ in elements.found) == 5
    return elements
