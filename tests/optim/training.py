"""Runs an optimizer on gradients given outright, as the oracles do."""

import numpy as np

import meshlang as ml

Array = np.ndarray
DOUBLE = ml.Precision("float64", "float64", "float64")
SINGLE = ml.Precision()


def values(
    optimizer: ml.optim.Optimizer,
    w0: Array,
    grads: Array,
    *,
    precision: ml.Precision = DOUBLE,
    backend: str = "simulated",
    name: str = "w",
    scale: float | None = None,
    layers: bool = False,
) -> Array:
    """The variable after each step: `[step ...]`, from `w0`, with `grads` `[step ...]`.

    The loss is the sum of the variable times an input, which therefore is the gradient. With
    `layers` the variable is made in a scan over its first dim.
    """
    dims = " ".join(f"d{i}:{size}" for i, size in enumerate(w0.shape))
    executable = lowered(optimizer, dims, precision, backend, name, scale, layers)
    executable.initialize(0)
    executable.set(name, w0)
    found = []
    for grad in grads:
        executable(grad=grad)
        found.append(executable[name])
    return np.stack(found)


def lowered(
    optimizer: ml.optim.Optimizer,
    dims: str,
    precision: ml.Precision = DOUBLE,
    backend: str = "simulated",
    name: str = "w",
    scale: float | None = None,
    layers: bool = False,
) -> ml.Executable:
    """One step on the variable `name` of these dims, whose gradient is the input `grad`."""

    def loss_of(grad: ml.Tensor, shape: str) -> ml.Tensor:
        return ml.sum(ml.variable(name, shape, init=ml.zeros_init) * grad)

    def step(grad: ml.Tensor) -> None:
        if layers:
            first, _, rest = dims.partition(" ")
            loss, _ = ml.scan(
                lambda total, piece: (total + loss_of(piece, rest), None),
                ml.zeros(""),
                grad,
                over=first,
            )
        else:
            loss = loss_of(grad, dims)
        variables = ml.trainable_variables()
        factor = None if scale is None else ml.constant(scale, "")
        optimizer.apply(variables, ml.gradients(loss, variables), scale=factor)

    program = ml.trace(step, precision=precision, grad=ml.spec(dims))
    return ml.lower(ml.plan(program), backend=backend)
