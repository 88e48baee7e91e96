"""Git, and whether a session can start in each repository."""

from __future__ import annotations

import platform
import shutil
from typing import TYPE_CHECKING, Any

from orchestra.errors import GitError
from orchestra.runtime.doctor.finding import Finding, State, of_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orchestra.runtime.doctor.surroundings import KnownRepo, Surroundings

_GET_GIT = "https://git-scm.com/downloads"


async def check(here: Surroundings) -> AsyncIterator[Finding]:
    """Judge git, then every repository that is known."""
    found = await here.git_version()
    path = shutil.which("git")
    if isinstance(found, GitError):
        fix, commands = how_to_get_git(_os_release())
        details = {"code": found.code, "path": path}
        yield Finding("git", State.ERROR, found.message + (f" ({path})" if path else ""), fix, commands, details)
        yield Finding("repos", State.WARNING, "not looked at, since git can't be used", "mend git first, see above")
        return
    shown = ".".join(map(str, found))
    yield Finding("git", State.OK, f"{shown} at {path}", details={"version": shown, "path": path})
    repos = await here.repositories()
    for repo in repos:
        yield _repo(repo)
    if not repos:
        message = f"{here.start} is in no git repository, and none is named in a pipeline of the project"
        fix = "go into a repository, make one, or name one:"
        commands = ("git init", "orchestra run PIPELINE --repo NAME=PATH")
        yield Finding("repos", State.WARNING, message, fix, commands, {"path": str(here.start)})


def _repo(repo: KnownRepo) -> Finding:
    found = repo.repository
    details: dict[str, Any] = {"repo": repo.name, "path": str(repo.path), "source": repo.source}
    if repo.error is not None:
        return of_error("repos", repo.error, fix=f"look at it: git -C '{repo.path}' status", **details)
    if found is None or found.top is None:
        path = found.git_dir if found else repo.path
        message = f"{path} is a bare repository, in which agents can't write"
        fix = "name a clone of it where agents write:"
        return Finding("repos", State.WARNING, message, fix, ("git clone PATH",), details)
    at = f"on {found.branch}" if found.branch else f"detached at {(found.head or '')[:10]}"
    if found.head is None:
        at += ", no commit yet"
    return Finding("repos", State.OK, f"{repo.name}: {found.top} ({at}; {repo.source})", details=details)


def how_to_get_git(system: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return how to get a new git on a system, in words and as commands.

    Args:
        system: The fields of its `os-release`; `{"ID": "darwin"}` on macOS.
    """
    ids = {system.get("ID", ""), *system.get("ID_LIKE", "").split()}
    if "darwin" in ids:
        return "install a newer one:", ("brew install git",)
    if system.get("ID") == "ubuntu":
        commands = ("sudo add-apt-repository ppa:git-core/ppa", "sudo apt-get update", "sudo apt-get install git")
        return "Ubuntu 22.04 has 2.34; get a newer one from git's own archive:", commands
    if "debian" in ids:
        release = system.get("VERSION_CODENAME", "stable")
        fix = "install it; where the release has an older one, take it from the backports:"
        return fix, ("sudo apt-get install git", f"sudo apt-get install -t {release}-backports git")
    if ids & {"fedora", "rhel", "centos"}:
        return "install it:", ("sudo dnf install git",)
    return f"install git 2.38 or newer: {_GET_GIT}", ()


def _os_release() -> dict[str, str]:
    if platform.system() == "Darwin":
        return {"ID": "darwin"}
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
