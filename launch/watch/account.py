"""What a step costs by its plan, and what it was worth: FLOPs of the model, bytes, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import meshlang as ml


@dataclass(frozen=True)
class Account:
    """What is known of every step before the first one.

    *Model FLOPs* are three times those of the contractions of one forward pass without dropout, of
    the whole model: once forward, twice backward; what is computed again, or by several processors
    alike, counts once. For a transformer without experts they are 6 N tokens + 12 L l h k tokens,
    with N the elements of the matrices that tokens are multiplied with, L layers, rows of l tokens
    that are compared with all l, h heads of size k (PaLM, 2022, appendix B). Experts count the
    places that they have, filled or not. *Utilisation* is model FLOPs over seconds, processors, and
    what one processor could do at best (`peak_flops`).

    Attributes:
        tokens: predicted in a step.
        model_flops: of a step.
        peak_flops: FLOP/s of one processor at best; 0 if nobody said.
        processors: of the mesh.
        sent_bytes: what a processor sends in a step, by axis, in a bandwidth-optimal algorithm.
        variable_bytes: what a processor keeps between steps.
        activation_bytes: the most that blocks take besides, at one time.
    """

    tokens: int
    model_flops: float
    peak_flops: float
    processors: int
    sent_bytes: dict[str, float]
    variable_bytes: int
    activation_bytes: int

    def utilisation(self, seconds: float) -> float | None:
        """The part of what the processors could do in so many seconds that one step is.

        >>> account = Account(1, 6e9, 1e9, 4, {}, 0, 0)
        >>> account.utilisation(3.0)
        0.5
        """
        if not self.peak_flops:
            return None
        return self.model_flops / (seconds * self.processors * self.peak_flops)


def account(
    plan: ml.Plan, evaluation: ml.Program, *, tokens: int, peak_flops: float = 0.0
) -> Account:
    """The account of a training plan.

    Args:
        plan: of a training step.
        evaluation: the forward pass of as many tokens, without dropout.
        tokens: of a step.
        peak_flops: see `Account`.
    """
    cost = plan.cost
    return Account(
        tokens=tokens,
        model_flops=3.0 * ml.plan(evaluation).cost.flops,
        peak_flops=peak_flops,
        processors=plan.mesh.size,
        sent_bytes={axis: cost.over(axis).wire_bytes for axis in plan.mesh.names},
        variable_bytes=cost.variable_bytes,
        activation_bytes=cost.peak_bytes,
    )


def memory_per_processor(devices: Sequence[str]) -> int:
    """The most memory in use so far, for each processor of this process.

    A GPU tells its own. On CPUs it is what the process holds, TensorFlow itself included, over its
    processors.

    Args:
        devices: of the processors of this process, by TensorFlow's names.
    """
    if any("GPU" in device for device in devices):
        import tensorflow as tf

        peaks = [tf.config.experimental.get_memory_info(device)["peak"] for device in devices]
        return max(peaks)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // len(devices)
