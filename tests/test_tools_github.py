from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.tools_support import Workspace, make_repo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIFF = (
    "diff --git a/a.py b/a.py\nindex 1..2 100644\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
    "diff --git a/dir/b.py b/dir/b.py\nnew file mode 100644\n--- /dev/null\n+++ b/dir/b.py\n"
    "@@ -0,0 +1,2 @@\n+b\n+diff --git\n"
)


class GitHub(BaseHTTPRequestHandler):
    """A GitHub of one pull request; it remembers the headers that came."""

    seen: ClassVar[list[tuple[str, str | None]]] = []
    answers: ClassVar[dict[str, int]] = {"7": 200, "8": 406, "9": 302, "10": 500}

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        code = self.answers.get(self.path.rpartition("/")[2], 404)
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        if code == 200:
            self.wfile.write(DIFF.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    server = HTTPServer(("127.0.0.1", 0), GitHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    GitHub.seen.clear()
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GITHUB_TOKEN", "canary-token-1")
    monkeypatch.setenv("GITHUB_REPOSITORY", "me/mine")
    monkeypatch.setenv("no_proxy", "*")
    yield Workspace(make_repo(tmp_path / "backend", {"a.py": "x\n"}))
    server.shutdown()
    thread.join()
    server.server_close()


async def test_the_diff_of_a_pull_request_is_fetched_with_the_token(workspace: Workspace) -> None:
    text = await workspace.text("github:get-pr-diff", number=7)
    assert text.startswith(
        "pull request 7 of me/mine\n2 files changed, +3 -1 lines\n  a.py | +1 -1\n  dir/b.py | +2 -0\n"
    )
    assert GitHub.seen == [("/repos/me/mine/pulls/7", "Bearer canary-token-1")]
    assert "a.py" not in await workspace.text("github:get-pr-diff", number=7, repository="you/yours", path="dir")
    assert GitHub.seen[-1][0] == "/repos/you/yours/pulls/7"


@pytest.mark.parametrize(
    ("number", "said"),
    [(404, "does not exist, or GITHUB_TOKEN may not read it"), (8, "too large"), (9, "HTTP 302"), (10, "HTTP 500")],
)
async def test_what_github_refuses_is_explained(workspace: Workspace, number: int, said: str) -> None:
    message = await workspace.refusal("github:get-pr-diff", number=number)
    assert said in message
    assert "canary" not in message
    assert len(GitHub.seen) == 1, "a redirect would carry the token away"


@pytest.mark.parametrize("repository", ["x", "a/b/c", "../..", "a/..", "a/b?x", "a/b#", "-a/b", "a /b", "a/b\n"])
async def test_no_repository_name_changes_the_address(workspace: Workspace, repository: str) -> None:
    assert "'owner/name'" in await workspace.refusal("github:get-pr-diff", number=7, repository=repository)
    assert GitHub.seen == []


async def test_an_unreachable_server_is_explained(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:1")
    assert "could not be reached" in await workspace.refusal("github:get-pr-diff", number=7)
    monkeypatch.setenv("GITHUB_API_URL", "file:///etc")
    assert "no http(s) address" in await workspace.refusal("github:get-pr-diff", number=7)
