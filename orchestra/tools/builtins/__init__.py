"""The built-in tools, one family a file. Adding one is a line in `BUILTINS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.tools.builtins.git import git_commit, git_diff, git_log, git_show
from orchestra.tools.builtins.github import get_pr_diff
from orchestra.tools.builtins.local import get_git_diff
from orchestra.tools.builtins.read import list_files, read_file, search_code
from orchestra.tools.builtins.shell import shell
from orchestra.tools.builtins.write import delete_file, edit_file, move_file, write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.tools.base import Tool

BUILTINS: tuple[Callable[[str], Tool] | Tool, ...] = (
    read_file,
    list_files,
    search_code,
    write_file,
    edit_file,
    delete_file,
    move_file,
    git_diff,
    git_log,
    git_show,
    git_commit,
    shell,
    get_git_diff(),
    get_pr_diff(),
)
