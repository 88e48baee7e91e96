"""User code: a Python file, or an object by its dotted name.

A user's file runs under a private module name, and nothing is written beside it (no `__pycache__`), since it may
lie in a checkout that Orchestra has promised not to touch. What goes wrong in it is reported at the user's line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import pkgutil
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from orchestra.errors import Location, PipelineError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_lock = threading.RLock()
_files: dict[Path, tuple[tuple[int, int], ModuleType]] = {}
_searched: set[str] = set()
"""Top-level modules that came out of a search directory, so that another pipeline's module of that name may follow."""


def import_file(path: Path) -> ModuleType:
    """Run a user's Python file and return its module.

    The module is kept until the file changes. The file's directory is importable while it runs.

    Raises:
        PipelineError: The file is missing, can't be read or compiled, or raises; with the line of the user's code.
    """
    path = path.absolute()
    try:
        status = path.stat()
        source = path.read_bytes()
    except OSError as error:
        raise PipelineError(f"cannot read {path}: {error.strerror}", code="file-not-found") from None
    stamp = (status.st_mtime_ns, status.st_size)
    with _lock:
        known = _files.get(path)
        if known and known[0] == stamp:
            return known[1]
        module = _run(path, source)
        _files[path] = (stamp, module)
        return module


def import_object(spec: str, *, search: Sequence[Path]) -> Any:
    """Return the object that `package.module:Name` names.

    Args:
        spec: The dotted module, a colon, and the name in it (`Outer.Inner` for a nested one).
        search: Directories that are looked in before the installed packages.

    Raises:
        PipelineError: `bad-import`, with near names, or the line of the user's code that failed.
    """
    module_name, colon, attributes = spec.partition(":")
    parts = [*module_name.split("."), *attributes.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise PipelineError(
            f"{spec!r} names no object of a module",
            code="bad-import",
            hint="write it as package.module:Name",
        )
    with _lock, _importable(search):
        found: Any = _import_module(module_name, search)
    place = module_name
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise _missing_attribute(found, place, attribute) from None
        place += f".{attribute}"
    return found


def _run(path: Path, source: bytes) -> ModuleType:
    digest = hashlib.sha256(str(path).encode(errors="surrogatepass")).hexdigest()[:12]
    module = ModuleType(f"_orchestra_user_{digest}_{path.stem}")
    module.__file__ = str(path)
    previous = sys.modules.get(module.__name__)
    # dataclasses and Pydantic look their module up by name.
    sys.modules[module.__name__] = module
    try:
        with _importable([path.parent]):
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - this is what it is for
    except (Exception, SystemExit) as error:
        if previous is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = previous
        raise _user_error(error, path, inside=[path.parent]) from error
    return module


def _import_module(name: str, search: Sequence[Path]) -> ModuleType:
    top = name.partition(".")[0]
    directories = [str(directory.absolute()) for directory in search]
    importlib.invalidate_caches()
    spec = importlib.machinery.PathFinder.find_spec(top, directories)
    if spec and top in _searched and not _same_origin(sys.modules.get(top), spec):
        for loaded in [key for key in sys.modules if key == top or key.startswith(f"{top}.")]:
            del sys.modules[loaded]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _missing_module(name, error.name, search) from None
        raise _user_error(error, Path(name), inside=search) from error
    except (Exception, SystemExit) as error:
        raise _user_error(error, Path(name), inside=search) from error
    if spec and _same_origin(sys.modules.get(top), spec):
        _searched.add(top)
    return module


def _same_origin(module: ModuleType | None, spec: importlib.machinery.ModuleSpec) -> bool:
    loaded = getattr(module, "__spec__", None)
    if loaded is None:
        return False
    if spec.origin is None:  # a namespace package: a directory without __init__.py
        return list(loaded.submodule_search_locations or ()) == list(spec.submodule_search_locations or ())
    return bool(loaded.origin == spec.origin)


@contextmanager
def _importable(directories: Sequence[Path]) -> Iterator[None]:
    """Put directories first on the import path, and keep Python from writing beside the user's files."""
    before = sys.path[:], sys.dont_write_bytecode
    sys.path[:0] = [str(directory.absolute()) for directory in directories]
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before


def _user_error(error: BaseException, what: Path, *, inside: Sequence[Path]) -> PipelineError:
    """Say where in the user's code an import failed: the innermost frame that lies in one of `inside`."""
    if isinstance(error, PipelineError):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        place = _location(Path(error.filename), error.lineno or 1, error.offset or 1)
        return PipelineError(f"{place.path.name} is not valid Python: {error.msg}", code="bad-import", location=place)
    roots = [directory.absolute() for directory in inside]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(root) for root in roots)
    ]
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = f"importing {what.name} failed: {reason}"
    if not frames:
        return PipelineError(message, code="bad-import")
    frame = frames[-1]
    place = _location(Path(frame.filename), frame.lineno or 1, (frame.colno or 0) + 1)
    return PipelineError(message, code="bad-import", location=place)


def _location(path: Path, line: int, column: int) -> Location:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    return Location(path, line, max(column, 1), text)


def _missing_module(name: str, missing: str, search: Sequence[Path]) -> PipelineError:
    parent = missing.rpartition(".")[0]
    if parent:
        paths = list(getattr(sys.modules.get(parent), "__path__", ()))
        near = [f"{parent}.{module.name}" for module in pkgutil.iter_modules(paths)]
        where = f" in {', '.join(paths)}" if paths else f": {parent!r} is a module, not a package"
    else:
        near = [module.name for module in pkgutil.iter_modules([str(directory) for directory in search])]
        where = "".join(f"\n  tried {directory}" for directory in search)
        where += "\n  tried the installed packages"
    of = f" (of {name!r})" if missing != name else ""
    return PipelineError(
        f"there is no module {missing!r}{of}{where}",
        code="bad-import",
        hint=did_you_mean(missing, near) or (None if parent else "the pipeline's directory is searched first"),
    )


def _missing_attribute(owner: Any, place: str, attribute: str) -> PipelineError:
    names = [name for name in dir(owner) if not name.startswith("_")]
    file = getattr(owner, "__file__", None)
    where = f" ({file})" if file else ""
    return PipelineError(
        f"{place!r} has no {attribute!r}{where}",
        code="bad-import",
        hint=did_you_mean(attribute, names) or ("it has " + ", ".join(names[:10]) if names else None),
    )
