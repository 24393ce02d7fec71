"""Checkpoints: bit-equal under every mesh and layout, and every mistake told in whole."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import meshlang as ml
from meshlang import manifest

PLACES = {
    "one": ("", "", {}),
    "rows": ("r:8", "d_h:r", {}),
    "both": ("r:4 c:2", "d_io:r d_h:c", {}),
    "both, turned": ("r:4 c:2", "d_io:c d_h:r", {}),
    "two axes on a dim": ("a:2 b:2 c:2", "d_h:c+a d_io:b", {}),
    "params": ("r:4 c:2", "d_h:c", {"params": "d_io:r"}),
    "slots": ("r:2 c:2", "d_h:r", {"slots": "d_io:c"}),
    "params and slots": ("r:2 c:4", "", {"params": "d_io:r", "slots": "d_h:c"}),
}


def many_dtypes() -> dict[str, ml.Tensor]:
    """Variables of many dtypes and ranks, one in a scan, an optimizer's slot."""

    def layer(x, _):
        w = ml.variable("w", "d_io:8", init=0.0, dtype="bfloat16")
        return x * ml.cast(w, "float32"), None

    w = ml.variable("w", "d_io:8 d_h:16", init=0.0)
    with ml.scope("layers"):
        h, _ = ml.scan(layer, ml.zeros("d_io:8", "float32"), over="depth:4")
    (gradient,) = ml.gradients(ml.sum(w) + ml.sum(h), [w])
    ml.variable("slot", gradient.shape, init=0.0)
    frozen = {"init": 0, "trainable": False}
    ml.variable("exact", "d_h:16", dtype="float64", **frozen)
    ml.variable("count", "d_io:8 d_h:16 k:3", dtype="int32", **frozen)
    ml.variable("mask", "d_io:8", dtype="bool", **frozen)
    ml.variable("half", "d_h:16 d_io:8", dtype="float16", **frozen)
    ml.variable("bits", "d_h:16", dtype="uint32", **frozen)
    ml.variable("scale", "", dtype="float64", **frozen)
    return {"sum": ml.sum(w)}


def lowered(fn: Callable, place: str, backend: str = "spmd", **specs) -> ml.Executable:
    mesh, layout, tables = PLACES[place]
    optional = " ".join(word.replace(":", "?:") for word in layout.split())
    tables = {name: table.replace(":", "?:") for name, table in tables.items()}
    program = ml.trace(fn, **specs)
    return ml.lower(ml.plan(program, mesh, optional, **tables), backend=backend)


def values_for(executable: ml.Executable) -> dict[str, np.ndarray]:
    """Any bits at all, NaNs with payloads included; truth values are 0 or 1."""
    rng = np.random.default_rng(7)
    found = {}
    for name, value in executable.plan.variables.items():
        dtype = np.dtype(tf.as_dtype(value.dtype).as_numpy_dtype)
        if dtype.kind == "b":
            found[name] = rng.random(value.shape.sizes) < 0.5
        else:
            bits = rng.bytes(value.shape.size * dtype.itemsize)
            found[name] = np.frombuffer(bits, dtype).reshape(value.shape.sizes)
    return found


def assert_same_bits(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name


def variables_of(executable: ml.Executable) -> dict[str, np.ndarray]:
    return {name: executable[name] for name in executable.plan.variables}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """One checkpoint for each place and backend, all of the same values."""
    directory = tmp_path_factory.mktemp("checkpoints")
    values: dict[str, np.ndarray] = {}
    for backend in ("spmd", "simulated"):
        for place in PLACES:
            executable = lowered(many_dtypes, place, backend)
            values = values_for(executable)
            for name, array in values.items():
                executable.set(name, array)
            executable.store.seed, executable.store.step = 11, 42
            executable.save(directory / f"{place} {backend}", {"place": place})
    return directory, values


@pytest.mark.parametrize("backend", ["spmd", "simulated"])
@pytest.mark.parametrize("place", PLACES)
def test_every_layout_reads_what_every_other_wrote(saved, place: str, backend: str):
    directory, values = saved
    executable = lowered(many_dtypes, place, backend)
    for path in directory.iterdir():
        for name, array in values.items():
            executable.set(name, np.zeros_like(array))
        assert executable.restore(path).extra == {"place": path.name.rpartition(" ")[0]}
        assert_same_bits(variables_of(executable), values)
        assert (executable.store.seed, executable.step) == (11, 42)


def test_tensorflow_reads_whole_tensors(saved):
    directory, values = saved
    carriers = {"half": np.int16, "bits": np.int32}
    for path in directory.iterdir():
        reader = tf.train.load_checkpoint(str(path))
        assert sorted(reader.get_variable_to_shape_map()) == sorted(values)
        found = {name: reader.get_tensor(name) for name in values}
        for name, carrier in carriers.items():
            assert found[name].dtype == carrier
            found[name] = found[name].view(values[name].dtype)
        found["scale"] = np.asarray(found["scale"])
        assert_same_bits(found, values)


def test_each_block_is_written_once_and_the_work_is_spread(saved):
    directory, values = saved
    bytes_of_values = sum(array.nbytes for array in values.values())
    for path in directory.iterdir():
        data = [file.stat().st_size for file in path.glob("bundle.data-*")]
        assert sum(data) == bytes_of_values
    whole_on_eight = directory / "params and slots spmd"
    assert len(list(whole_on_eight.glob("bundle.data-*"))) == 8
    assert len(list((directory / "one spmd").glob("bundle.data-*"))) == 1


def test_the_manifest(saved):
    directory, values = saved
    path = directory / "params and slots spmd"
    found = manifest.read(path)
    assert json.loads((path / "manifest.json").read_text())["format"] == 1
    assert (found.mesh, found.layout) == ("r:2 c:4", "")
    assert (found.params, found.slots) == ("d_io?:r", "d_h?:c")
    assert (found.step, found.seed, found.meshlang) == (42, 11, ml.__version__)
    assert found.tensors.keys() == values.keys()
    assert str(found.tensors["layers/w"]) == "[depth:4 d_io:8] bfloat16"
    inside = {"COMMITTED", "manifest.json", *found.files}
    assert {file.name for file in path.iterdir()} == inside
    assert {"bundle.index", "checkpoint"} <= inside


def test_blocks_are_read_by_slices_and_never_whole(saved, monkeypatch: pytest.MonkeyPatch):
    directory, _ = saved
    executable = lowered(many_dtypes, "both")
    sizes = {}
    read = tf.raw_ops.RestoreV2

    def watched(**arguments):
        blocks = read(**arguments)
        sizes[arguments["tensor_names"][0]] = [int(tf.size(block)) for block in blocks]
        return blocks

    monkeypatch.setattr(tf.raw_ops, "RestoreV2", watched)
    executable.restore(directory / "rows spmd")
    assert sizes["w"] == [2 * 8] * 8
    assert sizes["exact"] == [8, 8]
    assert sizes["scale"] == [1]


# -- training goes on ---------------------------------------------------------------------------


def train_step(x):
    w = ml.variable("w", "d_io:8 d_h:16", init=ml.normal_init(0.3))
    speed = ml.variable("speed", "d_io:8 d_h:16", init=0.0, trainable=False)
    y = ml.dropout(ml.einsum(x, w, reduce="d_io"), 0.5)
    loss = ml.mean(y * y)
    (gradient,) = ml.gradients(loss, ml.trainable_variables())
    rate = 0.1 / (ml.step("float32") + 1.0)
    (variable,) = ml.trainable_variables()
    ml.assign(variable, variable - rate * gradient)
    ml.assign(speed, speed + 1.0)
    return {"loss": loss}


def steps(executable: ml.Executable, first: int, last: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(8, 8)).astype(np.float32) for _ in range(10)]
    return [executable(x=x)["loss"].numpy().tobytes() for x in batches[first:last]]


@pytest.mark.parametrize("place", ["one", "both", "params"])
def test_ten_steps_are_four_and_six(tmp_path: Path, place: str):
    make = lambda: lowered(train_step, place, x=ml.spec("batch:8 d_io:8"))  # noqa: E731
    straight = make()
    straight.initialize(5)
    losses = steps(straight, 0, 10)
    before, after = make(), make()
    before.initialize(5)
    assert steps(before, 0, 4) == losses[:4]
    before.save(tmp_path / "step_4")
    after.restore(tmp_path / "step_4")
    assert after.step == 4
    assert steps(after, 4, 10) == losses[4:]
    assert_same_bits(variables_of(after), variables_of(straight))


def test_a_checkpoint_goes_from_a_mesh_to_another_and_trains_on(tmp_path: Path):
    spec = ml.spec("batch:8 d_io:8")
    first, second = lowered(train_step, "rows", x=spec), lowered(train_step, "params", x=spec)
    first.initialize(5)
    steps(first, 0, 4)
    first.save(tmp_path / "step_4")
    second.restore(tmp_path / "step_4")
    again = [np.frombuffer(loss, np.float32) for loss in steps(second, 4, 10)]
    here = [np.frombuffer(loss, np.float32) for loss in steps(first, 4, 10)]
    np.testing.assert_allclose(again, here, rtol=1e-5)


# -- what can be wrong --------------------------------------------------------------------------


def small(**sizes: str) -> Callable:
    def fn():
        for name, dims in sizes.items():
            ml.variable(name, dims, init=1.0)
        return {"one": ml.ones("", "float32")}

    return fn


def checkpoint_of(fn: Callable, path: Path) -> ml.Executable:
    executable = lowered(fn, "both")
    executable.initialize(3)
    executable.save(path)
    return executable


def text_of(fn: Callable, *arguments) -> str:
    with pytest.raises(ml.CheckpointError) as error:
        fn(*arguments)
    return str(error.value)


def test_all_differences_of_another_model_are_listed(tmp_path: Path):
    path = tmp_path / "step_1"
    checkpoint_of(small(a="d_io:8 d_h:8", b="d_h:16", old="d_io:8", same="d_io:8"), path)

    def other():
        small(a="d_h:8 d_io:8", same="d_io:8", new="d_h:16", newer="d_io:8 d_h:16")()
        ml.variable("b", "d_h:16", init=0, dtype="int32")
        return {}

    executable = lowered(other, "rows")
    executable.initialize(0)
    before = variables_of(executable)
    assert text_of(executable.restore, path) == (
        "the checkpoint is of another model: 5 tensors do not fit.\n"
        f"  path        {path}\n"
        "  missing     new [d_h:16] float32\n"
        "  missing     newer [d_io:8 d_h:16] float32\n"
        "  unexpected  old [d_io:8] float32\n"
        "  differing   a [d_io:8 d_h:8] float32 in the checkpoint, "
        "[d_h:8 d_io:8] float32 in the program\n"
        "  differing   b [d_h:16] float32 in the checkpoint, [d_h:16] int32 in the program\n"
        "  fix: restore into the program that wrote it, or start anew in another directory"
    )
    assert_same_bits(variables_of(executable), before)


def test_dims_may_have_new_names(tmp_path: Path):
    checkpoint_of(small(a="d_io:8 d_h:16"), tmp_path / "step_1")
    executable = lowered(small(a="d_io:8 d_ff:16"), "both")
    executable.restore(tmp_path / "step_1")
    assert executable["a"].sum() == 8 * 16


def test_no_checkpoint(tmp_path: Path):
    executable = lowered(small(a="d_io:8"), "one")
    (tmp_path / "file").write_text("")
    assert text_of(executable.restore, tmp_path / "step_1") == (
        f"there is no checkpoint.\n  path   {tmp_path}/step_1\n  found  nothing there"
    )
    assert text_of(executable.restore, tmp_path / "file") == (
        f"there is no checkpoint.\n  path   {tmp_path}/file\n  found  a file, not a directory"
    )


def test_a_checkpoint_that_was_never_completed(tmp_path: Path):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8"), path)
    (path / "COMMITTED").unlink()
    assert text_of(executable.restore, path) == (
        "the checkpoint was never completed.\n"
        f"  path       {path}\n"
        "  COMMITTED  missing\n"
        "  fix: restore an older checkpoint"
    )


def test_truncated_and_missing_files_are_found_before_tensorflow_opens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8", b="d_h:16"), path)
    first, *_ = data = sorted(path.glob("bundle.data-*"))
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[:-1])
    (path / "bundle.index").unlink()
    monkeypatch.delattr(tf.raw_ops, "RestoreV2")
    width = len(data[0].name)
    assert text_of(executable.restore, path) == (
        "the checkpoint is damaged.\n"
        f"  {'path':<{width}}  {path}\n"
        f"  {first.name}  {size - 1} bytes, {size} in the manifest\n"
        f"  {'bundle.index':<{width}}  missing\n"
        "  fix: restore an older checkpoint"
    )
    assert executable["a"].sum() == 8


def test_a_changed_byte_is_found_and_its_file_named(tmp_path: Path):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8", b="d_io:8 d_h:16"), path)
    data = max(path.glob("bundle.data-*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert text_of(executable.restore, path) == (
        "the checkpoint is damaged.\n"
        f"  {'path':<{len(data.name)}}  {path}\n"
        f"  {data.name}  its contents have changed: the sha256 differs\n"
        "  fix: restore an older checkpoint"
    )
    with pytest.raises(ml.VariableError, match="variable 'a' has no value yet"):
        executable()


def test_a_changed_manifest(tmp_path: Path):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8"), path)
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"step": 0', '"step": 1'))
    assert text_of(executable.restore, path) == (
        "the checkpoint is damaged.\n"
        f"  path           {path}\n"
        "  manifest.json  unreadable: it has changed since it was committed\n"
        "  fix: restore an older checkpoint"
    )
    (path / "manifest.json").unlink()
    assert text_of(executable.restore, path) == (
        "the checkpoint is damaged.\n"
        f"  path           {path}\n"
        "  manifest.json  missing\n"
        "  fix: restore an older checkpoint"
    )


def test_a_checkpoint_of_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "step_1"
    executable = lowered(small(a="d_io:8"), "one")
    executable.initialize(0)
    with monkeypatch.context() as patched:
        patched.setattr(ml, "__version__", "7.1.0")
        found = executable.save(tmp_path / "today")
    newer = {"format": 3, "meshlang": found.meshlang, "shards": "of a kind not known yet"}
    commit_text(tmp_path / "today", path, json.dumps(newer))
    assert text_of(executable.restore, path) == (
        "the checkpoint was written by a newer version of meshlang (3 > 1).\n"
        f"  path      {path}\n"
        "  meshlang  7.1.0\n"
        "  fix: install that version, or a later one"
    )


def commit_text(checkpoint: Path, path: Path, text: str) -> None:
    """Make a checkpoint of one with another manifest."""
    checkpoint.rename(path)
    (path / "manifest.json").write_text(text)
    (path / "COMMITTED").write_text(hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/file"])
def test_a_manifest_names_files_of_its_own_directory_only(tmp_path: Path, name: str):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8"), tmp_path / "good")
    data = json.loads((tmp_path / "good" / "manifest.json").read_text())
    data["files"][name] = {"bytes": 1, "sha256": ""}
    commit_text(tmp_path / "good", path, json.dumps(data))
    assert text_of(executable.restore, path) == (
        "the checkpoint is damaged.\n"
        f"  path           {path}\n"
        f"  manifest.json  unreadable: {name!r} is not the name of a file\n"
        "  fix: restore an older checkpoint"
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"format": 1}', '{"format": 1, "tensors": 3}', "\x00"]
)
def test_a_manifest_of_anything(tmp_path: Path, text: str):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8"), tmp_path / "good")
    commit_text(tmp_path / "good", path, text)
    assert text_of(executable.restore, path).startswith(
        f"the checkpoint is damaged.\n  path           {path}\n  manifest.json  unreadable: "
    )


# -- saving -------------------------------------------------------------------------------------


def test_what_was_there_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "step_1"
    executable = checkpoint_of(small(a="d_io:8"), path)
    assert caplog.messages == []
    executable.set("a", np.full(8, 2.0))
    executable.save(path)
    (stale,) = tmp_path.glob("step_1.stale-*")
    assert caplog.messages == [f"{path} was there before; it is now {stale.name}"]
    executable.restore(stale)
    assert executable["a"].sum() == 8
    executable.restore(path)
    assert executable["a"].sum() == 16


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path):
    executable = lowered(small(a="d_io:8"), "one")
    executable.initialize(0)
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "step_1"
    temporary = r"[0-9a-f]{32}"
    with pytest.raises(ml.CheckpointError) as error:
        executable.save(path)
    assert re.sub(temporary, "UUID", str(error.value)) == (
        "the checkpoint could not be written.\n"
        f"  path    {path}\n"
        f"  reason  [Errno 20] Not a directory: '{path}.tmp-UUID'"
    )


def test_tensorflow_fails_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    executable = lowered(small(a="d_io:8"), "one")
    executable.initialize(0)

    def full(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device\nstack")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    assert text_of(executable.save, tmp_path / "step_1") == (
        "the checkpoint could not be written.\n"
        f"  path    {tmp_path}/step_1\n"
        "  reason  No space left on device"
    )
    assert list(tmp_path.iterdir()) == []


def test_variables_without_values_are_not_saved(tmp_path: Path):
    executable = lowered(small(a="d_io:8"), "one")
    with pytest.raises(ml.VariableError) as error:
        executable.save(tmp_path / "step_1")
    assert str(error.value) == ("variable 'a' has no value yet.\n  fix: call initialize(seed=0)")
    assert list(tmp_path.iterdir()) == []


def test_extra_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path):
    executable = lowered(small(a="d_io:8"), "one")
    executable.initialize(0)
    for extra in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            executable.save(tmp_path / "step_1", extra)
    assert list(tmp_path.iterdir()) == []


def test_more_dims_than_the_format_holds(tmp_path: Path):
    nine = " ".join(f"d{i}:1" for i in range(9))
    executable = lowered(small(a="d_io:8", nine=nine), "one")
    executable.initialize(0)
    assert text_of(executable.save, tmp_path / "step_1") == (
        "a checkpoint holds variables of at most 8 dims.\n"
        "  nine  [d0:1 d1:1 d2:1 d3:1 d4:1 d5:1 d6:1 d7:1 d8:1] float32\n"
        "  fix: merge dims of these variables"
    )


def test_a_program_without_variables(tmp_path: Path):
    executable = lowered(lambda x: {"sum": ml.sum(x)}, "one", x=ml.spec("b:2"))
    executable.save(tmp_path / "step_0", {"note": [1, "two"]})
    assert executable.restore(tmp_path / "step_0").extra == {"note": [1, "two"]}
