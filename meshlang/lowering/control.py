"""Loops and conditions that may hold collectives."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.types.experimental import PolymorphicFunction

_CONTROL = {"While", "StatelessWhile", "If", "StatelessIf"}


def while_loop(
    cond: Callable[[list[tf.Tensor]], tf.Tensor],
    body: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    loop_vars: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """`tf.while_loop` as one While op, whose body may hold collectives.

    Args:
        cond: from the loop's values to a scalar bool.
        body: from the loop's values to as many new ones, of equal shapes and dtypes.
        loop_vars: the values before the first trip, at least one.

    Returns:
        The values after the last trip.
    """
    with _functional():
        found = tf.while_loop(
            lambda *values: cond(list(values)),
            lambda *values: list(_apart(lambda *v: list(body(list(v))))(*values)),
            list(loop_vars),
        )
    return list(found)


def cond(
    predicate: tf.Tensor,
    true_fn: Callable[[], list[tf.Tensor]],
    false_fn: Callable[[], list[tf.Tensor]],
) -> list[tf.Tensor]:
    """`tf.cond` as one If op, whose branches may hold collectives.

    Args:
        predicate: a scalar bool, equal on all members of the branches' collectives.
        true_fn: makes the results where the predicate holds.
        false_fn: makes as many results of equal shapes and dtypes where it does not.

    Returns:
        The results of the branch taken.
    """
    with _functional():
        found = tf.cond(
            predicate,
            lambda: list(_apart(lambda: list(true_fn()))()),
            lambda: list(_apart(lambda: list(false_fn()))()),
        )
    # Without results TensorFlow returns an op in place of an empty list.
    return list(found) if isinstance(found, list | tuple) else []


def _apart(fn: Callable[..., list[tf.Tensor]]) -> PolymorphicFunction:
    """A body or branch as a function that is called and not inlined.

    TensorFlow hands matrix products and convolutions to oneDNN while it prepares a called function,
    and never in the bare body of a While or If op: there a bfloat16 product takes four times as
    long.
    """
    return tf.function(fn, autograph=False, experimental_attributes={"_noinline": True})


@contextmanager
def _functional() -> Iterator[None]:
    """Keep the control-flow ops made inside from being lowered to Switch and Merge.

    A lowered loop gets a frame of its own name on every device, and the frame is part of a
    collective's key: members would wait for each other forever. Inner loops and branches are made,
    and marked, before the op that holds them.
    """
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    yield
    for op in graph.get_operations()[before:]:
        if op.type in _CONTROL:
            op._set_attr("_lower_using_switch_merge", AttrValue(b=False))
