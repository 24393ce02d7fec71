"""The package as others get it: built from a source archive, installed, run from an empty folder.

Nothing is fetched. The build uses the setuptools at hand, and the new environment takes
TensorFlow and the rest from the one that runs the tests.
"""

import ast
import os
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
OURS = {"meshlang", "models", "launch"}


def call(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of what git knows or would add; build folders of the checkout play no part."""
    checkout = tmp_path_factory.mktemp("checkout")
    listed = call("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    call(sys.executable, "-c", build, cwd=checkout)
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(source_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(
        *(sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"),
        *("--check-build-dependencies", "--wheel-dir", folder, source_archive),
        cwd=folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel, and an empty folder to work in."""

    bin: Path
    folder: Path

    def run(self, *command: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return call(self.bin / command[0], *command[1:], cwd=self.folder, env=env)

    def python(self, source: str) -> str:
        return self.run("python", "-c", source).strip()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    call(
        *(sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python", "install"),
        *("--no-index", "--no-deps", "--quiet", wheel),
        cwd=folder,
    )
    # After the wheel's own folder on the path, and with no .pth file of an editable install run.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return Installed(folder / "venv" / "bin", folder / "empty")


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(files.read(name).decode())


def test_the_wheel_holds_three_packages_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == OURS
    assert "meshlang/py.typed" in names


def test_the_wheel_holds_every_module_and_every_config(wheel: Path):
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    modules = {
        path.relative_to(ROOT).as_posix() for top in OURS for path in (ROOT / top).rglob("*.py")
    }
    configs = {
        f"launch/configs/{path.relative_to(ROOT / 'gin').as_posix()}"
        for path in (ROOT / "gin").rglob("*.gin")
    }
    assert configs
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name for name in names if name.endswith(".gin")} == configs


def test_version_is_the_same_everywhere(wheel: Path):
    version = metadata(wheel)["Version"]
    assert f'__version__ = "{version}"' in (ROOT / "meshlang" / "__init__.py").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_import_is_of_a_declared_requirement(wheel: Path):
    """What is installed by luck, because TensorFlow needs it today, is not to be leaned on."""
    required = {
        re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
        for line in metadata(wheel).get_all("Requires-Dist", [])
    }
    owners = packages_distributions()
    unknown = set()
    with zipfile.ZipFile(wheel) as files:
        for name in filter(lambda name: name.endswith(".py"), files.namelist()):
            for module in imported(files.read(name)) - OURS - set(sys.stdlib_module_names):
                distributions = {
                    owner.lower().replace("_", "-") for owner in owners.get(module, [])
                }
                if not distributions & required:
                    unknown.add(f"{name}: {module}")
    assert sorted(unknown) == []


def imported(source: bytes) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.split(".")[0])
    return modules


def test_it_is_the_wheel_that_is_imported(installed: Installed):
    found = installed.python("import meshlang, models, launch; print(meshlang.__file__)")
    assert Path(found).is_relative_to(installed.bin.parent)


def test_gin_is_gin_config(installed: Installed):
    assert installed.python("import gin; print(hasattr(gin, 'parse_config'))") == "True"


def test_tests_are_not_installed(installed: Installed):
    source = "from importlib.util import find_spec as f; print(f('tests'), f('benchmarks'))"
    assert installed.python(source) == "None None"


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("meshlang-train", "--gin_file"),
        ("meshlang-plan", "--gin_file"),
        ("meshlang-report", "--out"),
    ],
)
def test_console_scripts_explain_themselves(installed: Installed, command: str, flag: str):
    assert flag in installed.run(command, "--help")


def test_configs_are_found_from_an_empty_folder(installed: Installed):
    printed = installed.run("meshlang-plan", "--gin_file=runs/pydoc_moe.gin")
    assert "all_reduce" in printed
