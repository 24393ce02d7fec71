"""The rules of the tree: who may import what, how long a file may be, what no file may contain.

They are read off the syntax trees, so a broken rule shows before any code runs.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import meshlang as ml

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FILE = 500

STDLIB = frozenset(sys.stdlib_module_names)
NUMERIC = frozenset({"numpy"})
TENSORFLOW = frozenset({"tensorflow"})
PROGRAMS = frozenset({"absl", "gin", "google", "matplotlib", "tensorflow_datasets", "tqdm"})
OURS = frozenset({"meshlang", "models"})
# A model is arithmetic on names. What it needs of Python is how to hold and combine values.
FOR_MODELS = frozenset(
    "__future__ abc collections dataclasses enum functools itertools math typing".split()
)

# The longest matching folder decides; what a file may import, by top-level name.
MAY_IMPORT = {
    "meshlang": STDLIB | NUMERIC | {"meshlang"},
    "meshlang/lowering": STDLIB | NUMERIC | TENSORFLOW | {"meshlang", "safetensors"},
    "models": FOR_MODELS | OURS,
    "launch": STDLIB | NUMERIC | TENSORFLOW | PROGRAMS | OURS | {"launch"},
    "benchmarks": STDLIB | NUMERIC | TENSORFLOW | OURS | {"benchmarks", "launch"},
    "examples": STDLIB | NUMERIC | OURS | {"gin", "sklearn"},
}


@dataclass(frozen=True)
class Import:
    """One imported module, as an absolute name, and where the statement stands."""

    module: str
    where: str
    type_checking: bool


def tracked() -> list[Path]:
    """The files that git knows or would add, so that a new file is judged before its commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file()]


def python_files(folder: str = "") -> list[Path]:
    inside = [path for path in tracked() if path.suffix == ".py"]
    return [path for path in inside if path.is_relative_to(ROOT / folder)]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def package_of(path: Path) -> list[str]:
    """The package that relative imports in ``path`` start from."""
    return list(path.relative_to(ROOT).parent.parts)


def imports(path: Path) -> Iterator[Import]:
    tree = syntax_tree(path)
    only_for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        for module in imported_modules(node, path):
            where = f"{shown(path)}:{getattr(node, 'lineno', 0)}"
            yield Import(module, where, id(node) in only_for_types)


def imported_modules(node: ast.AST, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = package_of(path)
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    return []


def allowed_for(path: Path) -> frozenset[str]:
    folders = [folder for folder in MAY_IMPORT if path.is_relative_to(ROOT / folder)]
    return MAY_IMPORT[max(folders, key=len)]


def judged_files() -> list[Path]:
    return [path for folder in MAY_IMPORT for path in python_files(folder)]


def test_imports_point_one_way():
    wrong = {
        f"{found.where} imports {found.module}"
        for path in judged_files()
        for found in imports(path)
        if found.module.split(".")[0] not in allowed_for(path)
    }
    assert sorted(wrong) == []


def test_the_language_reaches_its_lowering_only_at_run_time():
    """An import statement would wake TensorFlow; ``importlib.import_module`` inside ``lower``
    does so when somebody lowers."""
    language = [
        path
        for path in python_files("meshlang")
        if not path.is_relative_to(ROOT / "meshlang" / "lowering")
    ]
    wrong = [
        f"{found.where} imports {found.module}"
        for path in language
        for found in imports(path)
        if f"{found.module}.".startswith("meshlang.lowering.") and not found.type_checking
    ]
    assert wrong == []


def test_models_speak_only_the_public_language():
    """``import meshlang as ml``: no module behind it, and nothing of it that names a device."""
    devices = {"Layout", "Mesh", "Plan", "compare", "lower", "plan", "run", "start"}
    wrong = []
    for path in python_files("models"):
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.Import):
                meant = [
                    (alias.name, alias.asname) != ("meshlang", "ml")
                    for alias in node.names
                    if alias.name.split(".")[0] == "meshlang"
                ]
                broken = any(meant)
            elif isinstance(node, ast.ImportFrom):
                broken = (node.module or "").split(".")[0] == "meshlang"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                broken = node.value.id == "ml" and node.attr in devices
            else:
                continue
            if broken:
                wrong.append(f"{shown(path)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def test_a_module_never_replaces_a_function_of_the_same_name():
    """``import meshlang.lower`` would put the module where ``ml.lower`` was."""
    modules = {path.stem for path in (ROOT / "meshlang").iterdir()}
    assert sorted(modules & set(ml.__all__)) == []


def test_files_are_short():
    long = {
        shown(path): lines
        for path in python_files()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) >= LONGEST_FILE
    }
    assert long == {}


def test_modules_are_named_after_what_they_hold():
    vague = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
    named = [shown(path) for path in python_files() if vague & {path.stem, *package_of(path)}]
    assert named == []


@pytest.mark.parametrize("folder", ["gin", "tests"])
def test_folders_that_must_not_be_packages(folder: str):
    """``gin/__init__.py`` would hide the gin-config package, and any under tests/ can, too."""
    assert [shown(path) for path in tracked() if path.match(f"{folder}/**/__init__.py")] == []
    assert not (ROOT / folder / "__init__.py").exists()


def test_gin_holds_only_gin_files():
    inside = [path for path in tracked() if path.is_relative_to(ROOT / "gin")]
    assert [shown(path) for path in inside if path.suffix != ".gin"] == []


def test_packages_have_an_init():
    """find_packages skips a folder without one, and a wheel would lack its modules."""
    folders = {
        path.parent for name in ("meshlang", "models", "launch") for path in python_files(name)
    }
    assert [
        shown(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


# Written in pieces, since this file is searched as well.
MACHINE = re.compile(
    "|".join(
        [
            r"(?<![\w.~-])/(?:" + "|".join(["work", "home", "root", "Users"]) + r")/\w",
            re.escape("../" + "shared"),
            *(
                re.escape(f"{host}.{end}")
                for host, end in [
                    ("pypi", "org"),
                    ("pythonhosted", "org"),
                    ("npmjs", "org"),
                    ("anaconda", "org"),
                ]
            ),
            "(?:extra-)?index" + "-url",
        ]
    )
)


def test_nothing_names_a_machine_or_a_registry():
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or an array
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE.search(line):
                wrong.append(f"{shown(path)}:{number}: {line.strip()}")
    assert wrong == []


def test_nothing_in_the_tree_runs_what_it_reads():
    """A checkpoint or a data set is never code: no pickle in any form, and no eval."""
    pickles = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    wrong = []
    for path in python_files():
        wrong += [
            f"{found.where}: {found.module}"
            for found in imports(path)
            if found.module.split(".")[0] in pickles
        ]
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.Call) and runs_what_it_reads(node):
                wrong.append(f"{shown(path)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def runs_what_it_reads(call: ast.Call) -> bool:
    allows_pickle = any(
        word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in call.keywords
    )
    return allows_pickle or (isinstance(call.func, ast.Name) and call.func.id == "eval")


PLANNING = """
import meshlang as ml

def step(x):
    w = ml.variable("w", "d_in:4 d_out:8", init=ml.zeros_init)
    return {"y": ml.einsum(x, w, reduce="d_in")}

program = ml.trace(step, x=ml.spec("batch:256 d_in:4", "float32"))
print(ml.plan(program, mesh="data:128 model:4", layout="batch:data d_out:model"))
"""


@pytest.mark.parametrize("source", ["import meshlang", PLANNING], ids=["import", "plan"])
def test_planning_wakes_no_tensorflow(source: str, tmp_path: Path):
    check = "import sys; woken = {'tensorflow', 'keras', 'gin', 'matplotlib'} & set(sys.modules)"
    command = [sys.executable, "-c", f"{source}\n{check}\nassert not woken, woken"]
    found = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
