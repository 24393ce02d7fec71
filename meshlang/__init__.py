"""meshlang: name the dims of tensors and the axes of a mesh; one line lays one on the other.

The language, programs and plans import no TensorFlow; `lower`, `start`, `run` and ops outside of a
trace do, when they are first used.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from meshlang import optim as optim
from meshlang.dims import Dim, Shape
from meshlang.errors import (
    ArrayError,
    CheckError,
    CheckpointError,
    ClusterError,
    DimError,
    DtypeError,
    LayoutError,
    MeshError,
    MeshlangError,
    NotationError,
    PeerError,
    ProgramError,
    VariableError,
)
from meshlang.grad import gradients
from meshlang.initializers import (
    constant_init,
    normal_init,
    ones_init,
    truncated_normal_init,
    uniform_init,
    zeros_init,
)
from meshlang.layout.layout import Layout
from meshlang.layout.mesh import Mesh
from meshlang.layout.plan import Plan, plan
from meshlang.layout.report import compare
from meshlang.ops import *  # noqa: F403  (names listed in meshlang.ops.__all__)
from meshlang.ops import __all__ as _ops
from meshlang.program import InputSpec, Precision, Program, scope, spec, trace
from meshlang.tensor import Tensor
from meshlang.variables import Variable, assign, step, trainable_variables, variable

if TYPE_CHECKING:
    from meshlang.lowering.executable import Executable, lower, run
    from meshlang.lowering.runtime import start

__version__ = "0.1.0"

#: what needs TensorFlow, and where it stands
_LAZY = {
    "Executable": "meshlang.lowering.executable",
    "lower": "meshlang.lowering.executable",
    "run": "meshlang.lowering.executable",
    "start": "meshlang.lowering.runtime",
}

__all__ = [
    "ArrayError",
    "CheckError",
    "CheckpointError",
    "ClusterError",
    "Dim",
    "DimError",
    "DtypeError",
    "Executable",
    "InputSpec",
    "Layout",
    "LayoutError",
    "Mesh",
    "MeshError",
    "MeshlangError",
    "NotationError",
    "PeerError",
    "Plan",
    "Precision",
    "Program",
    "ProgramError",
    "Shape",
    "Tensor",
    "Variable",
    "VariableError",
    "assign",
    "compare",
    "constant_init",
    "gradients",
    "lower",
    "normal_init",
    "ones_init",
    "plan",
    "run",
    "scope",
    "spec",
    "start",
    "step",
    "trace",
    "trainable_variables",
    "truncated_normal_init",
    "uniform_init",
    "variable",
    "zeros_init",
    *_ops,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(_import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'meshlang' has no attribute {name!r}")
