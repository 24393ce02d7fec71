"""No op enters the language without all that it owes.

That is: a gradient or a reason to have none, a kernel or a plan made of other ops, a case of the
harness, an oracle; and its function: documented dims, an example that runs, a test of its errors.
"""

import ast
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import meshlang as ml
import meshlang.lowering.executor  # registers the kernels
import meshlang.ops
from meshlang.layout.cost import walk
from meshlang.layout.values import Local
from meshlang.lowering.kernels import KERNELS
from meshlang.ops.functions import BINARY, UNARY
from meshlang.program import Op
from tests.harness import Case, trace_cases

HERE = Path(__file__).parent
#: what the executor does itself, with the backend's loops, branches and variables
EXECUTED = {"Assign", "Cond", "Scan", "Stored", "UpdateInPlace", "WhileLoop"}
#: in no program: they lead a backward pass from around a loop into it
MARKS = {"Given", "Sliced"}
#: parents that have only subclasses in programs
ABSTRACT = {"Sliding", "Update"}
#: ops on blocks, by the op of the language whose plan is made of them
OF_BLOCKS = {
    "BlocksBefore": "Running",
    "CarriedIn": "Recurrence",
    "EndOfRecurrence": "Recurrence",
    "FiniteOrZero": "LogSumExp",
    "FirstEqual": "ArgExtreme",
    "LargestOfBlocks": "Largest",
}
NO_GRADIENT = {
    "Step": "a count of steps: an integer made from nothing",
    "Stored": "a variable's value: where gradients end",
}
#: what holds an op to an independent computation, where no case with an oracle does
HELD_ELSEWHERE = {
    "AdamUpdate": "optim/test_optimizers.py",  # optimizers written in NumPy, over ten steps
    "DescentUpdate": "optim/test_optimizers.py",
    "MomentumUpdate": "optim/test_optimizers.py",
    "Random": "ops/test_create.py",  # Philox, written down from its paper
}
#: what takes whatever it is given
NEVER_REFUSED = {"print", "stop_gradient"}


# -- what there is -------------------------------------------------------------------------------


@cache
def classes() -> dict[str, type[Op]]:
    """Every op, by name."""
    for found in pkgutil.walk_packages(meshlang.__path__, "meshlang."):
        import_module(found.name)
    every: dict[str, type[Op]] = {}

    def visit(parent: type[Op]) -> None:
        for child in parent.__subclasses__():
            if child.__module__.startswith("meshlang.") and not child.__name__.startswith("_"):
                assert every.setdefault(child.__name__, child) is child
            visit(child)

    visit(Op)
    return every


def of_language() -> list[str]:
    """Those that programs hold. Others are made while a plan is."""
    return sorted(
        name
        for name, op in classes().items()
        if op.infer is not Op.infer
        and op.__module__.startswith(("meshlang.ops.", "meshlang.optim."))
        and name not in {*ABSTRACT, *OF_BLOCKS}
    )


def functions() -> list[str]:
    return [name for name in meshlang.ops.__all__ if inspect.isfunction(getattr(ml, name))]


def files_of_tests() -> list[Path]:
    return [*sorted((HERE / "ops").glob("test_*.py")), HERE / "optim" / "test_layouts.py"]


@cache
def cases() -> tuple[Case, ...]:
    """Every case that a module of tests of ops or optimizers holds."""
    return tuple(case for path in files_of_tests() for case in inside(vars(module(path)).values()))


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"completeness_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def inside(values: Iterable[object]) -> Iterator[Case]:
    for value in values:
        if isinstance(value, Case):
            yield value
        elif isinstance(value, tuple | list):
            yield from inside(value)
        elif isinstance(value, dict):
            yield from inside(value.values())


@cache
def ops_of(case: Case) -> frozenset[str]:
    """The ops of its program, gradients included."""
    return frozenset(type(node.op).__name__ for node in trace_cases((case,))[0].every_node())


# -- ops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", of_language())
def test_an_op_has_a_gradient_or_a_reason_to_have_none(name: str):
    assert (classes()[name].vjp is Op.vjp) == (name in NO_GRADIENT)


@pytest.mark.parametrize("name", sorted(classes().keys() - MARKS - ABSTRACT))
def test_an_op_has_a_kernel_or_is_planned_as_other_ops(name: str):
    op = classes()[name]
    assert op in KERNELS or name in EXECUTED or (name in of_language() and op.plan is not Op.plan)


@pytest.mark.parametrize("name", of_language())
def test_an_op_goes_through_the_harness(name: str):
    assert any(name in ops_of(case) for case in cases())


@pytest.mark.parametrize("name", of_language())
def test_an_op_is_held_to_an_oracle(name: str):
    held = any(name in ops_of(case) for case in cases() if case.oracle)
    assert held != (name in HELD_ELSEWHERE)


@pytest.mark.parametrize("name", sorted(OF_BLOCKS))
def test_an_op_on_blocks_stands_in_the_plan_of_a_case(name: str):
    assert not any(name in ops_of(case) for case in cases())
    whole = [case for case in cases() if OF_BLOCKS[name] in ops_of(case)]
    assert any(name in ops_of_plans(case) for case in whole)


def ops_of_plans(case: Case) -> Iterator[str]:
    """The local ops under each layout that divides one dim of the inputs."""
    program = trace_cases((case,))[0]
    for name in {n for x in program.inputs.values() for n in x.shape.names}:
        try:
            plan = ml.plan(program, "p:2", f"{name}:p")
        except ml.LayoutError:
            continue  # a dim that this case holds whole
        yield from (type(s.op).__name__ for s, _ in walk(plan.steps) if isinstance(s, Local))


def test_lists_name_ops_that_there_are():
    listed = {*EXECUTED, *MARKS, *ABSTRACT, *OF_BLOCKS, *NO_GRADIENT, *HELD_ELSEWHERE}
    assert listed <= classes().keys()
    assert set(functions()) >= NEVER_REFUSED
    for where in HELD_ELSEWHERE.values():
        assert (HERE / where).exists()


# -- functions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", functions())
def test_a_function_documents_dims_and_shows_an_example(name: str):
    text = getattr(ml, name).__doc__ or ""
    assert "Dims:\n" in text
    assert "Example:\n" in text or name in {*UNARY, *BINARY}


@pytest.mark.parametrize("name", functions())
def test_errors_of_a_function_are_tested(name: str):
    assert (name in refused()) != (name in NEVER_REFUSED)


@cache
def refused() -> frozenset[str]:
    """Functions, also called as methods, that a test of an error mentions, or what it uses does."""
    found: set[str] = set()
    for path in files_of_tests():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = dict(named_statements(tree))
        for name, statement in top.items():
            if name.startswith("test_"):
                words = mentioned(statement, top)
                if words & {"trace_error", "layout_error", "raises"}:
                    found |= words
                    # Of each row of the tables: getattr(ml, name).
                    found |= {*UNARY, *BINARY} if words >= {"getattr", "UNARY", "BINARY"} else set()
    return frozenset(found)


def named_statements(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name, statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from ((t.id, statement) for t in targets if isinstance(t, ast.Name))


def mentioned(statement: ast.stmt, top: dict[str, ast.stmt]) -> set[str]:
    """Names and attributes in a statement, and in those of the module that it names."""
    words: set[str] = set()
    rest = [statement]
    while rest:
        for node in ast.walk(rest.pop()):
            word = getattr(node, "id", None) or getattr(node, "attr", None)
            numpys = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "np"
            if isinstance(word, str) and not numpys and word not in words:
                words.add(word)
                rest += [top[word]] if word in top else []
    return words
