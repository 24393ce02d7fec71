"""Kernels of contractions and of rows by index.

An einsum becomes one (batch) matmul with as few transposes as possible; gather and scatter are
real ones over flat rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import tensorflow as tf

from meshlang.dims import Dim, Shape
from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.kernels import Here, aligned, kernel, turned
from meshlang.ops.contract import Einsum
from meshlang.ops.index import Gather, OneHot, ScatterAdd


@kernel(Einsum)
def _einsum(op: Einsum, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, y = step.inputs
    out = step.outputs[0]
    if op.dtype is not None:  # asked for in so many words: no product is rounded
        blocks = [tf.cast(b, out.dtype) for b in blocks]
    batch = [d for d in out.shape if d in x.shape and d in y.shape]
    summed = [d for d in x.shape if d in y.shape and d not in out.shape]
    mine = [d for d in out.shape if d in x.shape and d not in y.shape]
    theirs = [d for d in out.shape if d in y.shape and d not in x.shape]
    if not mine and not theirs:
        return [_inner(x, y, out, blocks)]
    flip = bool(mine and theirs) and out.shape.index(mine[0]) > out.shape.index(theirs[0])
    if flip:
        x, y, mine, theirs, blocks = y, x, theirs, mine, blocks[::-1]
    # The dims that are summed have one order in both operands: that of whichever is ready with it.
    orders = [[d for d in v.shape if d in summed] for v in (y, x)]
    left, left_swapped, right, right_swapped = min(
        (
            (*_side(x, blocks[0], batch, mine, order), *_side(y, blocks[1], batch, theirs, order))
            for order in orders
        ),
        key=lambda sides: sides[0][1] + sides[2][1],
    )
    product = tf.matmul(
        left[0](), right[0](), transpose_a=left_swapped, transpose_b=not right_swapped
    )
    made = [*batch, *mine, *theirs]
    sizes = {d: s for v in (x, y) for d, s in zip(v.shape, v.block, strict=True)}
    product = tf.reshape(product, [sizes[d] for d in made])
    # Narrow factors are added up in float32 within the product, which then rounds once: TensorFlow
    # has no product of bfloat16 that gives float32, and widening the factors takes three times as
    # long.
    return [tf.cast(turned(product, [made.index(d) for d in out.shape]), out.dtype)]


def _inner(x: PlanValue, y: PlanValue, out: PlanValue, blocks: Sequence[tf.Tensor]) -> tf.Tensor:
    """Inner products: all dims are in both. A matmul of a row by a column takes twice as long."""
    narrow = blocks[0].dtype in (tf.bfloat16, tf.float16)
    if blocks[0] is blocks[1] and not out.shape and not narrow:
        return 2 * tf.nn.l2_loss(blocks[0])
    product = blocks[0] * aligned(blocks[1], y.shape, x.shape)
    if narrow:
        product = tf.cast(product, tf.float32)
    total = tf.reduce_sum(product, [i for i, d in enumerate(x.shape) if d not in out.shape])
    kept = Shape(d for d in x.shape if d in out.shape)
    return aligned(tf.cast(total, out.dtype), kept, out.shape)


def _side(value: PlanValue, block: tf.Tensor, batch: list[Dim], free: list[Dim], summed: list[Dim]):
    """One operand as [batch..., free, summed], or swapped: [batch..., summed, free].

    Returns:
        How to make it with its cost in elements moved by a transpose, and whether it is swapped.
    """
    shape = list(value.shape)
    sizes = dict(zip(value.shape, value.block, strict=True))
    # Dims of size 1 may stand anywhere.
    long = [d for d in shape if sizes[d] > 1]
    swapped = long == [d for d in (*batch, *summed, *free) if sizes[d] > 1]
    rows, columns = (summed, free) if swapped else (free, summed)
    dims = [*batch, *rows, *columns]
    target = [
        *(sizes[d] for d in batch),
        prod(sizes[d] for d in rows),
        prod(sizes[d] for d in columns),
    ]

    def make() -> tf.Tensor:
        moved = turned(block, [shape.index(d) for d in dims])
        return moved if list(moved.shape) == target else tf.reshape(moved, target)

    return (make, 0 if [d for d in dims if sizes[d] > 1] == long else value.elements), swapped


def _rows_first(value: PlanValue, block: tf.Tensor, dims: Sequence[Dim]) -> tf.Tensor:
    return turned(block, [value.shape.index(d) for d in dims])


def flat_index(
    here: Here,
    index: Sequence[tf.Tensor],
    at: PlanValue,
    holder: PlanValue,
    dims: Sequence[Dim],
    rest: Sequence[Dim],
) -> tuple[tf.Tensor, int]:
    """The row that each index means, in a block flattened to [the other dims, rest].

    Returns:
        int32 of the index's block, -1 where the row is not here; and the number of rows.
    """
    flat: tf.Tensor | int = 0
    there: tf.Tensor | None = None
    rows = 1
    for i, dim in enumerate(holder.shape):
        if dim in rest:
            continue
        size = holder.block[i]
        if dim in dims:
            local = index[dims.index(dim)]
            if holder.placement[i]:
                local = local - here.offset(holder, i)
            inside = (local >= 0) & (local < size)
            there = inside if there is None else there & inside
        else:
            local = tf.reshape(tf.range(size), [size if d == dim else 1 for d in at.shape])
        flat = local if rows == 1 else flat * size + local
        rows *= size
    assert there is not None
    return tf.where(there, flat, -1), rows


@kernel(Gather)
def _gather(op: Gather, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    table, at = step.inputs[0], step.inputs[1]
    rest = [d for d in table.shape if d not in op.dims and d not in at.shape]
    flat, _ = flat_index(here, blocks[1:], at, table, op.dims, rest)
    held = as_rows(table, blocks[0], [d for d in table.shape if d not in rest], rest)
    # An index of -1 reads a row of zeros: no mask over the rows is needed.
    found = tf.gather_nd(held, flat[..., None], bad_indices_policy="IGNORE")
    if op.summed:
        found = tf.reduce_sum(found, [at.shape.index(d) for d in op.summed])
    return [tf.reshape(found, step.outputs[0].block)]


@kernel(ScatterAdd)
def _scatter(
    op: ScatterAdd, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    values, at = step.inputs[0], step.inputs[1]
    made = step.outputs[0]
    rest = [d for d in values.shape if d not in at.shape]
    flat, rows = flat_index(here, blocks[1:], at, made, op.dims, rest)
    lead = [d for d in at.shape if d in values.shape]
    given = as_rows(values, blocks[0], lead, rest)
    if op.unique and given.shape[1] > 1:
        # A row of the result has at most one source: it is read, not added to.
        source = _repeated(tf.range(given.shape[0])[:, None], at, lead)
        source = tf.math.unsorted_segment_max(source, tf.reshape(flat, [-1]), rows)
        total = tf.gather_nd(given, source, bad_indices_policy="IGNORE")
    else:
        given = _repeated(given, at, lead)
        total = tf.math.unsorted_segment_sum(given, tf.reshape(flat, [-1]), rows)
    return [arranged(total, [*(d for d in made.shape if d not in rest), *rest], made)]


def _repeated(rows: tf.Tensor, at: PlanValue, lead: Sequence[Dim]) -> tf.Tensor:
    """Rows along `lead`, the same along the other dims of `at`: one for each of its elements."""
    if len(lead) == len(at.shape):
        return rows
    width = rows.shape[1]
    sizes = [b if d in lead else 1 for d, b in zip(at.shape, at.block, strict=True)]
    rows = tf.broadcast_to(tf.reshape(rows, [*sizes, width]), [*at.block, width])
    return tf.reshape(rows, [-1, width])


def as_rows(
    value: PlanValue, block: tf.Tensor, lead: Sequence[Dim], rest: Sequence[Dim]
) -> tf.Tensor:
    """A block as [lead, rest], transposed only if its dims stand otherwise."""
    width = prod(value.block[value.shape.index(d)] for d in rest)
    return tf.reshape(_rows_first(value, block, [*lead, *rest]), [-1, width])


def arranged(x: tf.Tensor, dims: Sequence[Dim], made: PlanValue) -> tf.Tensor:
    """Rows unfolded into dims, in the order of the result."""
    sizes = dict(zip(made.shape, made.block, strict=True))
    x = tf.reshape(x, [sizes[d] for d in dims])
    return turned(x, [list(dims).index(d) for d in made.shape])


@kernel(OneHot)
def _one_hot(op: OneHot, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    last = len(made.block) - 1
    local = blocks[0] - here.offset(made, last)
    if op.dtype == "bool":
        return [tf.one_hot(local, made.block[last], True, False, dtype=tf.bool)]
    return [tf.one_hot(local, made.block[last], dtype=op.dtype)]
