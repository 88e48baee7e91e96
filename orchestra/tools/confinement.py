"""Paths of agents, confined to one worktree.

A path is walked name by name from a directory that is held open, and no symlink is ever followed, so that a file or
directory which is swapped for a link while we work can't lead out (the race that checks of whole paths lose).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
import unicodedata
from typing import TYPE_CHECKING

from orchestra.errors import did_you_mean
from orchestra.tools.base import ToolFailureError

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterable, Iterator

Parts = tuple[str, ...]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that nobody writes would wait for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST = 2_000
"""Bytes of a path; with the worktree's own path it stays below what systems take."""
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def parse_path(text: str, *, root: pathlib.Path | None = None, directory: bool = False) -> Parts:
    """Split a path that a model wrote into names, refusing what leads out of the repository or into `.git`.

    Args:
        text: The path, relative to the root of the repository.
        root: The worktree, to turn an absolute path below it into the right one in the message.
        directory: Whether the root itself (`.`) is meant to be allowed.
    """
    if "\0" in text:
        raise ToolFailureError(f"the path {_shown(text)} holds a NUL character; leave it out")
    if len(text.encode("utf-8", "replace")) > _LONGEST:
        # Walking name by name could go deeper than any other program can follow.
        raise ToolFailureError(f"the path {_shown(text)} is too long")
    if text.startswith("/"):
        raise ToolFailureError(f"{_shown(text)} is an absolute path, which is refused; {_relative_hint(text, root)}")
    names = tuple(name for name in text.split("/") if name not in {"", "."})
    if ".." in names:
        raise ToolFailureError(
            f"{_shown(text)} holds '..', which is refused; paths are relative to the root of the repository"
        )
    for name in names:
        if is_git_name(name):
            raise ToolFailureError(
                f"{_shown(text)} leads into '.git', which tools may not touch; use git-log, git-show or git-diff"
            )
    if not names and not directory:
        raise ToolFailureError("the path is empty; name a file, relative to the root of the repository")
    return names


def is_git_name(name: str) -> bool:
    """Whether a file system may take `name` for `.git`: any case, NTFS short names and streams, ignorable characters.

    The same names that git itself refuses in a tree, on any system, since a repository travels.
    """
    for part in name.split("\\"):
        folded = part if part.isascii() else _plain_letters(part)
        folded = folded.lower().split(":")[0].rstrip(". ")
        if folded == ".git" or re.fullmatch(r"git~\d+", folded):
            return True
    return False


def _plain_letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text)
    folded = "".join(char for char in folded if unicodedata.category(char) != "Cf")
    return folded.casefold().replace("\u0131", "i")


@contextlib.contextmanager
def parent_of(root: pathlib.Path, parts: Parts, *, create: bool = False) -> Iterator[int]:
    """Hold the directory of a path open and yield its descriptor; with `create`, make missing directories."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, name in enumerate(parts[:-1], start=1):
            following = _enter(current, name, parts[:depth], create=create)
            os.close(current)
            current = following
        yield current
    except OSError as error:
        raise _plain_failure(error, parts) from None
    finally:
        os.close(current)


def _enter(current: int, name: str, so_far: Parts, *, create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=current)
    try:
        return os.open(name, _DIRECTORY, dir_fd=current)
    except FileNotFoundError:
        near = did_you_mean(name, _entries(current))
        message = f"there is no directory {_shown('/'.join(so_far))}"
        raise ToolFailureError(f"{message}; {near or 'list-files shows what exists'}") from None
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        info = os.lstat(name, dir_fd=current)
        if stat.S_ISLNK(info.st_mode):
            raise ToolFailureError(_link_message(current, name, so_far)) from None
        raise ToolFailureError(f"{_shown('/'.join(so_far))} is a file, not a directory") from None


def look(parent: int, parts: Parts) -> os.stat_result | None:
    """Return what lies at a path, or None; a symlink or a special file is refused."""
    try:
        info = os.lstat(parts[-1], dir_fd=parent)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(info.st_mode):
        raise ToolFailureError(_link_message(parent, parts[-1], parts))
    kind = _KINDS.get(stat.S_IFMT(info.st_mode))
    if kind:
        raise ToolFailureError(f"{_shown('/'.join(parts))} is {kind}, not a file; nothing was done")
    return info


def look_for_file(parent: int, parts: Parts) -> os.stat_result:
    """Return what is known of an existing file, or fail with the reason and near names."""
    info = look(parent, parts)
    if info is None:
        raise missing_file(parts, _entries(parent))
    if stat.S_ISDIR(info.st_mode):
        raise ToolFailureError(
            f"{_shown('/'.join(parts))} is a directory; list-files with '{'/'.join(parts)}/**' lists it"
        )
    return info


def missing_file(parts: Parts, entries: Iterable[str]) -> ToolFailureError:
    """Make the message for a file that does not exist, with near names of its directory."""
    hint = did_you_mean(parts[-1], entries)
    return ToolFailureError(f"there is no file {_shown('/'.join(parts))}; {hint or 'list-files shows what exists'}")


def read_bytes(root: pathlib.Path, parts: Parts, limit: int) -> tuple[bytes, int]:
    """Read up to `limit` bytes of a regular file.

    Returns:
        The bytes, and the size of the whole file.
    """
    with parent_of(root, parts) as parent:
        look_for_file(parent, parts)
        file = os.open(parts[-1], _READ, dir_fd=parent)
        with os.fdopen(file, "rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ToolFailureError(f"{_shown('/'.join(parts))} is not a regular file")
            return stream.read(limit), info.st_size


def write_bytes(root: pathlib.Path, parts: Parts, content: bytes) -> bool:
    """Replace a file in one step, or create it with its directories; the mode of an existing file is kept.

    Returns:
        Whether the file is new.
    """
    with parent_of(root, parts, create=True) as parent:
        before = look(parent, parts)
        if before is not None and stat.S_ISDIR(before.st_mode):
            raise ToolFailureError(f"{_shown('/'.join(parts))} is a directory; name a file in it")
        with _removed_unless_renamed(parent) as temporary:
            file = os.open(temporary, _CREATE, 0o666, dir_fd=parent)
            with os.fdopen(file, "wb") as stream:
                stream.write(content)
                if before is not None:
                    os.fchmod(stream.fileno(), before.st_mode & 0o777)
            os.rename(temporary, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
    return before is None


@contextlib.contextmanager
def _removed_unless_renamed(parent: int) -> Iterator[str]:
    name = f".orchestra-{os.urandom(12).hex()}.tmp"
    try:
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)


def delete_file(root: pathlib.Path, parts: Parts) -> None:
    """Delete one regular file."""
    with parent_of(root, parts) as parent:
        look_for_file(parent, parts)
        os.unlink(parts[-1], dir_fd=parent)


def move_file(root: pathlib.Path, source: Parts, target: Parts) -> None:
    """Move one regular file to a path where nothing is yet, creating directories."""
    with parent_of(root, source) as source_parent:
        look_for_file(source_parent, source)
        with parent_of(root, target, create=True) as target_parent:
            if look(target_parent, target) is not None:
                raise ToolFailureError(
                    f"{_shown('/'.join(target))} exists, and move-file does not overwrite; delete it first or choose "
                    "another name"
                )
            _move(source_parent, source[-1], target_parent, target[-1])


def _move(source_parent: int, source: str, target_parent: int, target: str) -> None:
    try:
        # Unlike a rename, a link fails when something has appeared at the target in the meantime.
        os.link(source, target, src_dir_fd=source_parent, dst_dir_fd=target_parent, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK}:
            raise
        os.rename(source, target, src_dir_fd=source_parent, dst_dir_fd=target_parent)
    else:
        os.unlink(source, dir_fd=source_parent)


def is_confined(root: pathlib.Path, parts: Parts) -> bool:
    """Whether a path exists and no part of it is a symlink."""
    try:
        with parent_of(root, parts) as parent:
            return look(parent, parts) is not None
    except ToolFailureError:
        return False


def _link_message(parent: int, name: str, parts: Parts) -> str:
    shown = _shown("/".join(parts))
    target = os.readlink(name, dir_fd=parent)
    # Where the link leads is only computed for the message; it is never opened.
    led = os.path.normpath(os.path.join("/", *parts[:-1], target)).lstrip("/")  # noqa: PTH118 - text, not a path here
    depth = len(parts) - 1
    for step in target.split("/"):
        depth += -1 if step == ".." else 0 if step in {"", "."} else 1
        if depth < 0 or target.startswith("/"):
            return f"{shown} is a symlink that leads out of the repository (to {_shown(target)}), which is refused"
    return f"{shown} is a symlink to {_shown(target)}; tools do not follow links: use the path {_shown(led)}"


def _entries(directory: int) -> list[str]:
    enough = 5_000  # for a did-you-mean, which compares with each
    with os.scandir(directory) as entries:
        return [entry.name for entry in itertools.islice(entries, enough) if not is_git_name(entry.name)]


def _plain_failure(error: OSError, parts: Parts) -> ToolFailureError:
    shown = _shown("/".join(parts))
    if error.errno == errno.ENAMETOOLONG:
        return ToolFailureError(f"the path {shown} is too long for this file system")
    if error.errno == errno.ELOOP:
        return ToolFailureError(f"{shown} became a symlink, and tools do not follow links")
    return ToolFailureError(f"{shown}: {error.strerror or type(error).__name__}")


def _relative_hint(text: str, root: pathlib.Path | None) -> str:
    if root is not None and text.startswith(f"{root}/"):
        inside = text[len(str(root)) :].strip("/")
        return f"use {_shown(inside)}, relative to the root of the repository"
    return "paths are relative to the root of the repository"


def _shown(text: str) -> str:
    longest = 200
    return repr(text) if len(text) <= longest else repr(text[:longest]) + "…"
