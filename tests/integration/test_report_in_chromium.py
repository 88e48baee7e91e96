"""A report full of hostile contents in a real browser: nothing in it may run or load anything.

That the escaping alone suffices, the page is opened without its Content-Security-Policy, too. That the harness would
notice, it is shown a page in which the same contents stand as they are; and one with them and the policy.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.reportkit import Elements, fill, page_of, payloads, read_page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.pastkit import Past

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=4000"),
)
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclass
class Canary:
    """A server that nothing may call."""

    url: str
    calls: list[str] = field(default_factory=list)


@contextmanager
def canary() -> Iterator[Canary]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.calls.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_HEAD = do_OPTIONS = do_GET  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known = Canary(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield known
        finally:
            server.shutdown()


def opened(page: str, directory: Path) -> Elements:
    """Open a page in the browser, and return what has become of it."""
    directory.mkdir()
    file = directory / "report.html"
    file.write_text(page, encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *OPTIONS, f"--user-data-dir={directory / 'profile'}", file.as_uri()],
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=True,
    )
    found = Elements()
    found.feed(done.stdout.decode())
    found.close()
    assert found.found, done.stderr.decode()
    return found


@pytest.mark.skipif(
    BROWSER is None and not os.environ.get("ORCHESTRA_NEEDS_CHROMIUM"),
    reason="needs chromium, chromium-browser or google-chrome on PATH",
)
def test_nothing_in_a_hostile_report_runs_or_loads_anything(own: Past, tmp_path: Path) -> None:
    assert BROWSER is not None, "ORCHESTRA_NEEDS_CHROMIUM is set, and there is no chromium on PATH"
    with canary() as quiet, canary() as loud, canary() as refused:
        fill(own, payloads(quiet.url))
        page = page_of(own.files, own.root)
        naked = _POLICY.sub("", page, count=1)
        assert naked != page
        raw = "".join(payloads(loud.url)[:14])
        guarded = page.replace("<main>", f"<main>{raw.replace(loud.url, refused.url)}", 1)
        with ThreadPoolExecutor(2) as pool:
            pages = (naked, naked.replace("<main>", f"<main>{raw}", 1), guarded)
            hostile, control, kept = pool.map(opened, pages, [tmp_path / name for name in ("naked", "raw", "guarded")])

    told = read_page(page)
    assert quiet.calls == []
    assert hostile.title == told.title
    expected = [item for item in told.found if ("http-equiv", "Content-Security-Policy") not in item[1]]
    assert hostile.found == expected  # no element and no attribute has come, gone or changed
    # The same harness notices what runs and loads.
    assert control.title == "RAN"
    assert {"/js", "/a"} <= set(loud.calls)
    assert "script" in {tag for tag, _ in control.found}
    # And where the escaping failed, the policy would stand in the way.
    assert "script" in {tag for tag, _ in kept.found}
    assert kept.title == told.title
    assert refused.calls == []
