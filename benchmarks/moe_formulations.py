"""Three ways to bring tokens to their experts and back, in plain TensorFlow, and their speed.

Run ``python -m benchmarks.moe_formulations`` for a table. All three compute the same function of
the same routing; `benchmarks.reference` uses them as well.

Names of tensors end in their dims: g groups, s tokens of a group, d width, e experts, c places of
an expert for a group, k the two choices of a token, n = g * s tokens, p = e * g * c places.
"""

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from benchmarks.sizes import COMPUTE_DTYPES, Sizes

# From tokens at the experts [e g c d] to the experts' answers with the same dims.
Experts = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Route:
    """Where each token goes, and with which weight the answer counts.

    Attributes:
        expert_gsk: int32, the experts that a token chose.
        place_gsk: int32, its place among the tokens of its group at that expert; may exceed the
            capacity, for a token that is dropped.
        gate_gsk: float32, the weight of the answer; 0 where the token is dropped.
        kept_gsk: bool, whether the expert has a place for the token.
        experts: Number of experts.
        capacity: Places of an expert for a group.
    """

    expert_gsk: tf.Tensor
    place_gsk: tf.Tensor
    gate_gsk: tf.Tensor
    kept_gsk: tf.Tensor
    experts: int
    capacity: int

    def slots(self) -> tf.Tensor:
        """Numbers each token's places through [e g c]: int32 [n k]; past the end if dropped."""
        groups, tokens, choices = self.expert_gsk.shape
        group_g11 = tf.range(groups)[:, tf.newaxis, tf.newaxis]
        slot_gsk = (self.expert_gsk * groups + group_g11) * self.capacity + self.place_gsk
        slot_gsk = tf.where(self.kept_gsk, slot_gsk, self.experts * groups * self.capacity)
        return tf.reshape(slot_gsk, [groups * tokens, choices])


def top_2(probs_gse: tf.Tensor, sizes: Sizes) -> tuple[Route, tf.Tensor]:
    """Sends each token to its two most probable experts, as Mesh-TensorFlow does.

    First choices take their places before second ones; within a choice earlier tokens come first.

    Args:
        probs_gse: float32, the router's probabilities.
        sizes: For the capacity and the policy for second experts.

    Returns:
        The route, and the balance loss: the mean over groups and experts of the fraction of tokens
        whose first choice an expert is, times its mean probability, times experts squared. It is 1
        when all experts are equally probable.

    >>> route, balance = top_2(tf.constant([[[0.6, 0.3, 0.1], [0.7, 0.1, 0.2]]]),
    ...                        Sizes(batch=1, length=2, group_size=2, experts=3))
    >>> route.expert_gsk.numpy().tolist(), route.place_gsk.numpy().tolist()
    ([[[0, 1], [0, 2]]], [[[0, 0], [1, 0]]])
    """
    experts = probs_gse.shape[-1]
    first_gs = tf.argmax(probs_gse, -1, output_type=tf.int32)
    first_gse = tf.one_hot(first_gs, experts)
    others_gse = probs_gse * (1.0 - first_gse)
    second_gs = tf.argmax(others_gse, -1, output_type=tf.int32)
    second_gse = tf.one_hot(second_gs, experts)
    prob_gsk = tf.stack(
        [tf.reduce_sum(probs_gse * first_gse, -1), tf.reduce_sum(others_gse * second_gse, -1)], -1
    )
    gate_gsk = prob_gsk / (tf.reduce_sum(prob_gsk, -1, keepdims=True) + 1e-9)
    balance = tf.reduce_mean(tf.reduce_mean(first_gse, 1) * tf.reduce_mean(probs_gse, 1))

    second_gse *= _second_is_used(gate_gsk[..., 1], sizes)[..., tf.newaxis]
    place_gse = tf.cumsum(first_gse, axis=1, exclusive=True)
    taken_ge = tf.minimum(tf.reduce_sum(first_gse, 1), sizes.capacity)
    behind_gse = tf.cumsum(second_gse, axis=1, exclusive=True) + taken_ge[:, tf.newaxis]
    place_gsk = tf.stack(
        [tf.reduce_sum(place_gse * first_gse, -1), tf.reduce_sum(behind_gse * second_gse, -1)], -1
    )
    used_gsk = tf.stack([tf.reduce_sum(first_gse, -1), tf.reduce_sum(second_gse, -1)], -1) > 0.0
    kept_gsk = used_gsk & (place_gsk < sizes.capacity)
    route = Route(
        expert_gsk=tf.stack([first_gs, second_gs], -1),
        place_gsk=tf.cast(place_gsk, tf.int32),
        gate_gsk=gate_gsk * tf.cast(kept_gsk, tf.float32),
        kept_gsk=kept_gsk,
        experts=experts,
        capacity=sizes.capacity,
    )
    return route, balance * experts**2


def _second_is_used(gate_gs: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    policies = {
        "all": lambda: tf.ones_like(gate_gs),
        "none": lambda: tf.zeros_like(gate_gs),
        "threshold": lambda: tf.cast(gate_gs > sizes.second_threshold, tf.float32),
    }
    return policies[sizes.second_expert]()


def one_hot(inputs_gsd: tf.Tensor, route: Route, experts: Experts) -> tf.Tensor:
    """Moves tokens by products with tensors [g s e c] of zeros and gates: Mesh-TensorFlow's way.

    Args:
        inputs_gsd: Tokens, in the dtype of activations.
        route: Where they go.
        experts: What happens to them there.

    Returns:
        The gated sum of the experts' answers [g s d]; zeros for a token dropped by both.
    """
    combine_gsec = tf.zeros([], inputs_gsd.dtype)
    for choice in range(route.gate_gsk.shape[-1]):
        gate_gs = tf.cast(route.gate_gsk[..., choice], inputs_gsd.dtype)
        expert_gse = tf.one_hot(route.expert_gsk[..., choice], route.experts, dtype=gate_gs.dtype)
        place_gsc = tf.one_hot(route.place_gsk[..., choice], route.capacity, dtype=gate_gs.dtype)
        combine_gsec += tf.einsum("gs,gse,gsc->gsec", gate_gs, expert_gse, place_gsc)
    dispatch_gsec = tf.cast(tf.cast(combine_gsec, tf.bool), inputs_gsd.dtype)
    # [e g c d] rather than [g e c d]: the experts' batched products then need no transposition.
    answers_egcd = experts(tf.einsum("gsd,gsec->egcd", inputs_gsd, dispatch_gsec))
    return tf.einsum("egcd,gsec->gsd", answers_egcd, combine_gsec)


def segment_sum(inputs_gsd: tf.Tensor, route: Route, experts: Experts) -> tf.Tensor:
    """Scatters token rows to places and gathers them back; TensorFlow derives the gradient.

    Of TensorFlow's scatters of rows, ``unsorted_segment_sum`` is the fastest on CPU. Takes and
    returns what `one_hot` does.
    """
    groups, tokens, d_model = inputs_gsd.shape
    choices = route.gate_gsk.shape[-1]
    places = route.experts * groups * route.capacity
    slot_nk = route.slots()
    rows_nkd = tf.repeat(tf.reshape(inputs_gsd, [-1, 1, d_model]), choices, axis=1)
    # A negative id is left out of the sums, and may not be gathered.
    ids_nk = tf.where(slot_nk < places, slot_nk, -1)
    inputs_pd = tf.math.unsorted_segment_sum(rows_nkd, ids_nk, places)
    answers_pd = _at_experts(inputs_pd, route, experts)
    kept_nk = tf.cast(slot_nk < places, inputs_gsd.dtype)
    gate_nk = tf.cast(tf.reshape(route.gate_gsk, [-1, choices]), inputs_gsd.dtype) * kept_nk
    answers_nkd = tf.gather(answers_pd, tf.maximum(ids_nk, 0))
    outputs_nd = tf.reduce_sum(answers_nkd * gate_nk[..., tf.newaxis], 1)
    return tf.reshape(outputs_nd, [groups, tokens, d_model])


def gather(inputs_gsd: tf.Tensor, route: Route, experts: Experts) -> tf.Tensor:
    """Gathers rows in both directions, forward and backward; only integers are scattered.

    A token knows its places and a place its only token, so each sum of scattered rows is a gather
    by the other of the two tables. An index out of range stands for a row of zeros. Takes and
    returns what `one_hot` does.
    """
    groups, tokens, d_model = inputs_gsd.shape
    choices = route.gate_gsk.shape[-1]
    places, rows = route.experts * groups * route.capacity, groups * tokens
    slot_nk = route.slots()
    # Counted from 1 while scattered, so that an empty place ends up with -1: a row of zeros.
    token_nk = tf.repeat(tf.range(1, rows + 1)[:, tf.newaxis], choices, axis=1)
    token_p = _scatter(token_nk, slot_nk, places) - 1

    @tf.custom_gradient
    def dispatch(inputs_nd: tf.Tensor):
        return _rows(inputs_nd, token_p), lambda to_pd: tf.reduce_sum(_rows(to_pd, slot_nk), 1)

    @tf.custom_gradient
    def combine(answers_pd: tf.Tensor, gate_nk: tf.Tensor):
        answers_nkd = _rows(answers_pd, slot_nk)

        def gradient(to_nd: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gate_p = _scatter(gate_nk, slot_nk, places)
            to_gates_nk = tf.linalg.matvec(answers_nkd, to_nd)
            return _rows(to_nd, token_p) * gate_p[:, tf.newaxis], to_gates_nk

        # A row of gates times the rows: matvec would transpose the rows, at twice the time.
        gates_n1k = gate_nk[:, tf.newaxis]
        return tf.squeeze(tf.matmul(gates_n1k, answers_nkd), 1), gradient

    inputs_pd = dispatch(tf.reshape(inputs_gsd, [rows, d_model]))
    answers_pd = _at_experts(inputs_pd, route, experts)
    gate_nk = tf.cast(tf.reshape(route.gate_gsk, [rows, choices]), inputs_gsd.dtype)
    return tf.reshape(combine(answers_pd, gate_nk), [groups, tokens, d_model])


def _rows(table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return tf.gather_nd(table, index[..., tf.newaxis], bad_indices_policy="IGNORE")


def _scatter(values: tf.Tensor, index: tf.Tensor, size: int) -> tf.Tensor:
    return tf.scatter_nd(index[..., tf.newaxis], values, [size], bad_indices_policy="IGNORE")


def _at_experts(inputs_pd: tf.Tensor, route: Route, experts: Experts) -> tf.Tensor:
    shape = [route.experts, -1, route.capacity, inputs_pd.shape[-1]]
    return tf.reshape(experts(tf.reshape(inputs_pd, shape)), inputs_pd.shape)


FORMULATIONS = {"one_hot": one_hot, "segment_sum": segment_sum, "gather": gather}


def forward_and_backward(formulation: str, route: Route) -> Callable[..., list[tf.Tensor]]:
    """Makes a compiled function that moves tokens there and back, with experts that do nothing.

    Args:
        formulation: A name in `FORMULATIONS`.
        route: Where tokens go; all but its gates is fixed.

    Returns:
        ``f(inputs_gsd, gate_gsk, to_outputs_gsd) -> [outputs, to inputs, to gates]``.
    """
    # As constants, the tables of a route would be folded into the graph and cost nothing.
    fixed = [tf.Variable(t) for t in (route.expert_gsk, route.place_gsk, route.kept_gsk)]

    @tf.function(autograph=False)
    def run(inputs_gsd: tf.Tensor, gate_gsk: tf.Tensor, to_gsd: tf.Tensor) -> list[tf.Tensor]:
        expert_gsk, place_gsk, kept_gsk = [table.read_value() for table in fixed]
        now = dataclasses.replace(
            route,
            expert_gsk=expert_gsk,
            place_gsk=place_gsk,
            kept_gsk=kept_gsk,
            gate_gsk=gate_gsk,
        )
        with tf.GradientTape() as tape:
            tape.watch([inputs_gsd, gate_gsk])
            outputs = FORMULATIONS[formulation](inputs_gsd, now, tf.identity)
        return [outputs, *tape.gradient(outputs, [inputs_gsd, gate_gsk], to_gsd)]

    return run


def race(sizes: Sizes, seconds: float) -> dict[str, list[float]]:
    """Times all formulations in turn, on one routing of random tokens.

    Args:
        sizes: For groups, width, experts, capacity and the dtype of tokens.
        seconds: How long to go on.

    Returns:
        For each formulation the seconds of its calls, forward and backward.

    Raises:
        AssertionError: A formulation disagrees with the one-hot one, which would make its time
            worthless.
    """
    generator = np.random.default_rng(0)
    shape_gsd = (sizes.groups, sizes.group_size, sizes.d_model)
    inputs_gsd, to_gsd = [
        tf.constant(generator.standard_normal(shape_gsd), sizes.compute) for _ in range(2)
    ]
    scores_gse = generator.standard_normal((*shape_gsd[:2], sizes.experts), np.float32)
    route, _ = top_2(tf.nn.softmax(scores_gse), sizes)
    functions = {name: forward_and_backward(name, route) for name in FORMULATIONS}
    results = {name: run(inputs_gsd, route.gate_gsk, to_gsd) for name, run in functions.items()}
    for name, found in results.items():
        _assert_equal(name, found, results["one_hot"], sizes.compute)
    taken = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in functions.items():
            start = time.perf_counter()
            run(inputs_gsd, route.gate_gsk, to_gsd)[0].numpy()
            taken[name].append(time.perf_counter() - start)
    return taken


def _assert_equal(
    name: str, found: list[tf.Tensor], expected: list[tf.Tensor], compute: str
) -> None:
    """Rounding alone may differ: sums over d_model numbers, relative to the largest result."""
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[compute]
    for part, one, other in zip(("outputs", "to inputs", "to gates"), found, expected, strict=True):
        one, other = [tf.cast(value, tf.float32).numpy() for value in (one, other)]
        worst, largest = float(np.abs(one - other).max()), float(np.abs(other).max())
        assert worst <= tolerance * largest, f"{name}: {part} differ by {worst} of {largest}"


def table(taken: dict[str, list[float]]) -> str:
    """Formats what `race` returns: medians, and ratios to the first formulation.

    >>> print(table({"one_hot": [0.004, 0.002, 0.002], "gather": [0.001, 0.001, 0.002]}))
    | formulation | median ms | least ms | ratio of medians |
    |---|---|---|---|
    | one_hot | 2.00 | 2.00 | 1.00 |
    | gather | 1.00 | 1.00 | 0.50 |
    """
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    first = next(iter(medians.values()))
    lines = ["| formulation | median ms | least ms | ratio of medians |", "|---|---|---|---|"]
    for name, median in medians.items():
        least = min(taken[name])
        lines.append(f"| {name} | {1e3 * median:.2f} | {1e3 * least:.2f} | {median / first:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints a table for each compute dtype."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each dtype")
    seconds = parser.parse_args().seconds
    for compute in COMPUTE_DTYPES:
        sizes = Sizes(compute=compute)
        taken = race(sizes, seconds)
        print(
            f"\nDispatch and combine, forward and backward, {compute}: {sizes.groups} groups of "
            f"{sizes.group_size} tokens, {sizes.experts} experts, {sizes.capacity} places, width "
            f"{sizes.d_model}; {len(taken['one_hot'])} calls each, in turn, on {os.cpu_count()} "
            f"cores\n"
        )
        print(table(taken))


if __name__ == "__main__":
    main()
