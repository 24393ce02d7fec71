"""Checkpoints under every mesh and layout, in part, under other names, and in other dtypes."""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import meshlang as ml
from meshlang.lowering.fitting import sources
from meshlang.manifest import Entry

# Layouts by their mesh's axes; each on 1, 2, 4 and 8 processors.
LAYOUTS = {
    "whole": ("a", "", {}),
    "rows": ("a", "d_io:a", {}),
    "columns": ("a", "d_h:a", {}),
    "both": ("a b", "d_io:a d_h:b", {}),
    "turned": ("a b", "d_io:b d_h:a", {}),
    "kept": ("a b", "d_h:a", {"params": "d_io:b"}),
}
MESHES = {
    "a": {1: "", 2: "a:2", 4: "a:4", 8: "a:8"},
    "a b": {1: "", 2: "a:1 b:2", 4: "a:2 b:2", 8: "a:2 b:4"},
}
EVERY = list(itertools.product(LAYOUTS, (1, 2, 4, 8)))


def trained() -> dict[str, ml.Tensor]:
    """Parameters with moments, as an optimizer keeps them."""
    w = ml.variable("w", "d_io:8 d_h:16", init=ml.normal_init(1.0))
    half = ml.variable("half", "d_h:16 d_io:8", init=ml.normal_init(1.0), dtype="bfloat16")
    bias = ml.variable("bias", "d_h:16", init=ml.normal_init(1.0))
    loss = ml.sum(w * w) + ml.sum(ml.cast(half, "float32")) + ml.sum(bias * bias)
    variables = ml.trainable_variables()
    ml.optim.AdamW(learning_rate=0.1).apply(variables, ml.gradients(loss, variables))
    return {"loss": loss}


def lowered(
    fn: Callable, name: str = "whole", size: int = 1, backend: str = "simulated"
) -> ml.Executable:
    axes, layout, tables = LAYOUTS[name]
    if size == 1:
        layout, tables = "", {}
    optional = " ".join(word.replace(":", "?:") for word in layout.split())
    tables = {key: table.replace(":", "?:") for key, table in tables.items()}
    planned = ml.plan(ml.trace(fn), MESHES[axes][size], optional, **tables)
    return ml.lower(planned, backend=backend)


def values(executable: ml.Executable) -> dict[str, np.ndarray]:
    return {name: executable[name] for name in executable.plan.variables}


@pytest.mark.timeout(120)
def test_every_pair_of_layouts_and_sizes_restores_bit_for_bit(tmp_path: Path):
    """576 pairs: six layouts on 1, 2, 4 and 8 processors, each into each; some on devices."""
    executables, saved = {}, {}
    for name, size in EVERY:
        backend = "spmd" if (name, size) in (("kept", 8), ("rows", 4), ("both", 2)) else "simulated"
        executable = lowered(trained, name, size, backend)
        if not saved:
            executable.initialize(1)
            executable()
            wanted = values(executable)
        else:
            executable.restore(saved["whole", 1])
        executables[name, size] = executable
        saved[name, size] = tmp_path / f"{name}_{size}"
        executable.save(saved[name, size])
    for key, executable in executables.items():
        for path in saved.values():
            for variable, array in wanted.items():
                executable.set(variable, np.zeros_like(array))
            executable.restore(path)
            for variable, array in wanted.items():
                assert executable[variable].tobytes() == array.tobytes(), (key, path, variable)


# -- in part, under other names, in other dtypes ------------------------------------------------


def named(**variables: str | tuple[str, str]) -> Callable:
    """A program with these variables: dims, or dims and a dtype."""

    def fn():
        for name, what in variables.items():
            dims, dtype = what if isinstance(what, tuple) else (what, "float32")
            plain = {} if dtype.startswith(("float", "bfloat")) else {"trainable": False}
            ml.variable(name.replace("__", "/"), dims, init=1, dtype=dtype, **plain)
        return {}

    return fn


def saved_as(path: Path, **variables: str) -> ml.Executable:
    executable = lowered(named(**variables))
    executable.initialize(0)
    for i, name in enumerate(executable.plan.variables):
        executable.set(name, np.full_like(executable[name], 2 + i))
    executable.store.step, executable.store.seed = 7, 9
    executable.save(path)
    return executable


def refused(fn: Callable, *arguments, **more) -> str:
    with pytest.raises(ml.CheckpointError) as error:
        fn(*arguments, **more)
    return str(error.value)


def test_a_part_is_read_and_the_rest_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "step_7"
    saved_as(path, encoder__w="d:4", encoder__b="d:4", decoder__w="d:4", old="d:2")
    executable = lowered(named(encoder__w="d:4", encoder__b="d:4", decoder__w="e:6"))
    executable.initialize(5)
    with caplog.at_level(logging.INFO, "meshlang"):
        executable.restore(path, only="encoder/.*")
    assert [executable[n][0] for n in ("encoder/w", "encoder/b", "decoder/w")] == [2.0, 3.0, 1.0]
    assert (executable.step, executable.store.seed) == (0, 5)
    assert caplog.messages == [f"2 variables restored from {path}; others: ['decoder/w']"]


def test_names_of_the_checkpoint_by_expressions(tmp_path: Path):
    path = tmp_path / "step_7"
    saved_as(path, old__w="d:4", old__b="d:4", head="d:2")
    executable = lowered(named(encoder__w="d:4", encoder__b="d:4", head="d:2"))
    executable.restore(path, names={r"encoder/(.*)": r"old/\1"})
    found = [executable[n][0] for n in ("encoder/w", "encoder/b", "head")]
    assert (found, executable.step) == ([2.0, 3.0, 4.0], 7)


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"only": "encoder"}, "only       encoder"),
        ({"names": {"encodr/(.*)": r"old/\1"}}, "names      encodr/(.*)"),
    ],
)
def test_an_expression_that_matches_nothing(tmp_path: Path, asked: dict, told: str):
    saved_as(tmp_path / "step_7", encoder__w="d:4")
    executable = lowered(named(encoder__w="d:4"))
    assert refused(executable.restore, tmp_path / "step_7", **asked) == (
        "no variable matches.\n"
        f"  {told}\n"
        "  variables  encoder/w\n"
        "  fix: a name must match as a whole: 'encoder/.*', not 'encoder'"
    )


def test_an_expression_that_is_none(tmp_path: Path):
    saved_as(tmp_path / "step_7", w="d:4")
    executable = lowered(named(w="d:4"))
    assert refused(executable.restore, tmp_path / "step_7", only="(w") == (
        "a regular expression does not parse.\n"
        "  expression  (w\n"
        "  reason      missing ), unterminated subpattern at position 0"
    )


def test_what_a_part_lacks_is_listed(tmp_path: Path):
    path = tmp_path / "step_7"
    saved_as(path, encoder__w="d:4", decoder__w="d:4")
    executable = lowered(named(encoder__w="d:5", encoder__b="d:4", decoder__w="e:6"))
    assert refused(executable.restore, path, only="encoder/.*") == (
        "the checkpoint is of another model: 2 tensors do not fit.\n"
        f"  path       {path}\n"
        "  missing    encoder/b [d:4] float32\n"
        "  differing  encoder/w [d:4] float32 in the checkpoint, [d:5] float32 in the program\n"
        "  fix: restore into the program that wrote it, or start anew in another directory"
    )
    assert "missing    old/b [d:4] float32, for encoder/b\n" in refused(
        executable.restore, path, only="encoder/b", names={"encoder/(.)": r"old/\1"}
    ).replace("  missing  ", "  missing    ")


def test_other_dtypes_are_read_only_when_asked(tmp_path: Path):
    path = tmp_path / "step_7"
    short = lowered(named(w=("d:4", "bfloat16"), n=("d:4", "float16"), k=("d:2", "int32")))
    short.initialize(0)
    short.set("w", np.array([1.0, 0.1, 3e38, -2.5], np.float32))
    short.set("n", np.array([1.0, 0.1, 6e4, -2.5], np.float32))
    short.save(path)
    long = lowered(named(w="d:4", n=("d:4", "float64"), k=("d:2", "int32")))
    assert refused(long.restore, path) == (
        "the checkpoint is of another model: 2 tensors do not fit.\n"
        f"  path       {path}\n"
        "  differing  w [d:4] bfloat16 in the checkpoint, [d:4] float32 in the program\n"
        "  differing  n [d:4] float16 in the checkpoint, [d:4] float64 in the program\n"
        "  fix: restore with cast=True: only the dtypes of floats differ"
    )
    long.restore(path, cast=True)
    for name in ("w", "n"):
        np.testing.assert_array_equal(long[name], short[name].astype(long[name].dtype))
    counted = lowered(named(w="d:4", n="d:4", k="d:2"))
    assert "differing  k [d:2] int32" in refused(counted.restore, path, cast=True)


def test_names_of_a_foreign_checkpoint_name_no_files():
    """A tensor's name is a key of the bundle and nothing else, whatever it looks like."""
    theirs = {"../../etc/passwd": Entry(("d",), (4,), "float32")}
    with pytest.raises(ml.CheckpointError, match=r"unexpected  \.\./\.\./etc/passwd \[d:4\]"):
        sources({}, theirs, Path("step_1"))


# -- written beside the steps -------------------------------------------------------------------


def test_a_copy_is_written_while_steps_go_on(tmp_path: Path):
    for backend in ("spmd", "simulated"):
        executable = lowered(trained, "kept", 4, backend)
        executable.initialize(1)
        executable()
        before = values(executable)
        saving = executable.begin_save(tmp_path / backend)
        for _ in range(3):
            executable()
        found = saving.write()
        assert (found.step, executable.step) == (1, 4)
        assert not np.array_equal(executable["w"], before["w"])
        executable.restore(tmp_path / backend)
        for name, array in before.items():
            assert executable[name].tobytes() == array.tobytes()


def test_the_manifest_says_what_wrote_it(tmp_path: Path):
    executable = lowered(trained)
    executable.initialize(0)
    found = executable.save(tmp_path / "step_0")
    assert found.versions["tensorflow"] == tf.__version__
