"""How blocks travel: the dtypes that collectives take, and the rounds of large exchanges."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from meshlang.lowering.backend import Kind

Back = Callable[[tf.Tensor], tf.Tensor]

# All-to-all keys its buffers by the ranks of sender and receiver, written without a separator: from
# 12 members on, rank 1 to 11 and rank 11 to 1 share a key.
LARGEST_EXCHANGE = 11

# What TensorFlow moves as it is, and what has the same bits.
_MOVED = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)
_SAME_BITS = {
    tf.bfloat16: tf.float16,
    tf.int16: tf.float16,
    tf.uint16: tf.float16,
    tf.uint32: tf.int32,
    tf.uint64: tf.int64,
}
_ONE_BYTE = (tf.bool, tf.int8, tf.uint8)  # float16 holds all their values


def to_move(x: tf.Tensor) -> tuple[tf.Tensor, Back]:
    """`x` in a dtype that the moving collectives take, and the way back, both exact."""
    dtype = x.dtype
    if dtype in _MOVED:
        return x, lambda y: y
    if dtype in _SAME_BITS:
        return tf.bitcast(x, _SAME_BITS[dtype]), lambda y: tf.bitcast(y, dtype)
    if dtype in _ONE_BYTE:
        return tf.cast(x, tf.float16), lambda y: tf.cast(y, dtype)
    raise TypeError(f"blocks of {dtype.name} do not travel")


def to_reduce(x: tf.Tensor, kind: Kind) -> tuple[tf.Tensor, Back]:
    """`x` in a dtype in which the runtime reduces it, and the way back.

    The runtime has no maximum of float32, and its maximum of float64 may lose a NaN: both go as
    integers in the same order and of the same width. Short integers go as long ones, and wrap
    around on the way back as a sum of them would.
    """
    dtype = x.dtype
    if dtype in (tf.int8, tf.int16, tf.uint8, tf.uint16, tf.uint32):
        return tf.cast(x, tf.int64), lambda y: tf.cast(y, dtype)
    if kind == "sum":
        if dtype in (tf.float16, tf.bfloat16):
            return tf.cast(x, tf.float32), lambda y: tf.cast(y, dtype)
        if dtype in (tf.float32, tf.float64, tf.int32, tf.int64):
            return x, lambda y: y
    elif dtype in (tf.int32, tf.int64):
        return x, lambda y: y
    elif dtype == tf.bool:
        return tf.cast(x, tf.int32), lambda y: tf.cast(y, tf.bool)
    elif dtype.is_floating:
        wide = tf.float64 if dtype == tf.float64 else tf.float32
        integers = to_ordered(tf.cast(x, wide), kind)
        return integers, lambda y: tf.cast(from_ordered(y), dtype)
    raise TypeError(f"there is no {kind} of {dtype.name}")


def to_ordered(x: tf.Tensor, kind: Kind) -> tf.Tensor:
    """Floats as integers of the same width and order, NaNs at the end that `kind` looks for."""
    nan = float("nan") if kind == "max" else -float("nan")
    x = tf.where(tf.math.is_nan(x), tf.constant(nan, x.dtype), x)
    return _flip(tf.bitcast(x, tf.int64 if x.dtype == tf.float64 else tf.int32))


def from_ordered(integers: tf.Tensor) -> tf.Tensor:
    """The floats that `to_ordered` was given."""
    return tf.bitcast(_flip(integers), tf.float64 if integers.dtype == tf.int64 else tf.float32)


def _flip(integers: tf.Tensor) -> tf.Tensor:
    """Turn the order of the negative ones round: floats keep a sign and a magnitude."""
    turned = tf.bitwise.bitwise_xor(integers, tf.constant(integers.dtype.max, integers.dtype))
    return tf.where(integers < 0, turned, integers)


def radices(members: int) -> tuple[int, ...] | None:
    """Factors of a group's size in which all-to-all can go step by step; None if there are none.

    >>> radices(8), radices(16), radices(512), radices(13)
    ((8,), (8, 2), (8, 8, 8), None)
    """
    if members <= LARGEST_EXCHANGE:
        return (members,)
    for first in range(LARGEST_EXCHANGE, 1, -1):
        rest = radices(members // first) if members % first == 0 else None
        if rest:
            return (first, *rest)
    return None


def pair_rounds(sources: Sequence[int]) -> tuple[list[list[int]], list[int]] | None:
    """Who receives from whom, as rounds in which all members swap blocks by pairs.

    Args:
        sources: from whom each member receives, and -1 for one that receives nothing; no member
            sends twice.

    Returns:
        For each round the partner of each member; and for each member the round in which its
        partner holds what it wants, or -1 if it wants its own block or nothing. None if there is an
        odd cycle, or an odd number of members, of which one would have no partner.

    >>> pair_rounds([3, 0, 1, 2])  # a shift by one: member i gets the block of member i - 1
    ([[3, 2, 1, 0], [1, 0, 3, 2]], [0, 1, 0, 1])
    >>> pair_rounds([-1, 0, 1, 2])  # the same without the last one's block
    ([[1, 0, 3, 2], [3, 2, 1, 0]], [-1, 0, 1, 0])
    >>> pair_rounds([1, 0])
    ([[1, 0]], [0, 0])
    >>> pair_rounds([1, 2, 0])
    """
    rounds = [[-1] * len(sources), [-1] * len(sources)]
    when = [-1] * len(sources)
    for line, closed in _lines(sources):
        if closed and len(line) % 2:
            return None
        ahead = [*line[1:], line[0]] if closed and len(line) > 2 else line[1:]
        for i, (member, source) in enumerate(zip(line, ahead, strict=False)):
            rounds[i % 2][member], rounds[i % 2][source] = source, member
            when[member] = i % 2
        if closed and len(line) == 2:
            when[line[1]] = 0
    used = rounds[: 1 + max(when)]
    for partners in used:
        idle = [member for member, partner in enumerate(partners) if partner < 0]
        if len(idle) % 2:
            return None
        for a, b in zip(idle[::2], idle[1::2], strict=True):
            partners[a], partners[b] = b, a
    return used, when


def _lines(sources: Sequence[int]) -> list[tuple[list[int], bool]]:
    """Members in lines, each behind the one that it sends to, and whether a line is a cycle."""
    lines, seen = [], set()
    ends = [member for member in range(len(sources)) if member not in sources]
    for first in (*ends, *range(len(sources))):
        line, at = [], first
        while at >= 0 and at not in seen:
            seen.add(at)
            line.append(at)
            at = sources[at]
        if len(line) > 1:
            lines.append((line, at == first))
    return lines
