"""Which checkpoints stay, and which one a run goes on from. No device is needed for that."""

import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import meshlang as ml
from launch.checkpoints import Checkpoints, Retention
from launch.errors import ConfigError
from meshlang import manifest
from meshlang.manifest import Entry, Manifest, NewerFormatError


@dataclass
class OneNumber:
    """Saves and restores like an executable; its only variable is a number in a file."""

    number: int = 0
    fails: bool = False

    def begin_save(self, path, extra=None) -> "Written":
        return Written(Path(path), self.number, self.fails, extra or {})

    def restore(self, path) -> Manifest:
        found = manifest.read(path)
        self.number = int((Path(path) / "bundle.data").read_text())
        return found


@dataclass
class Written:
    """What `OneNumber.begin_save` returns."""

    path: Path
    number: int
    fails: bool
    extra: dict

    def write(self) -> Manifest:
        written = Path(f"{self.path}.tmp-{'0' * 32}")
        written.mkdir(parents=True)
        (written / "bundle.data").write_text(f"{self.number:04d}")
        if self.fails:
            raise ml.CheckpointError("the disk is full")
        found = Manifest(
            meshlang=ml.__version__,
            **dict.fromkeys(("mesh", "layout", "params", "slots"), ""),
            step=self.number,
            seed=0,
            tensors={"number": Entry((), (), "int32")},
            files=manifest.describe(written),
            extra=self.extra,
        )
        manifest.commit(found, written, self.path)
        return found


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def filled(directory: Path, *steps: int, keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(directory, Retention(last=keep))
    for step in steps:
        checkpoints.save(OneNumber(step), step, {"corpus": f"text {step}"})
    return checkpoints


def test_the_newest_is_restored(tmp_path: Path):
    checkpoints = filled(tmp_path / "run", 5, 100, 20)
    assert names(tmp_path / "run") == ["step_00000005", "step_00000020", "step_00000100"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.extra == {"corpus": "text 100"}
    executable = OneNumber()
    found = checkpoints.restore_latest(executable)
    assert (found, executable.number) == (latest, 100)


def test_steps_are_numbers_and_not_words(tmp_path: Path):
    checkpoints = filled(tmp_path, 99_999_999, 100_000_000)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 100_000_000


def test_nothing_to_restore(tmp_path: Path):
    executable = OneNumber(3)
    for directory in (tmp_path, tmp_path / "not there"):
        assert Checkpoints(directory).latest() is None
        assert Checkpoints(directory).restore_latest(executable) is None
    assert executable.number == 3


def test_only_so_many_stay(tmp_path: Path):
    checkpoints = filled(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step_00000003", "step_00000004"]
    assert [path.name for path in checkpoints.complete()] == names(tmp_path)


def test_damaged_ones_are_not_counted_among_those_that_stay(tmp_path: Path):
    checkpoints = filled(tmp_path, 1, 2, 3, 4)
    for step in (3, 4):
        (tmp_path / f"step_0000000{step}" / "bundle.data").write_text("")
    checkpoints.retention = Retention(last=2)
    checkpoints.save(OneNumber(5), 5)
    assert [path.name for path in checkpoints.complete()] == ["step_00000002", "step_00000005"]
    assert "step_00000004" in names(tmp_path)


def test_the_one_just_written_stays_though_others_have_later_names(tmp_path: Path):
    checkpoints = filled(tmp_path, 10, 20)
    checkpoints.retention = Retention(last=2)
    checkpoints.save(OneNumber(5), 5)
    assert names(tmp_path) == ["step_00000005", "step_00000010", "step_00000020"]


def test_every_no_steps():
    with pytest.raises(ConfigError, match=r"every 0 steps cannot be\.\n  fix: at least 1"):
        Retention(every=0)


@pytest.mark.parametrize("keep", [1, 0, -1])
def test_too_few_to_keep(keep: int):
    with pytest.raises(ConfigError) as error:
        Retention(last=keep)
    assert str(error.value) == (
        f"{keep} checkpoints are too few to keep: the newest may be the damaged one.\n"
        "  fix: keep at least 2"
    )


def test_every_so_many_and_the_best_stay_too(tmp_path: Path):
    retention = Retention(last=2, every=10, best="bits")
    checkpoints = Checkpoints(tmp_path, retention)
    bits = {5: 3.0, 10: 2.5, 15: 1.5, 20: 2.0, 25: 1.8, 30: 1.9, 35: 1.5}
    for step, found in bits.items():
        checkpoints.save(OneNumber(step), step, {"metrics": {"bits": found}})
    # Of equally good ones the later stays.
    assert names(tmp_path) == [f"step_000000{step}" for step in (10, 20, 30, 35)]
    checkpoints.save(OneNumber(45), 45)
    checkpoints.save(OneNumber(55), 55)
    assert names(tmp_path) == [f"step_000000{step}" for step in (10, 20, 30, 35, 45, 55)]


def test_the_best_may_be_the_largest(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, Retention(best="accuracy", largest=True))
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.1), (4, 0.2), (5, 0.3)):
        checkpoints.save(OneNumber(step), step, {"metrics": {"accuracy": accuracy}})
    assert names(tmp_path) == ["step_00000002", "step_00000004", "step_00000005"]


def test_the_last_good_one_stays_when_newer_ones_are_damaged(tmp_path: Path):
    checkpoints = filled(tmp_path, 1, 2, 3, 4)
    for step in (2, 3, 4):
        (tmp_path / f"step_0000000{step}" / "bundle.data").write_text("")
    checkpoints.retention = Retention(last=2)
    executable = OneNumber()
    found = checkpoints.restore_latest(executable)
    assert found is not None
    assert (found.step, executable.number) == (1, 1)
    corrupt = [f"step_0000000{step}.corrupt-1" for step in (2, 3, 4)]
    assert names(tmp_path) == ["step_00000001", *corrupt]
    checkpoints.save(OneNumber(2), 2)
    assert names(tmp_path) == sorted(["step_00000001", "step_00000002", *corrupt])


def test_one_number_of_corruption_after_the_other(tmp_path: Path):
    for turn in (1, 2):
        checkpoints = filled(tmp_path, 7)
        (tmp_path / "step_00000007" / "bundle.data").write_text("")
        assert checkpoints.restore_latest(OneNumber()) is None
        assert names(tmp_path) == [f"step_00000007.corrupt-{n}" for n in range(1, turn + 1)]


# -- written beside the steps -------------------------------------------------------------------


class Slow(OneNumber):
    """Writes when it is told to."""

    def __init__(self, number: int, fails: bool = False) -> None:
        super().__init__(number, fails)
        self.go = threading.Event()

    def begin_save(self, path, extra=None) -> "Written":
        written, go = super().begin_save(path, extra), self.go

        class Waiting:
            def write(self) -> Manifest:
                assert go.wait(10)
                return written.write()

        return Waiting()  # pyright: ignore[reportReturnType]


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path: Path):
    with Checkpoints(tmp_path) as checkpoints:
        slow = Slow(1)
        assert checkpoints.begin(slow, 1) is None
        assert checkpoints.poll() is None
        assert checkpoints.complete() == []
        slow.number = 99  # what was begun is of the time when it was begun
        slow.go.set()
        saved = checkpoints.finish()
        assert saved is not None
        assert (saved.step, saved.path, saved.bytes) == (1, tmp_path / "step_00000001", 4)
        assert saved.stall <= saved.seconds
        assert checkpoints.finish() is None
    executable = OneNumber()
    assert checkpoints.restore_latest(executable) is not None
    assert executable.number == 1


def test_the_next_one_waits_for_the_one_before(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    first = Slow(1)
    checkpoints.begin(first, 1)
    threading.Timer(0.2, first.go.set).start()
    before = checkpoints.begin(OneNumber(2), 2)
    assert before is not None
    assert before.step == 1
    assert checkpoints.finish() is not None
    assert names(tmp_path) == ["step_00000001", "step_00000002"]


def test_a_failure_is_told_at_the_next_call(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    checkpoints = Checkpoints(tmp_path)
    for tell in (checkpoints.finish, lambda: checkpoints.begin(OneNumber(3), 3)):
        checkpoints.begin(OneNumber(1, fails=True), 1)
        with pytest.raises(ml.CheckpointError, match="the disk is full"):
            tell()
        assert checkpoints.finish() is None
    with pytest.raises(ZeroDivisionError), checkpoints:
        checkpoints.begin(OneNumber(1, fails=True), 1)
        raise ZeroDivisionError
    assert caplog.messages == ["the disk is full"]


def test_what_is_not_complete_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    checkpoints = filled(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "step_00000005" / "COMMITTED").unlink()
    (tmp_path / "step_00000004" / "bundle.data").write_text("123")
    (tmp_path / "step_00000003" / "manifest.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 2
    assert caplog.messages == [
        f"{name} is passed over: {what}\n"
        f"  {'path':<{len(label)}}  {tmp_path / name}\n"
        f"  {label}  {problem}\n"
        "  fix: restore an older checkpoint"
        for name, what, label, problem in [
            ("step_00000005", "the checkpoint was never completed.", "COMMITTED", "missing"),
            (
                "step_00000004",
                "the checkpoint is damaged.",
                "bundle.data",
                "3 bytes, 4 in the manifest",
            ),
            (
                "step_00000003",
                "the checkpoint is damaged.",
                "manifest.json",
                "unreadable: it has changed since it was committed",
            ),
        ]
    ]


def test_names_that_are_no_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    checkpoints = filled(tmp_path, 1)
    good = tmp_path / "step_00000001"
    for name in ("step_2.tmp-ab", "step_3.stale-ab", "step_4x", "step_", "xstep_5", "step_-6"):
        copied(good, tmp_path / name)
    latest = checkpoints.latest()
    assert latest is not None
    assert [path.name for path in checkpoints.complete()] == ["step_00000001"]
    assert caplog.messages == []


def copied(checkpoint: Path, path: Path) -> None:
    path.mkdir()
    for file in checkpoint.iterdir():
        (path / file.name).write_bytes(file.read_bytes())


def test_a_newer_version_s_checkpoint_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    checkpoints = filled(tmp_path, 1, 2)
    monkeypatch.setattr(manifest, "FORMAT", 0)
    with pytest.raises(NewerFormatError) as error:
        checkpoints.latest()
    assert str(error.value) == (
        "the checkpoint was written by a newer version of meshlang (1 > 0).\n"
        f"  path      {tmp_path}/step_00000002\n"
        f"  meshlang  {ml.__version__}\n"
        "  fix: install that version, or a later one"
    )


def test_what_was_cut_short_is_removed_at_the_next_save(tmp_path: Path):
    checkpoints = filled(tmp_path, 1)
    stray = ["step_00000002.tmp-0a1b", "step_00000001.deleting-ff"]
    others = ["step_00000001.stale-0a", "notes", "notes.tmp-0a1b", "step_2.tmp-xyz"]
    for name in (*stray, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    assert checkpoints.latest() is not None
    assert set(stray) <= set(names(tmp_path))
    checkpoints.save(OneNumber(2), 2)
    assert names(tmp_path) == sorted([*others, "step_00000001", "step_00000002"])


def test_a_save_that_fails_removes_nothing(tmp_path: Path):
    checkpoints = filled(tmp_path, 1, 2, keep=2)
    with pytest.raises(ml.CheckpointError, match="the disk is full"):
        checkpoints.save(OneNumber(3, fails=True), 3)
    assert [path.name for path in checkpoints.complete()] == ["step_00000001", "step_00000002"]
    checkpoints.save(OneNumber(3), 3)
    assert names(tmp_path) == ["step_00000002", "step_00000003"]


def test_a_victim_is_renamed_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = filled(tmp_path, 1, 2, keep=2)
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
    checkpoints.save(OneNumber(3), 3)
    victim, *rest = names(tmp_path)
    assert victim.startswith("step_00000001.deleting-")
    assert rest == ["step_00000002", "step_00000003"]


def test_an_executable_goes_on(tmp_path: Path):
    def step(x):
        w = ml.variable("w", "d:8", init=1.0)
        (variable,) = ml.trainable_variables()
        ml.assign(variable, variable + ml.sum(x))
        return {"sum": ml.sum(w)}

    program = ml.trace(step, x=ml.spec("batch:2"))
    checkpoints = Checkpoints(tmp_path)
    first = ml.lower(ml.plan(program, "r:2", "batch:r"))
    first.initialize(0)
    for count in (1, 2, 3):
        first(x=[1.0, 2.0])
        checkpoints.save(first, count, {"corpus": "a digest"})
    assert names(tmp_path) == ["step_00000002", "step_00000003"]
    second = ml.lower(ml.plan(program, "r:4", "d:r"), backend="simulated")
    found = checkpoints.restore_latest(second)
    assert found is not None
    assert (found.step, found.extra, found.mesh) == (3, {"corpus": "a digest"}, "r:2")
    assert second.step == 3
    assert second["w"].tolist() == [10.0] * 8


def test_listing_checkpoints_wakes_no_tensorflow(tmp_path: Path):
    filled(tmp_path, 7)
    source = (
        "import sys; from launch.checkpoints import Checkpoints;"
        f"print(Checkpoints({str(tmp_path)!r}).latest().step, 'tensorflow' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", source], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout == "7 False\n"
