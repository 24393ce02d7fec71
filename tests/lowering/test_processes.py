"""A mesh over several processes: the same numbers, the same ranks, the same errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from meshlang.errors import ClusterError
from meshlang.lowering import runtime
from meshlang.tf_config import ClusterSpec
from tests.cluster import check_done, run

JOBS = Path(__file__).parent / "jobs"
CHECKED = """\
CheckError: a tensor from outside has elements that are not finite: x
  tensor  [batch:16] float32
  count   1
"""


def trained(directory: Path, processes: int) -> dict[str, np.ndarray]:
    """The losses and variables of the job `train` on eight processors."""
    path = directory / f"{processes}.npz"
    ended = run(directory, [str(JOBS / "train.py"), str(8 // processes), str(path)], processes, 200)
    check_done(ended)
    for found in ended.values():
        assert CHECKED in found.text
    return dict(np.load(path))


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return trained(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.parametrize(
    "processes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))]
)
def test_eight_processors_in_any_number_of_processes(processes, one_process, tmp_path):
    found = trained(tmp_path, processes)
    assert found.keys() == one_process.keys()
    assert len(found["losses"]) == 4
    for name, value in one_process.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("processes", "devices"), [(2, 8), pytest.param(12, 1, marks=pytest.mark.slow)]
)
def test_collectives_over_12_and_16_members(processes, devices, tmp_path):
    ended = run(tmp_path, [str(JOBS / "exchange.py"), str(devices)], processes, 200)
    check_done(ended)
    for i, found in ended.items():
        assert found.text.endswith("all right\n")
        missing = "process 1 did not come.|  others  waited 5 s at 'a thing'"
        assert (missing in found.text) == (i != 1)
        assert re.search("TensorFlow's server listens on port [0-9]+ of all", found.text)


def test_ranks_that_are_not_as_the_mesh_has_them():
    devices = [f"/device:CPU:{i}" for i in range(8)]
    runtime.check_ranks(devices, range(8), 8)
    with pytest.raises(ClusterError) as error:
        runtime.check_ranks(devices, [0, 1, 10, 11, 2, 3, 4, 5], 8)
    assert str(error.value) == (
        "TensorFlow ranks the devices of this run in another order than the mesh.\n"
        "  device     /device:CPU:0\n"
        "  its order  0 1 10 11 2 3 4 5\n"
        "  fix: this is a fault of meshlang's: please report it"
    )


LISTENING = """
import os
import numpy as np
import meshlang as ml

ml.start(devices=2)
run = ml.lower(ml.plan(ml.trace(lambda x: ml.sum(x), x=ml.spec("d:2")), "a:2", "d:a"))
assert float(run(x=np.ones(2, np.float32))) == 2.0
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdecimal()
         and os.path.islink(f"/proc/self/fd/{fd}")]
mine = {link[8:-1] for link in links if link.startswith("socket:[")}
for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
    rows = [line.split() for line in open(table).readlines()[1:]]
    print(*(row[1] for row in rows if row[3] == "0A" and row[9] in mine))
"""


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="Linux tells who listens")
def test_a_run_of_one_process_opens_no_port():
    one = ClusterSpec(("localhost:1",), 0).text()
    for env in ({}, {"TF_CONFIG": one}):
        done = subprocess.run(
            [sys.executable, "-c", LISTENING],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == []
        assert "listens" not in done.stderr


def test_a_mesh_that_processes_cannot_share(tmp_path):
    program = (
        "import meshlang as ml\n"
        "ml.start(devices=2)\n"
        "program = ml.trace(ml.exp, x=ml.spec('d:3'))\n"
        "for mesh in ('a:3', 'a:6'):\n"
        "    try:\n"
        "        ml.lower(ml.plan(program, mesh, 'd:a'))\n"
        "    except ml.MeshError as error:\n"
        "        print(error)\n"
    )
    ended = run(tmp_path, ["-c", program.replace("d:3", "d:6")], 2)
    check_done(ended)
    for found in ended.values():
        assert (
            "the mesh has 3 processors, which 2 processes cannot share.\n"
            "  mesh       a:3\n"
            "  processes  2\n"
            "  fix: give it a multiple of the number of processes\n"
            "the mesh has 3 processors in each of 2 processes; TensorFlow has started with 2.\n"
            "  mesh     a:6\n"
            "  devices  2 cpu\n"
            "  fix: call ml.start(devices=3) before anything else uses TensorFlow, "
        ) in found.text
