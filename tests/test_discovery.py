from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestra.errors import PipelineError
from orchestra.prompts.discovery import FileDiscovery

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def levels(tmp_path: Path) -> tuple[Path, Path, Path]:
    made = tmp_path / "pipeline", tmp_path / "shared", tmp_path / "user"
    for level in made:
        (level / "prompts" / "roles").mkdir(parents=True)
    return made


@pytest.fixture
def discovery(levels: tuple[Path, Path, Path]) -> FileDiscovery:
    pipeline, shared, user = levels
    return FileDiscovery(pipeline, [shared], user)


def role(level: Path, name: str) -> Path:
    path = level / "prompts" / "roles" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def miss(discovery: FileDiscovery, kind: Any, name: str) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        discovery.find(kind, name)
    return caught.value


def test_the_first_level_that_has_the_file_wins(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    paths = [role(level, "engineer") for level in levels]
    for path in paths:
        assert discovery.find("role", "engineer") == path
        path.unlink()


def test_a_miss_lists_every_path_tried_in_order(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    role(levels[1], "engineer")
    error = miss(discovery, "role", "enginer")
    tried = [line.removeprefix("  tried ") for line in error.message.splitlines()[1:]]
    assert tried == [str(level / "prompts" / "roles" / "enginer.yaml") for level in levels]
    assert (error.code, error.hint) == ("unknown-role", "did you mean 'engineer'?")


def test_a_name_of_another_kind_is_recognised(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    role(levels[0], "engineer")
    error = miss(discovery, "persona", "engineer")
    assert (error.code, error.hint) == ("unknown-persona", "'engineer' is a role: write `role: engineer`")


def test_without_near_names_the_hint_says_where_to_write_it(discovery: FileDiscovery) -> None:
    hint = miss(discovery, "task", "review").hint
    assert hint is not None
    assert hint.startswith("write it as prompts/tasks/review.yaml beside the pipeline")


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "/etc/passwd", "..", "~/x", "a\0b", ""])
def test_a_path_that_leads_out_is_refused(discovery: FileDiscovery, name: str) -> None:
    with pytest.raises(PipelineError) as caught:
        discovery.find_file(name)
    assert caught.value.code == "path-escapes"
    assert miss(discovery, "role", name).code == "path-escapes"


def test_a_link_that_leads_out_is_refused(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    outside = role(levels[0].parent / "elsewhere", "engineer")
    (levels[0] / "prompts" / "roles" / "engineer.yaml").symlink_to(outside)
    error = miss(discovery, "role", "engineer")
    assert error.code == "path-escapes"
    assert str(outside) in error.message


def test_a_directory_link_that_leads_out_is_refused(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    (levels[0].parent / "elsewhere").mkdir()
    (levels[0] / "conditions").symlink_to(levels[0].parent / "elsewhere")
    with pytest.raises(PipelineError, match="leads out"):
        discovery.find_dirs("conditions")


def test_links_inside_a_level_and_a_linked_level_work(levels: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path = role(levels[0], "engineer")
    (path.parent / "alias.yaml").symlink_to(path)
    (tmp_path / "link").symlink_to(levels[0])
    assert FileDiscovery(tmp_path / "link", [], levels[2]).find("role", "alias").read_text() == ""


def test_names_are_those_of_all_levels(discovery: FileDiscovery, levels: tuple[Path, Path, Path]) -> None:
    role(levels[2], "b")
    role(levels[0], "a")
    role(levels[1], "b")
    assert discovery.names("role") == ["a", "b"]
    assert discovery.names("persona") == []


def test_files_and_directories_are_found_on_all_levels(
    discovery: FileDiscovery, levels: tuple[Path, Path, Path]
) -> None:
    for level in levels[1:]:
        (level / "conditions").mkdir()
    (levels[1] / "conditions" / "route.py").write_text("")
    assert discovery.find_dirs("conditions") == [levels[1] / "conditions", levels[2] / "conditions"]
    assert discovery.find_file("conditions/route.py") == levels[1] / "conditions" / "route.py"
    with pytest.raises(PipelineError) as caught:
        discovery.find_file("conditions/rout.py")
    assert (caught.value.code, caught.value.hint) == ("file-not-found", "did you mean 'conditions/route.py'?")


def test_a_directory_is_no_file_and_long_names_are_only_missing(discovery: FileDiscovery) -> None:
    assert miss(discovery, "role", "x" * 5000).code == "unknown-role"
    with pytest.raises(PipelineError, match="there is no file 'prompts'"):
        discovery.find_file("prompts")


def test_the_users_directory_is_the_last_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert FileDiscovery(tmp_path, [tmp_path]).levels == (tmp_path, tmp_path / "home" / ".orchestra")
