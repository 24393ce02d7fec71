"""The prepared help topics: equal to the text, made once, refused when they are another's."""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import logging

from launch.data import pydoc_topics
from launch.data.errors import DataError
from launch.data.pydoc_topics import PydocTopics, config_name, load_topics
from launch.data.topics import Corpus, pydoc_corpus

OTHER = Corpus({"assert": b"Another text."}, {"class": b"And \xff another."})


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    load_topics(tmp_path)
    return tmp_path


def prepare_other(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Prepare a directory as a Python with another text would."""
    with monkeypatch.context() as patched:
        patched.setattr(pydoc_topics, "pydoc_corpus", lambda: OTHER)
        assert load_topics(data_dir) == OTHER


def records(data_dir: Path) -> Path:
    return data_dir / "pydoc_topics" / config_name(pydoc_corpus()) / "1.0.0"


def files(data_dir: Path) -> dict[str, int]:
    return {
        str(path.relative_to(data_dir)): path.stat().st_mtime_ns
        for path in data_dir.rglob("*")
        if path.is_file()
    }


def message_of(data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_topics(data_dir)
    return str(caught.value)


def test_what_is_loaded_is_the_text_prepared_once(tmp_path):
    data_dir = tmp_path / "a" / "b"
    corpus = load_topics(data_dir)
    assert corpus == pydoc_corpus()
    first = files(data_dir)
    assert {Path(name).parts[:2] for name in first} == {("pydoc_topics", config_name(corpus))}
    assert load_topics(str(data_dir)) == corpus
    assert files(data_dir) == first


def test_the_builder_is_one_that_tfds_knows(prepared):
    builder = PydocTopics(data_dir=prepared)
    assert builder.info.full_name == f"pydoc_topics/{config_name(pydoc_corpus())}/1.0.0"
    assert builder.info.splits["train"].num_examples == len(pydoc_corpus().train)
    assert builder.info.splits["heldout"].num_examples == len(pydoc_corpus().heldout)


def test_nothing_is_said_and_no_connection_made(tmp_path, capfd, monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    verbosity = logging.get_verbosity()
    load_topics(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == verbosity


def test_tensorflow_stays_asleep(tmp_path):
    program = (
        "import sys; from launch.data.pydoc_topics import load_topics\n"
        "load_topics(sys.argv[1]); load_topics(sys.argv[1])\n"
        "sys.exit('tensorflow' in sys.modules)\n"
    )
    root = Path(pydoc_topics.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=True)


def test_the_text_of_another_python_is_refused(tmp_path, monkeypatch):
    prepare_other(monkeypatch, tmp_path)
    before = files(tmp_path)
    assert message_of(tmp_path) == (
        "the prepared data is the text of another Python version.\n"
        f"  directory    {tmp_path}/pydoc_topics\n"
        f"  prepared     {config_name(OTHER)}\n"
        f"  this Python  {config_name(pydoc_corpus())} ({platform.python_version()})\n"
        "  fix: run the Python that prepared it, choose another data_dir, or delete the\n"
        "       directory to start anew"
    )
    assert files(tmp_path) == before


def test_texts_of_several_pythons_may_lie_side_by_side(tmp_path, prepared, monkeypatch):
    prepare_other(monkeypatch, tmp_path / "other")
    shutil.copytree(
        tmp_path / "other" / "pydoc_topics", prepared / "pydoc_topics", dirs_exist_ok=True
    )
    assert load_topics(prepared) == pydoc_corpus()


def test_a_text_under_the_name_of_another_is_refused(tmp_path, monkeypatch):
    prepare_other(monkeypatch, tmp_path)
    shutil.copytree(records(tmp_path).parents[1] / config_name(OTHER), records(tmp_path).parent)
    assert message_of(tmp_path) == (
        "the prepared data is damaged.\n"
        f"  directory  {records(tmp_path).parent}\n"
        "  reason     its text is not the one that its name says\n"
        "  fix: delete the directory; the next run prepares it anew"
    )


def cut_records(where: Path) -> str:
    path = where / "pydoc_topics-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[:1000])
    return "ArrayRecord file should be at least 64KB big"


def cut_info(where: Path) -> str:
    (where / "dataset_info.json").write_text("{")
    return (
        "Failed to load JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)."
    )


def lose_info(where: Path) -> str:
    (where / "dataset_info.json").unlink()
    return "dataset_info.json tells of no splits"


@pytest.mark.parametrize("damage", [cut_records, cut_info, lose_info])
def test_damaged_data_is_refused(prepared, damage):
    reason = damage(records(prepared))
    assert message_of(prepared) == (
        "the prepared data is damaged.\n"
        f"  directory  {records(prepared).parent}\n"
        f"  reason     {reason}\n"
        "  fix: delete the directory; the next run prepares it anew"
    )


def test_a_data_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert message_of(tmp_path / "file") == (
        "the data directory cannot be read.\n"
        f"  data_dir  {tmp_path}/file\n"
        "  reason    Not a directory\n"
        "  fix: choose another data_dir, one that this user may read and write"
    )


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write everywhere, so give that up for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("done", "locked", "mode"),
    [
        ("written", "", 0o555),
        ("read", "pydoc_topics", 0o000),
        ("read", "pydoc_topics/*/1.0.0/dataset_info.json", 0o000),
    ],
)
def test_a_data_directory_that_may_not_be_used(done, locked, mode):
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to other users
        data_dir = Path(name) / "data"
        load_topics(data_dir)
        if done == "written":
            shutil.rmtree(data_dir / "pydoc_topics")
        (path,) = data_dir.glob(locked) if locked else [data_dir]
        Path(name).chmod(0o755)
        path.chmod(mode)
        with ordinary_user():
            text = message_of(data_dir)
        path.chmod(0o755)
    assert text == (
        f"the data directory cannot be {done}.\n"
        f"  data_dir  {data_dir}\n"
        "  reason    Permission denied\n"
        "  fix: choose another data_dir, one that this user may read and write"
    )


def test_two_processes_may_prepare_at_once(tmp_path, monkeypatch):
    generate = PydocTopics._generate_examples
    others: list[Corpus] = []

    def overtaken(self, texts):
        if not others:
            others.append(Corpus({}, {}))
            others.append(load_topics(tmp_path))
        yield from generate(self, texts)

    monkeypatch.setattr(PydocTopics, "_generate_examples", overtaken)
    assert load_topics(tmp_path) == others[1] == pydoc_corpus()
    assert {path.name for path in records(tmp_path).parent.iterdir()} == {"1.0.0"}
