"""safetensors: what other frameworks write is read, and what is written they read."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from safetensors import safe_open

import meshlang as ml
from meshlang.lowering.interchange import export, load

DTYPES = ("float32", "float64", "bfloat16", "float16", "int32", "int64", "uint32", "bool")


def lowered(fn: Callable, mesh: str = "", layout: str = "", **tables: str) -> ml.Executable:
    return ml.lower(ml.plan(ml.trace(fn), mesh, layout, **tables), backend="simulated")


def every_dtype() -> dict[str, ml.Tensor]:
    for dtype in DTYPES:
        plain = {} if "float" in dtype else {"trainable": False}
        ml.variable(f"some/{dtype}", "d_io:4 d_h:6", init=0, dtype=dtype, **plain)
    ml.variable("scale", "", init=0.0)
    return {"one": ml.ones("", "float32")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint of any bits at all, and they."""
    executable = lowered(every_dtype, "a:2 b:2", "d_io:a d_h:b")
    rng, values = np.random.default_rng(3), {}
    for name, value in executable.plan.variables.items():
        dtype = np.dtype(tf.as_dtype(value.dtype).as_numpy_dtype)
        if dtype.kind == "b":
            values[name] = rng.random(value.shape.sizes) < 0.5
        else:
            bits = rng.bytes(value.shape.size * dtype.itemsize)
            values[name] = np.frombuffer(bits, dtype).reshape(value.shape.sizes)
        executable.set(name, values[name])
    path = tmp_path_factory.mktemp("saved") / "step_0"
    executable.save(path)
    return path, values


def test_there_and_back_to_the_bit(saved, tmp_path: Path):
    path, values = saved
    assert sorted(export(path, tmp_path / "all.safetensors")) == sorted(values)
    assert [p.name for p in tmp_path.iterdir()] == ["all.safetensors"]
    for mesh, layout in (("", ""), ("a:2 b:2", "d_h:a d_io:b")):
        executable = lowered(every_dtype, mesh, layout)
        load(executable, tmp_path / "all.safetensors")
        for name, array in values.items():
            found = executable[name]
            assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes()), name


def test_the_package_itself_reads_what_is_written(saved, tmp_path: Path):
    path, values = saved
    export(path, tmp_path / "all.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "all.safetensors")
    for name, array in values.items():
        assert (found[name].shape, found[name].tobytes()) == (array.shape, array.tobytes()), name
    with safe_open(tmp_path / "all.safetensors", framework="numpy") as file:
        notes = file.metadata()
    assert (notes["meshlang"], notes["step"]) == (ml.__version__, "0")
    assert json.loads(notes["dims"])["some/bool"] == ["d_io", "d_h"]


def test_some_under_other_names(saved, tmp_path: Path):
    path, values = saved
    names = {r"some/(.*)": r"their.\1"}
    written = export(path, tmp_path / "some.safetensors", only="some/b.*", names=names)
    assert sorted(written) == ["their.bfloat16", "their.bool"]
    executable = lowered(every_dtype)
    executable.initialize(0)
    load(executable, tmp_path / "some.safetensors", only="some/bool", names=names)
    np.testing.assert_array_equal(executable["some/bool"], values["some/bool"])
    assert not executable["some/int32"].any()


def simple() -> dict[str, ml.Tensor]:
    ml.variable("w", "d:3", init=0.0)
    ml.variable("b", "d:3", init=0.0)
    return {}


def refused(fn: Callable, *arguments, **more) -> str:
    with pytest.raises(ml.CheckpointError) as error:
        fn(*arguments, **more)
    return str(error.value)


def test_a_file_of_another_framework(tmp_path: Path):
    file = tmp_path / "theirs.safetensors"
    half = np.array([1.0, 2.0, 3.0], np.float16)
    safetensors.numpy.save_file({"w": half, "b": half * 2, "rest": half}, file)
    executable = lowered(simple)
    assert refused(load, executable, file) == (
        "the checkpoint is of another model: 3 tensors do not fit.\n"
        f"  path        {file}\n"
        "  unexpected  rest [dim0:3] float16\n"
        "  differing   w [dim0:3] float16 in the checkpoint, [dim0:3] float32 in the program\n"
        "  differing   b [dim0:3] float16 in the checkpoint, [dim0:3] float32 in the program\n"
        "  fix: restore into the program that wrote it, or start anew in another directory"
    )
    load(executable, file, only=".*", cast=True)
    assert (executable["w"].tolist(), executable["b"].tolist()) == ([1, 2, 3], [2, 4, 6])


def test_what_is_no_such_file(tmp_path: Path):
    executable = lowered(simple)
    (tmp_path / "other").write_bytes(b"not of this format")
    for name in ("other", "nothing"):
        assert refused(load, executable, tmp_path / name).startswith(
            f"this is no safetensors file.\n  path    {tmp_path / name}\n  reason  "
        )


def test_what_cannot_be_exported(saved, tmp_path: Path):
    path, _ = saved
    assert refused(export, path, tmp_path / "x", only="some") == (
        "no tensor matches.\n"
        f"  path  {path}\n"
        "  only  some\n"
        "  fix: a name must match as a whole: 'encoder/.*', not 'encoder'"
    )
    assert refused(export, path, tmp_path / "x", names={"some/.*": "one"}) == (
        "two tensors would have one name.\n"
        f"  path              {path}\n"
        "  name in the file  one\n"
        "  tensors           some/float32 and some/float64"
    )
    (tmp_path / "file").write_text("")
    assert refused(export, path, tmp_path / "file" / "x").startswith(
        f"the file could not be written.\n  path    {tmp_path}/file/x\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_whose_bytes_have_changed(saved, tmp_path: Path):
    path = tmp_path / "step_0"
    executable = lowered(simple)
    executable.initialize(0)
    executable.save(path)
    data = next(path.glob("bundle.data-*"))
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    assert f"{data.name}  its contents have changed" in refused(export, path, tmp_path / "x")


def test_without_the_package(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def blocked(name: str, *rest, **more):
        if name.split(".")[0] == "safetensors":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    assert refused(export, saved[0], tmp_path / "x") == (
        "safetensors is not installed.\n  fix: pip install 'meshlang[safetensors]'"
    )
