"""What a run must not do: run what it finds, listen, write secrets down, wake devices in vain."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.redaction import command_line, configuration
from launch.watch.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent / "tiny.gin"

# A run of two steps beside a canary, without tensorboard; says which ports it listens on.
RUN = """
import json, sys, warnings
from pathlib import Path
sys.modules["tensorboard"] = None
sys.path.insert(0, sys.argv.pop())
from launch.train import main
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    code = main(sys.argv[1:])
inodes = set()
for link in Path("/proc/self/fd").iterdir():
    try:
        inodes.add(str(link.readlink()))
    except FileNotFoundError:
        pass
listening = [
    line.split()[1]
    for table in ("tcp", "tcp6")
    for line in Path("/proc/self/net", table).read_text().splitlines()[1:]
    if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
]
told = [str(w.message) for w in caught if "tensorboard" in str(w.message)]
print(json.dumps({"code": code, "listening": listening, "told": told,
                  "canary": "canary" in sys.modules}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_of_one_process(tmp_path: Path) -> None:
    """No port, no code from its directory, no secret in it, and no need of TensorBoard."""
    (tmp_path / "canary.py").write_text("")
    directory = tmp_path / "run"
    for place in (directory, directory / "checkpoints" / "step_00000001"):
        place.mkdir(parents=True)
        (place / "operative_config.gin").write_text("import canary\n")
        (place / "config.gin").write_text("import canary\n")
    command = [
        *(sys.executable, "-c", RUN, f"--gin_file={TINY}", "--steps=2"),
        *(f"--model_dir={directory}", f"--gin.HUB_TOKEN='{tmp_path / 'hush'}'"),
        *("--gin.PydocText.data_dir=%HUB_TOKEN", str(tmp_path)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    assert found["listening"] == []
    assert not found["canary"]
    assert [text.partition("\n")[0] for text in found["told"]] == [
        "tensorboard is not installed, so no event files are written."
    ]
    records = read_metrics(directory / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2]
    for name in ("command.txt", "config.gin"):
        text = (directory / name).read_text()
        assert "hush" not in text
        assert "HUB_TOKEN" in text and "(removed)" in text


MISTAKES = """
import sys
from launch.train import main
for argument in (
    "--gin.Run.stpes=3", "--gin.Run.batch='two'", "--gin.Run.model=@Transfromer()",
    "--gin.Run.steps", "--mesh=data:x", "--gin_file=none.gin", "--model_dir=" + 300 * "x",
):
    code = main(["--gin_file=runs/pydoc_moe.gin", argument])
    assert code == 1, (argument, code)
    woken = {"tensorflow", "canary"} & set(sys.modules)
    assert not woken, (argument, woken)
"""


def test_mistakes_are_told_before_tensorflow_wakes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISTAKES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_command_lines_without_secrets() -> None:
    given = [
        *("train.py", "--steps=3", "--API_KEY=abc", "--gin.Hub.access_token='x y'"),
        *("--db-password", "hush", "--gin_param=Hub.secret=abc", "--mesh=data:2", "--keyed=1"),
        *("--gin.Attention.d_key=64", "--gin.Run.model=@TokenModel()", "--password"),
    ]
    assert command_line(given) == (
        "train.py --steps=3 '--API_KEY=(removed)' '--gin.Hub.access_token=(removed)' "
        "--db-password '(removed)' '--gin_param=Hub.secret=(removed)' --mesh=data:2 --keyed=1 "
        "--gin.Attention.d_key=64 '--gin.Run.model=@TokenModel()' --password"
    )


def test_configurations_without_secrets() -> None:
    given = "A.hub_token = 'abc'\nA.tokens = 3\nA.token = None\nscope/A.password_file = '/x'\n"
    assert configuration(given) == (
        "A.hub_token = '(removed)'\nA.tokens = 3\nA.token = None\n"
        "scope/A.password_file = '(removed)'\n"
    )


def test_names_of_tensors_are_no_paths(tmp_path: Path) -> None:
    """A checkpoint from elsewhere may name its tensors as it likes: no file is called so."""
    import meshlang as ml

    def fn() -> ml.Tensor:
        return ml.variable("a", "d:4", init=ml.ones_init) + 0.0

    executable = ml.lower(ml.plan(ml.trace(fn)))
    executable.initialize(seed=0)
    checkpoint = tmp_path / "inner" / "step_1"
    executable.save(checkpoint)
    text = (checkpoint / "manifest.json").read_text().replace('"a": {', '"../../a": {')
    (checkpoint / "manifest.json").write_text(text)
    (checkpoint / "COMMITTED").write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ml.CheckpointError) as error:
        executable.restore(checkpoint)
    assert "../../a" in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
