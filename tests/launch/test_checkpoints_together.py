"""What two processes restore: the same step, though only one of them met the damage."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import meshlang as ml
from launch.checkpoints import Checkpoints
from meshlang.lowering import slices
from meshlang.lowering.peers import Alone


class Talk:
    """What two threads have said, and where they wait for each other."""

    def __init__(self) -> None:
        self.said = ["", ""]
        self.met = threading.Barrier(2, timeout=20)


class Thread(Alone):
    """One of two threads that stand for processes."""

    count = 2

    def __init__(self, index: int, talk: Talk) -> None:
        super().__init__()
        self.index, self._talk = index, talk

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        """See `Peers.gather`."""
        self._talk.said[self.index] = f"{name}\n{text}"
        self._talk.met.wait()
        heard = list(self._talk.said)
        self._talk.met.wait()
        names, texts = zip(*[said.split("\n", 1) for said in heard], strict=True)
        assert set(names) == {name}
        return list(texts)

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        """See `Peers.broadcast`."""
        return self.gather(name, text, seconds)[0]


def lowered(peers: Alone) -> ml.Executable:
    def fn():
        return {"w": ml.variable("w", "d:4", init=ml.zeros_init)}

    executable = ml.lower(ml.plan(ml.trace(fn)), backend="simulated")
    executable.store.machine.peers = peers
    executable.initialize(0)
    return executable


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three checkpoints, of the numbers of their steps."""
    executable = lowered(Alone())
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        executable.set("w", np.full(4, step, np.float32))
        executable.store.step = step
        checkpoints.save(executable, step)
    return tmp_path


@pytest.mark.timeout(60)
@pytest.mark.parametrize("blind", [0, 1])
def test_damage_that_one_meets_sends_both_one_step_back(
    directory: Path, blind: int, monkeypatch: pytest.MonkeyPatch
):
    talk = Talk()
    peers = [Thread(i, talk) for i in range(2)]
    executables = [lowered(each) for each in peers]
    real = slices.read_parts

    def read(store, path, *rest):
        if store is executables[blind].store and path.name == "step_00000003":
            raise tf.errors.DataLossError(None, None, "a block does not fit its checksum")
        return real(store, path, *rest)

    monkeypatch.setattr(slices, "read_parts", read)
    with ThreadPoolExecutor(2) as pool:
        checkpoints = [Checkpoints(directory, peers=each) for each in peers]
        calls = [
            pool.submit(c.restore_latest, e) for c, e in zip(checkpoints, executables, strict=True)
        ]
        found = [call.result(30) for call in calls]
    assert [manifest.step if manifest else None for manifest in found] == [2, 2]
    assert [executable["w"].tolist() for executable in executables] == [[2.0] * 4] * 2
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["step_00000002", "step_00000003.corrupt-1"]


@pytest.mark.timeout(60)
def test_a_checkpoint_of_another_model_is_refused_by_both(directory: Path):
    def other():
        return {"v": ml.variable("v", "d:4", init=ml.zeros_init)}

    talk = Talk()
    peers = [Thread(i, talk) for i in range(2)]
    executables = [lowered(peers[0]), ml.lower(ml.plan(ml.trace(other)), backend="simulated")]
    executables[1].store.machine.peers = peers[1]
    with ThreadPoolExecutor(2) as pool:
        checkpoints = [Checkpoints(directory, peers=each) for each in peers]
        calls = [
            pool.submit(c.restore_latest, e) for c, e in zip(checkpoints, executables, strict=True)
        ]
        told = [str(call.exception(30)) for call in calls]
    assert told[0] == told[1]
    assert "unexpected  w [d:4] float32\n" in told[0]
    assert (directory / "step_00000003").is_dir()
