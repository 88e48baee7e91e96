from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from orchestra.errors import PipelineError
from orchestra.imports import import_file, import_object

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def failure(path: Path) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        import_file(path)
    return caught.value


def test_a_file_runs_once_until_it_changes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "value = []\n")
    first = import_file(file)
    assert import_file(file) is first
    write(file, "value = [1, 2]\n")
    os.utime(file, ns=(1, 1))
    assert import_file(file).value == [1, 2]


def test_files_of_one_name_do_not_clash(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "state.py", "who = 1\n")
    two = write(tmp_path / "two" / "state.py", "who = 2\n")
    assert (import_file(one).who, import_file(two).who) == (1, 2)


def test_nothing_is_written_beside_the_users_files(tmp_path: Path) -> None:
    write(tmp_path / "_helper.py", "x = 1\n")
    import_file(write(tmp_path / "a.py", "import _helper\nfrom dataclasses import dataclass\n"))
    import_object("_helper:x", search=[tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_helper.py", "a.py"]
    sys.modules.pop("_helper", None)


def test_dataclasses_with_postponed_annotations_work(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert import_file(write(tmp_path / "a.py", text)).A(1).x == 1


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "a.py", "x = 1\nif x\n    pass\n"))
    assert (error.code, error.exit_code) == ("bad-import", 2)
    assert error.location is not None
    assert (error.location.line, error.location.text) == (2, "if x")
    assert "a.py is not valid Python: expected ':'" in error.message


def test_an_exception_names_the_users_line_not_the_librarys(tmp_path: Path) -> None:
    error = failure(write(tmp_path / "a.py", "import json\n\nsettings = json.loads('{')\n"))
    assert error.location is not None
    assert error.location.line == 3
    assert "importing a.py failed: JSONDecodeError" in error.message


@pytest.mark.parametrize("text", ["raise SystemExit(3)\n", "import sys\nsys.exit()\n"])
def test_a_file_cannot_end_the_program(tmp_path: Path, text: str) -> None:
    assert "SystemExit" in failure(write(tmp_path / "a.py", text)).message


def test_a_file_that_failed_is_run_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "import missing_module_of_mine\n")
    assert "missing_module_of_mine" in failure(file).message
    assert "missing_module_of_mine" in failure(file).message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = failure(tmp_path / "nope.py")
    assert error.code == "file-not-found"
    assert str(tmp_path / "nope.py") in error.message


def test_the_import_path_is_left_as_it_was(tmp_path: Path) -> None:
    before = sys.path[:], sys.dont_write_bytecode
    failure(write(tmp_path / "a.py", "1 / 0\n"))
    assert (sys.path, sys.dont_write_bytecode) == before


def test_an_object_comes_from_the_search_directories_first(tmp_path: Path) -> None:
    write(tmp_path / "my_states" / "state.py", "class Review:\n    class Part:\n        pass\n")
    found = import_object("my_states.state:Review.Part", search=[tmp_path])
    assert found.__qualname__ == "Review.Part"


def test_two_pipelines_may_have_modules_of_one_name(tmp_path: Path) -> None:
    for who in ("one", "two"):
        write(tmp_path / who / "h2_state.py", f"who = {who!r}\n")
    assert import_object("h2_state:who", search=[tmp_path / "one"]) == "one"
    assert import_object("h2_state:who", search=[tmp_path / "two"]) == "two"


def test_an_installed_object_is_found() -> None:
    assert import_object("collections:OrderedDict", search=[]).__name__ == "OrderedDict"


@pytest.mark.parametrize("spec", ["", "json", "json:", ":loads", "a b:c", "json:loads()", "../x:y", "json:a:b"])
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(PipelineError) as caught:
        import_object(spec, search=[])
    assert caught.value.hint == "write it as package.module:Name"


def test_a_missing_module_lists_where_was_looked_and_near_names(tmp_path: Path) -> None:
    write(tmp_path / "review_state.py", "")
    with pytest.raises(PipelineError) as caught:
        import_object("reviw_state:State", search=[tmp_path])
    assert f"tried {tmp_path}" in caught.value.message
    assert caught.value.hint == "did you mean 'review_state'?"


def test_a_missing_submodule_names_the_package(tmp_path: Path) -> None:
    write(tmp_path / "h2_package" / "state.py", "")
    with pytest.raises(PipelineError) as caught:
        import_object("h2_package.stat:State", search=[tmp_path])
    assert "there is no module 'h2_package.stat'" in caught.value.message
    assert caught.value.hint == "did you mean 'h2_package.state'?"


def test_a_missing_name_gets_near_names(tmp_path: Path) -> None:
    write(tmp_path / "h2_names.py", "class ReviewState: ...\n")
    with pytest.raises(PipelineError) as caught:
        import_object("h2_names:RevewState", search=[tmp_path])
    assert "'h2_names' has no 'RevewState'" in caught.value.message
    assert caught.value.hint == "did you mean 'ReviewState'?"


def test_an_error_inside_the_module_names_its_line(tmp_path: Path) -> None:
    write(tmp_path / "h2_broken.py", "x = 1\nimport not_there_at_all\n")
    with pytest.raises(PipelineError) as caught:
        import_object("h2_broken:x", search=[tmp_path])
    assert "No module named 'not_there_at_all'" in caught.value.message
    assert caught.value.location is not None
    assert caught.value.location.line == 2
