"""A file that is there whole or not at all, and replaces another one only where that is wanted."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestra.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_target(target: Path, *, force: bool) -> None:
    """Refuse early where a file can't be written.

    Raises:
        PipelineError: `output-exists`, `output-failed`.
    """
    try:
        found = target.lstat()
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        raise _unwritable(target, str(getattr(error, "strerror", None) or error)) from error
    if found is not None:
        if target.is_dir():
            raise _unwritable(target, "it is a directory", "name a file in it")
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise _unwritable(target, "it is no file", "`-` writes to standard output")
        if not force:
            raise _exists(target)
    if not target.parent.is_dir():
        raise _unwritable(target, f"there is no directory {target.parent}", "make it first")


@contextmanager
def new_file(target: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Write a file as long as the body runs; it appears at the end, readable for its owner only.

    A link in its place is replaced itself, not what it leads to.

    Raises:
        PipelineError: `output-exists`, `output-failed`.
    """
    check_target(target, force=force)
    draft: Path | None = None
    try:
        # Made with mode 0600.
        with tempfile.NamedTemporaryFile(prefix=f".{target.name[:100]}.", dir=target.parent, delete=False) as file:
            draft = Path(file.name)
            yield file
        _put(draft, target, force=force)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise _exists(target) from error
        raise _unwritable(target, error.strerror or str(error)) from error
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()


def _put(draft: Path, target: Path, *, force: bool) -> None:
    if not force:
        try:
            os.link(draft, target)  # fails where something has come there meanwhile
        except FileExistsError:
            raise
        except OSError:  # a file system without such links
            if os.path.lexists(target):
                raise FileExistsError from None
        else:
            return
    draft.replace(target)


def _exists(target: Path) -> PipelineError:
    return PipelineError(f"{target} is there already", code="output-exists", hint="`--force` replaces it")


def _unwritable(target: Path, why: str, hint: str = "name another file") -> PipelineError:
    return PipelineError(f"{target} can't be written: {why}", code="output-failed", hint=hint)
