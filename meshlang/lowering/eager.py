"""Ops outside of a trace: run at once on one processor, on the values in hand."""

from __future__ import annotations

from collections.abc import Sequence

from meshlang.errors import ProgramError, message
from meshlang.layout.plan import plan
from meshlang.lowering.executable import lower
from meshlang.program import Op, Program, within
from meshlang.tensor import Tensor


def run_op(op: Op, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One op as a program of its own, on the simulated backend of one processor."""
    for x in inputs:
        if x.value is None:
            raise ProgramError(
                message(
                    f"{op.label}: an operand belongs to a program, and none is being traced.",
                    [("operand", x)],
                    "use it inside of the function given to ml.trace",
                )
            )
    program = Program()
    names = [f"x{i}" for i in range(len(inputs))]
    for name, x in zip(names, inputs, strict=True):
        program.inputs[name] = Tensor(x.shape, x.dtype, program)
    with within(program):
        program.results = list(program.add(op, *program.inputs.values()))
    executable = lower(plan(program), backend="simulated")
    results = executable(**{n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    return tuple(
        Tensor(y.shape, y.dtype, None, value=r.numpy())
        for y, r in zip(program.results, results, strict=True)
    )
