"""What processes make sure of before the first step, without processes."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import meshlang as ml
from launch.agreement import agree, batch_of, check_shared, chief_first
from launch.data.batches import BatchSource
from launch.data.errors import DataError
from meshlang.errors import ClusterError
from meshlang.layout.mesh import Mesh
from meshlang.layout.plan import Plan
from meshlang.lowering.blocks import box
from meshlang.lowering.peers import Alone


@dataclass
class Two(Alone):
    """Two processes, of which the other one answers as it is told."""

    index: int = 0
    count: int = 2
    theirs: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        found = [text, self.theirs.get(name, text)]
        return found if self.index == 0 else found[::-1]

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        self.told.append(text)
        return text if self.index == 0 else self.theirs[name]


def test_the_first_line_that_differs_is_shown():
    mine = {"versions": "python 3.11", "configuration": "a = 1\nb = 2\nc = 3"}
    agree(Two(), mine, 1.0)
    agree(Alone(), mine, 1.0)
    theirs = {"agreement/configuration": "a = 1\nb = 4"}
    with pytest.raises(ClusterError) as error:
        digests = json.dumps({"versions": "", "configuration": ""})
        agree(Two(theirs=theirs | {"agreement": digests}), {"configuration": "a = 1\nb = 2"}, 1.0)
    assert str(error.value) == (
        "the processes differ in their configuration.\n"
        "  line       2\n"
        "  process 0  b = 2\n"
        "  process 1  b = 4\n"
        "  fix: start all processes with the same command line, files and versions"
    )


def test_a_directory_that_the_chief_does_not_see(tmp_path: Path):
    (tmp_path / "there").write_text("")
    check_shared(Two(theirs={"directory": '["there", ""]'}), tmp_path, 1.0)
    with pytest.raises(ClusterError) as error:
        check_shared(Two(theirs={"directory": '["elsewhere", ""]'}), tmp_path, 1.0)
    assert str(error.value) == (
        "the processes do not share their directory.\n"
        f"  directory  {tmp_path}\n"
        "  process 1  the chief does not see what it wrote there\n"
        "  fix: put --model_dir on a file system that all processes share"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_the_chief_cannot_do_the_others_do_not_try():
    def fail() -> None:
        raise DataError("no text.")

    chief = Two()
    with pytest.raises(DataError):
        chief_first(chief, "data", fail, 1.0)
    assert chief.told == ["DataError: no text."]
    with pytest.raises(ClusterError) as error:
        chief_first(Two(index=1, theirs={"data": "DataError: no text."}), "data", fail, 1.0)
    assert str(error.value) == (
        "process 0 could not prepare the data.\n  reason  DataError: no text."
    )
    assert chief_first(Two(index=1, theirs={"data": ""}), "data", lambda: 3, 1.0) == 3


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_examples_of_a_step_do_not_depend_on_the_number_of_processes(processes: int):
    program = ml.trace(
        lambda tokens, targets: ml.sum(tokens + targets),
        tokens=ml.spec("batch:8 length:5", "int32"),
        targets=ml.spec("batch:8 length:5", "int32"),
    )
    plan = ml.plan(program, "data:4 model:2", "batch:data")
    source = BatchSource({"a": bytes(range(100))}, batch=8, length=5, seed=3)
    share = 8 // processes
    for step in (0, 1, 7):
        whole = source.at(step)
        for process in range(processes):
            mine = range(process * share, process * share + share)
            found = batch_of(source, Part(plan, mine), step)  # type: ignore[arg-type]
            assert set(found) == {"tokens", "targets"}
            for name, array in found.items():
                needed = box(plan.inputs[name], plan.mesh, mine)
                assert array.shape == (8, 5)
                assert needed[0].stop - needed[0].start == max(2, 8 // processes)
                np.testing.assert_array_equal(array[needed], whole[name][needed])


@dataclass
class Part:
    """What one process of several has of an executable."""

    plan: Plan
    processors: range

    def needed(self, name: str) -> tuple[slice, ...]:
        return box(self.plan.inputs[name], Mesh.parse(self.plan.mesh), self.processors)


def test_each_process_traces_the_same_program():
    def step(x):
        for i in range(20):
            x = ml.tanh(x * ml.variable(f"w{i}", "d:4", init=1.0))
        weights = ml.trainable_variables()
        return ml.gradients(ml.sum(x), weights)

    programs = [ml.trace(step, x=ml.spec("d:4")) for _ in range(5)]  # all alive: no address twice
    assert len({str(program) for program in programs}) == 1
