"""The wheel: built, installed beside the dependencies of this environment, and used outside of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if UV is None:
        pytest.skip("needs uv to build the wheel")
    target = tmp_path_factory.mktemp("wheel")
    command = [UV, "build", "--wheel", "--quiet", "--out-dir", str(target), str(ROOT)]
    done = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=False)
    if done.returncode != 0:  # the build backend is not in the cache yet
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_sql_and_the_pipelines_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"orchestra/py.typed", "orchestra/_pipelines/pr-review.yaml"} <= set(names)
    assert "orchestra/_pipelines/conditions/critic_routing.py" in names
    assert any(name.startswith("orchestra/runtime/sql/") for name in names)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"orchestra"}
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_the_installed_command_finds_the_shipped_pipeline(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Behind the wheel's own: what this environment has, without its editable install of the checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = "import sys; from orchestra.cli.main import main; sys.argv[0] = 'orchestra'; main()"
    env = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    env |= {"HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def orchestra(*args: str) -> subprocess.CompletedProcess[str]:
        command = [str(place / "bin" / "python"), "-I", "-c", code, *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    compiled = orchestra("compile", "pr-review")
    assert compiled.returncode == 0, compiled.stderr
    assert str(packages / "orchestra" / "_pipelines" / "pr-review.yaml") in compiled.stdout
    assert orchestra("--version").stdout == f"orchestra {wheel.name.split('-')[1]}\n"
    assert orchestra("demo", "-q").stdout.startswith("## Review")
    assert sys.prefix not in compiled.stdout
