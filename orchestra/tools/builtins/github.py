"""`github:get-pr-diff`: the change of a pull request, with credentials of the environment."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from orchestra.tools.base import Tool, ToolFailureError, ToolResult, in_daemon, succeeded
from orchestra.tools.builtins.changes import show_patch
from orchestra.tools.builtins.schema import integer, parameters, string
from orchestra.tools.builtins.source import MOST_BYTES
from orchestra.tools.output import redact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.error import HTTPError

    from orchestra.tools.base import ToolContext

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_SOCKET_TIMEOUT = 20.0


def get_pr_diff() -> Tool:
    """Make `github:get-pr-diff`."""

    async def run(args: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context
        repository = args.get("repository") or os.environ.get("GITHUB_REPOSITORY", "")
        if not _SLUG.fullmatch(repository):
            raise ToolFailureError(f"{repository!r} is no GitHub repository; give `repository` as 'owner/name'")
        number, path = args["number"], args.get("path")
        patch = await in_daemon(lambda: _fetch(repository, number))
        change = show_patch(patch.decode("utf-8", "replace"), path)
        where = f"pull request {number} of {repository}"
        return succeeded(
            f"{where}\n{change}" if change else f"{where} changes nothing" + (f" in {path!r}" if path else "")
        )

    return Tool(
        name="github:get-pr-diff",
        description="Show the change of a pull request on GitHub.",
        parameters=parameters(
            number=integer("The number of the pull request."),
            repository=string("owner/name. Default: GITHUB_REPOSITORY of the environment.", optional=True),
            path=string("Only this file or directory. Default: everything.", optional=True),
        ),
        run=run,
        timeout=60.0,
    )


def _fetch(repository: str, number: int) -> bytes:
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        # urllib would send the token along to any host.
        def redirect_request(self, *_: Any) -> None:
            return None

    api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    if not api.startswith(("https://", "http://")):
        raise ToolFailureError("GITHUB_API_URL is no http(s) address; the user has to correct it")
    headers = {"Accept": "application/vnd.github.diff", "User-Agent": "orchestra", "X-GitHub-Api-Version": "2022-11-28"}
    token = os.environ.get("GITHUB_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{api}/repos/{repository}/pulls/{number}", headers=headers)  # noqa: S310 - checked above
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=_SOCKET_TIMEOUT) as response:
            data: bytes = response.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise ToolFailureError(_explain(error, repository, number, token)) from None
    except OSError as error:
        reason = redact(str(getattr(error, "reason", error)))
        raise ToolFailureError(f"GitHub could not be reached: {reason}; try again later") from None
    if len(data) > MOST_BYTES:
        raise ToolFailureError(
            f"the diff is larger than {MOST_BYTES:,} bytes; use local:get-git-diff on a checkout of it"
        )
    return data


def _explain(error: HTTPError, repository: str, number: int, token: str | None) -> str:
    what = f"pull request {number} of {repository}"
    if error.code in {401, 403, 404}:
        cause = "GITHUB_TOKEN may not read it" if token else "it is private and GITHUB_TOKEN is not set"
        return f"GitHub refused {what} (HTTP {error.code}): it does not exist, or {cause}"
    if error.code == 406:  # noqa: PLR2004 - GitHub's answer for more than 300 files or 20,000 lines
        return f"GitHub makes no diff of {what}, since it is too large; use local:get-git-diff on a checkout of it"
    return f"GitHub answered HTTP {error.code} for {what}; try again later"
