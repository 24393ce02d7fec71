"""Kernels of contractions and of rows by index.

An einsum becomes one (batch) matmul with as few transposes as possible; gather and scatter are
real ones over flat rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import tensorflow as tf

from meshlang.dims import Dim
from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.kernels import Here, kernel
from meshlang.ops.contract import Einsum
from meshlang.ops.index import Gather, OneHot, ScatterAdd
from meshlang.ops.order import BlocksBefore, CumSum


@kernel(Einsum)
def _einsum(op: Einsum, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, y = step.inputs
    out = step.outputs[0]
    if blocks[0].dtype.name != out.dtype:
        blocks = [tf.cast(b, out.dtype) for b in blocks]
    batch = [d for d in out.shape if d in x.shape and d in y.shape]
    summed = [d for d in x.shape if d in y.shape and d not in out.shape]
    mine = [d for d in out.shape if d in x.shape and d not in y.shape]
    theirs = [d for d in out.shape if d in y.shape and d not in x.shape]
    flip = bool(mine and theirs) and out.shape.index(mine[0]) > out.shape.index(theirs[0])
    if flip:
        x, y, mine, theirs, blocks = y, x, theirs, mine, blocks[::-1]
    # The dims that are summed have one order in both operands: that of whichever is ready with it.
    orders = [[d for d in v.shape if d in summed] for v in (y, x)]
    left, left_turned, right, right_turned = min(
        (
            (*_side(x, blocks[0], batch, mine, order), *_side(y, blocks[1], batch, theirs, order))
            for order in orders
        ),
        key=lambda sides: sides[0][1] + sides[2][1],
    )
    product = tf.matmul(
        left[0](), right[0](), transpose_a=left_turned, transpose_b=not right_turned
    )
    made = [*batch, *mine, *theirs]
    sizes = {d: s for v in (x, y) for d, s in zip(v.shape, v.block, strict=True)}
    product = tf.reshape(product, [sizes[d] for d in made])
    order = [made.index(d) for d in out.shape]
    return [product if order == sorted(order) else tf.transpose(product, order)]


def _side(value: PlanValue, block: tf.Tensor, batch: list[Dim], free: list[Dim], summed: list[Dim]):
    """One operand as [batch..., free, summed], or turned: [batch..., summed, free].

    Returns:
        How to make it with its cost in elements moved by a transpose, and whether it is turned.
    """
    shape = list(value.shape)
    turned = shape == [*batch, *summed, *free]
    dims = shape if turned else [*batch, *free, *summed]
    sizes = dict(zip(value.shape, value.block, strict=True))
    rows, columns = (summed, free) if turned else (free, summed)
    target = [
        *(sizes[d] for d in batch),
        prod(sizes[d] for d in rows),
        prod(sizes[d] for d in columns),
    ]

    def make() -> tf.Tensor:
        order = [shape.index(d) for d in dims]
        moved = block if order == sorted(order) else tf.transpose(block, order)
        return moved if list(moved.shape) == target else tf.reshape(moved, target)

    return (make, 0 if dims == shape else value.elements), turned


def _rows_first(value: PlanValue, block: tf.Tensor, dims: Sequence[Dim]) -> tf.Tensor:
    order = [value.shape.index(d) for d in dims]
    return block if order == sorted(order) else tf.transpose(block, order)


def _flat_index(
    here: Here,
    index: Sequence[tf.Tensor],
    at: PlanValue,
    holder: PlanValue,
    dims: Sequence[Dim],
    batch: Sequence[Dim],
) -> tuple[tf.Tensor, tf.Tensor, int]:
    """The row of each index in a block flattened to [batch x dims, rest], and whether it is there.

    Returns:
        int32 rows and bools, both [elements of the index, batch dims outermost]; the number of rows.
    """
    query = [d for d in at.shape if d not in batch]
    order = [*batch, *query]
    flat: tf.Tensor | int = 0
    there: tf.Tensor | None = None
    size = 1
    for one, dim in zip(index, dims, strict=True):
        i = holder.shape.index(dim)
        local = _rows_first(at, one, order) - here.offset(holder, i)
        inside = (local >= 0) & (local < holder.block[i])
        there = inside if there is None else there & inside
        flat = flat * holder.block[i] + local
        size *= holder.block[i]
    assert there is not None
    groups = prod(holder.block[holder.shape.index(d)] for d in batch)
    flat = tf.reshape(flat, [groups, -1])
    if groups > 1:
        flat = flat + tf.range(groups)[:, None] * size
    return tf.reshape(flat, [-1]), tf.reshape(there, [-1]), groups * size


@kernel(Gather)
def _gather(op: Gather, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    table, at = step.inputs[0], step.inputs[1]
    batch = [d for d in table.shape if d in at.shape]
    rest = [d for d in table.shape if d not in op.dims and d not in batch]
    flat, there, rows = _flat_index(here, blocks[1:], at, table, op.dims, batch)
    width = prod(table.block[table.shape.index(d)] for d in rest)
    held = tf.reshape(_rows_first(table, blocks[0], [*batch, *op.dims, *rest]), [rows, width])
    # An index of -1 reads a row of zeros: no mask over the rows is needed.
    places = tf.where(there, flat, -1)[:, None]
    found = tf.gather_nd(held, places, bad_indices_policy="IGNORE")
    made = step.outputs[0]
    dims = [*batch, *(d for d in at.shape if d not in batch), *rest]
    return [_arranged(found, dims, made)]


@kernel(ScatterAdd)
def _scatter(op: ScatterAdd, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    values, at = step.inputs[0], step.inputs[1]
    made = step.outputs[0]
    rest = [d for d in values.shape if d not in at.shape]
    query = [d for d in at.shape if d not in op.batch]
    flat, there, rows = _flat_index(here, blocks[1:], at, made, op.dims, op.batch)
    width = prod(values.block[values.shape.index(d)] for d in rest)
    given = tf.reshape(_rows_first(values, blocks[0], [*op.batch, *query, *rest]), [-1, width])
    total = tf.math.unsorted_segment_sum(given, tf.where(there, flat, -1), rows)
    return [_arranged(total, [*op.batch, *op.dims, *rest], made)]


def _arranged(x: tf.Tensor, dims: Sequence[Dim], made: PlanValue) -> tf.Tensor:
    """Rows unfolded into dims, in the order of the result."""
    sizes = dict(zip(made.shape, made.block, strict=True))
    x = tf.reshape(x, [sizes[d] for d in dims])
    order = [list(dims).index(d) for d in made.shape]
    return x if order == sorted(order) else tf.transpose(x, order)


@kernel(OneHot)
def _one_hot(op: OneHot, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    last = len(made.block) - 1
    local = blocks[0] - here.offset(made, last)
    if op.dtype == "bool":
        return [tf.one_hot(local, made.block[last], True, False, dtype=tf.bool)]
    return [tf.one_hot(local, made.block[last], dtype=op.dtype)]


@kernel(CumSum)
def _cumsum(op: CumSum, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = step.inputs[0].shape.index(op.dim)
    return [tf.cumsum(blocks[0], at, exclusive=op.exclusive, reverse=op.reverse)]


@kernel(BlocksBefore)
def _before(op: BlocksBefore, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    totals = blocks[0]
    places, mine = tf.range(totals.shape[0]), here.index(op.axes)
    counted = places > mine if op.reverse else places < mine
    counted = tf.reshape(counted, [-1] + [1] * (totals.shape.rank - 1))
    return [tf.reduce_sum(tf.where(counted, totals, tf.zeros([], totals.dtype)), axis=0)]

