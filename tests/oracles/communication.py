"""What a step must communicate: a small calculator, closed forms, and golden tables.

The oracle for `plan.cost`. All counts are elements per processor (times the dtype's size for
bytes); wire counts are Fractions, so that they compare exactly with integers and floats.
Collectives over a group of one vanish. Payload is the block of an all_reduce, the input block of a
reduce_scatter, the output block of an all_gather, the local block of an all_to_all or a permute.

Two ways lead to the same numbers and the tests hold them against each other: `sums` derives them
from einsums and their gradients, and the closed forms state them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

Sizes = Mapping[str, int]
Layout = Mapping[str, str]


def wire(collective: str, payload: int, group: int) -> Fraction:
    """Elements that each processor sends, by the best known algorithm for large payloads.

    >>> wire("all_reduce", 16, 4), wire("all_gather", 16, 4), wire("permute", 16, 4)
    (Fraction(24, 1), Fraction(12, 1), Fraction(16, 1))
    """
    if group == 1:
        return Fraction(0)
    part = Fraction(group - 1, group)
    factors = {"all_reduce": 2 * part, "permute": Fraction(1)}
    factors |= dict.fromkeys(("reduce_scatter", "all_gather", "all_to_all"), part)
    return factors[collective] * payload


# --------------------------------------------------------------------------------------------------
# The calculator: einsums over named dims, each dim on at most one axis.


def entries(text: str) -> dict[str, str]:
    """`"batch:data heads:model"` as a dict.

    >>> entries("batch:data heads:model")
    {'batch': 'data', 'heads': 'model'}
    """
    return dict(entry.split(":") for entry in text.split())


def mesh_sizes(text: str) -> dict[str, int]:
    """`"data:2 model:4"` as a dict of sizes."""
    return {axis: int(size) for axis, size in entries(text).items()}


@dataclass(frozen=True)
class Product:
    """What one einsum costs.

    Attributes:
        axes: those of its contracted dims: the result is a pending sum over them.
        block: elements of the result's block.
        flops: 2 per product of elements, per processor.
        duplication: FLOPs of all processors over those of one processor that does everything.
    """

    axes: tuple[str, ...]
    block: int
    flops: int
    duplication: Fraction


@dataclass(frozen=True)
class Sum:
    """One all_reduce: of which tensor (`d name` is a gradient), over which axes, of which block."""

    tensor: str
    axes: tuple[str, ...]
    payload: int
    wire: Fraction


def einsum(
    operands: Sequence[Sequence[str]],
    result: Sequence[str],
    sizes: Sizes,
    layout: Layout,
    mesh: Sizes,
) -> Product:
    """The cost of one einsum, from dims alone.

    >>> einsum([["b", "d"], ["d", "f"]], ["b", "f"], {"b": 4, "d": 8, "f": 2}, {"d": "m"}, {"m": 2})
    Product(axes=('m',), block=8, flops=64, duplication=Fraction(1, 1))

    Raises:
        ValueError: two dims of the einsum lie on one axis.
    """
    dims = list(dict.fromkeys([d for operand in operands for d in operand] + list(result)))
    used = [layout[d] for d in dims if d in layout]
    if len(set(used)) < len(used):
        raise ValueError(f"two of the dims {' '.join(dims)} lie on one axis under {dict(layout)}")
    divisor = {d: mesh[layout[d]] if d in layout else 1 for d in dims}
    block = {d: sizes[d] // divisor[d] for d in dims}
    axes = {layout[d] for d in dims if d in layout and d not in result and divisor[d] > 1}
    duplication = Fraction(prod(mesh.values()), prod(divisor.values()))
    flops = 2 * prod(block.values())
    return Product(tuple(sorted(axes)), prod(block[d] for d in result), flops, duplication)


def sums(
    program: str, sizes: Sizes, layout: Layout, mesh: Sizes, constants: frozenset[str] = frozenset()
) -> tuple[list[Sum], list[Product]]:
    """All sums over axes that a forward and backward pass pays, and all its einsums.

    A program has one einsum a line, `result[dims] = a[dims] b[dims]`. Lines with the same result
    are added, and so are the contributions to a gradient by all consumers of a tensor: equal
    pending sums that are added are paid once. A tensor may be used under other dim names (`length`
    as `memory`). Activations, norms and residuals move nothing and are left out.

    Args:
        program: the einsums.
        sizes: dim -> size.
        layout: dim -> axis.
        mesh: axis -> size.
        constants: tensors without gradient.
    """
    lines = [re.findall(r"(\w+)\[([^]]*)\]", line) for line in program.strip().splitlines()]
    terms = [[(name, dims.split()) for name, dims in line] for line in lines]
    forward, backward, products = {}, {}, []
    for (name, dims), *operands in terms:
        product = einsum([o for _, o in operands], dims, sizes, layout, mesh)
        products.append(product)
        forward[name, product.axes] = product.block
    for (_, dims), *operands in reversed(terms):
        for i, (name, own) in enumerate(operands):
            if name in constants:
                continue
            others = [o for j, (_, o) in enumerate(operands) if j != i]
            product = einsum([dims, *others], own, sizes, layout, mesh)
            products.append(product)
            backward[f"d {name}", product.axes] = product.block
    paid = []
    for (name, axes), block in (forward | backward).items():
        group = prod(mesh[axis] for axis in axes)
        if axes:
            paid.append(Sum(name, axes, block, wire("all_reduce", block, group)))
    return paid, products


# --------------------------------------------------------------------------------------------------
# Two dense layers, y = relu(x w) v.

TWO_LAYERS = """
    h[batch d_h] = x[batch d_io] w[d_io d_h]
    y[batch d_io] = h[batch d_h] v[d_h d_io]
"""
TWO_LAYERS_SIZES = {"batch": 64, "d_io": 128, "d_h": 256}


@dataclass(frozen=True)
class TwoLayers:
    """A row of the table: forward and backward pass, with the gradients of x, w and v."""

    mesh: str
    layout: str
    payload: int
    wire: int
    flops: int
    duplication: int = 1


TWO_LAYERS_TABLE = (
    TwoLayers("all:8", "", 0, 0, 25_165_824, 8),
    TwoLayers("all:8", "batch:all", 65536, 114688, 3_145_728),
    TwoLayers("all:8", "d_h:all", 16384, 28672, 3_145_728),
    TwoLayers("all:8", "d_io:all", 32768, 57344, 3_145_728),
    TwoLayers("rows:4 cols:2", "batch:rows d_h:cols", 36864, 53248, 3_145_728),
    TwoLayers("rows:4 cols:2", "batch:rows d_io:cols", 40960, 57344, 3_145_728),
    TwoLayers("rows:4 cols:2", "d_io:rows d_h:cols", 20480, 28672, 3_145_728),
    TwoLayers("planes:2 rows:2 cols:2", "batch:planes d_io:rows d_h:cols", 28672, 28672, 3_145_728),
)


def two_layers(
    batch: int, d_io: int, d_h: int, p: int, r: int, c: int
) -> tuple[int, Fraction, int]:
    """Payload, wire and FLOPs: batch is divided p ways, d_io r ways, d_h c ways, each over its own
    axis.

    Each axis carries, twice, the face of the box batch x d_io x d_h that it is orthogonal to.

    >>> two_layers(64, 128, 256, 4, 1, 2)
    (36864, Fraction(53248, 1), 3145728)
    """
    faces = (p, d_io * d_h // (r * c)), (c, batch * d_io // (p * r)), (r, batch * d_h // (p * c))
    payload = sum(2 * face for ways, face in faces if ways > 1)
    total = sum((2 * wire("all_reduce", face, ways) for ways, face in faces), Fraction(0))
    return payload, total, 12 * batch * d_io * d_h // (p * r * c)


# --------------------------------------------------------------------------------------------------
# One training step of a transformer language model.


@dataclass(frozen=True)
class Transformer:
    """A decoder-only model: RMS norms with a scale only, no biases, no dropout, plain feed-forward.

    With `parallel` a layer has one norm, and its attention and feed-forward are added.
    """

    batch: int = 8
    length: int = 16
    d_model: int = 32
    heads: int = 4
    d_head: int = 8
    d_ff: int = 64
    vocab: int = 128
    layers: int = 2
    tied: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class StepCost:
    """What a training step sends. Counts of sums are before bucketing.

    Attributes:
        model_sums, model_payload: the large sums over the axis model, of activations.
        small_payload: the three sums (one of them a max) of the softmax over the divided vocab.
        data_sums, data_payload: over the axis data: one for each parameter, and the loss, one
            element.
        wire: all of it.
    """

    model_sums: int
    model_payload: int
    small_payload: int
    data_sums: int
    data_payload: int
    wire: Fraction


TRANSFORMER_LAYOUT = "batch:data heads:model d_ff:model vocab:model"
_TIED, _PARALLEL = Transformer(tied=True), Transformer(parallel=True)
# As this project counts a step of plain gradient descent that returns the loss: a real embedding
# lookup counts as the one-hot einsum does, a scan over layers counts each trip, no clipping.
TRANSFORMER_TABLE = (
    ("data:1 model:1", Transformer(), StepCost(0, 0, 0, 0, 0, Fraction(0))),
    ("data:4 model:1", Transformer(), StepCost(0, 0, 0, 20, 24737, Fraction(74211, 2))),
    ("data:1 model:4", Transformer(), StepCost(10, 40960, 384, 0, 0, Fraction(62016))),
    ("data:2 model:2", Transformer(), StepCost(10, 20480, 192, 20, 12449, Fraction(33121))),
    ("data:2 model:2", _TIED, StepCost(10, 20480, 192, 19, 10401, Fraction(31073))),
    ("data:2 model:2", _PARALLEL, StepCost(6, 12288, 192, 18, 12385, Fraction(24865))),
    ("data:2 model:4", Transformer(), StepCost(10, 20480, 192, 20, 6305, Fraction(37313))),
)


def transformer_step(model: Transformer, data: int, model_axis: int) -> StepCost:
    """The closed form, under `TRANSFORMER_LAYOUT` on a mesh of data x model.

    With A = batch/data * length * d_model: the axis model sums A once after the embedding, twice in
    the forward and twice in the backward pass of a layer (once each if parallel), and once in the
    gradient of the logits. The axis data sums each parameter's block.
    """
    m, tables = model, 1 if model.tied else 2
    rows = m.batch // data * m.length
    model_sums = 2 + (2 if m.parallel else 4) * m.layers if model_axis > 1 else 0
    model_payload = model_sums * rows * m.d_model
    small = 3 * rows if model_axis > 1 else 0
    norms = m.layers * (1 if m.parallel else 2) + 1
    matrices = tables + 6 * m.layers
    divided = tables * m.vocab * m.d_model
    divided += m.layers * (4 * m.d_model * m.heads * m.d_head + 2 * m.d_model * m.d_ff)
    data_sums = matrices + norms + 1 if data > 1 else 0
    data_payload = divided // model_axis + norms * m.d_model + 1 if data > 1 else 0
    total = wire("all_reduce", model_payload + small, model_axis)
    total += wire("all_reduce", data_payload, data)
    return StepCost(model_sums, model_payload, small, data_sums, data_payload, total)


def transformer_program(model: Transformer) -> tuple[str, dict[str, int]]:
    """The same step as einsums for `sums`, and its sizes; `onehot` is a constant.

    Every norm starts from a tensor of its own (`of_...`): what connects it to the lines before, the
    residual and the norm itself, moves nothing where d_model is whole.
    """
    rows, head = "[batch length d_model]", "[batch length heads d_head]"
    memory, square = "[batch memory heads d_head]", "[batch heads length memory]"
    lines = [f"x{rows} = onehot[batch length vocab] embedding[vocab d_model]"]
    for i in range(model.layers):
        # One name for both results means that they are added before they are paid.
        names = (
            (f"n{i}", f"n{i}", f"y{i}", f"y{i}")
            if model.parallel
            else (f"n{i}", f"m{i}", f"y{i}", f"z{i}")
        )
        n, m, y, z = names
        lines += [
            f"{norm}{rows} = of_{norm}{rows} s_{norm}[d_model]" for norm in dict.fromkeys((n, m))
        ]
        lines += [f"{t}{i}{head} = {n}{rows} w{t}{i}[d_model heads d_head]" for t in "qkv"]
        lines += [
            f"l{i}{square} = q{i}{head} k{i}{memory}",
            f"o{i}{head} = p{i}{square} v{i}{memory}",
        ]
        lines += [f"{y}{rows} = o{i}{head} wo{i}[heads d_head d_model]"]
        lines += [f"h{i}[batch length d_ff] = {m}{rows} wi{i}[d_model d_ff]"]
        lines += [f"{z}{rows} = r{i}[batch length d_ff] wf{i}[d_ff d_model]"]
    table = "embedding" if model.tied else "unembedding"
    lines += [f"n{rows} = of_n{rows} s_n[d_model]"]
    lines += [f"logits[batch length vocab] = n{rows} {table}[vocab d_model]"]
    dims = ("batch", "length", "d_model", "heads", "d_head", "d_ff", "vocab")
    return "\n".join(lines), {d: getattr(model, d) for d in dims} | {"memory": model.length}


# --------------------------------------------------------------------------------------------------
# Mixture of experts, and fully divided parameters.


@dataclass(frozen=True)
class Exchange:
    """A MoE layer with experts and groups on one axis, router whole, no recompute.

    Attributes:
        tokens: of all processors together.
        group_size, experts, d_model, capacity_factor: as in tests/oracles/moe.py, minimum capacity
            left out.
        processors: on the axis.
        capacity: places of an expert for one group.
        payload: of each of the four all_to_alls, two in the forward and two in the backward pass.
        wire: of the four together.
    """

    tokens: int
    group_size: int
    experts: int
    d_model: int
    capacity_factor: float
    processors: int
    capacity: int
    payload: int
    wire: Fraction


def exchange(
    tokens: int,
    group_size: int,
    experts: int,
    d_model: int,
    capacity_factor: float,
    processors: int,
) -> Exchange:
    """The closed form: payload = experts * (groups / processors) * capacity * d_model."""
    capacity = int(group_size * capacity_factor / experts)
    groups = tokens // group_size // processors
    payload = experts * groups * capacity * d_model
    total = 4 * wire("all_to_all", payload, processors)
    inputs = (tokens, group_size, experts, d_model, capacity_factor, processors)
    return Exchange(*inputs, capacity, payload, total)


MOE_TABLE = (
    Exchange(1024, 64, 8, 32, 1.25, 4, 10, 10240, Fraction(30720)),
    Exchange(1024, 64, 4, 32, 2.0, 4, 32, 16384, Fraction(49152)),
)


@dataclass(frozen=True)
class ParameterTraffic:
    """How often each collective moves all parameters over the axis in a step, and what it sends.

    Attributes:
        counts: collective -> how many times it has all parameters as its payload.
        wire: of the step.
    """

    counts: dict[str, int]
    wire: Fraction


def data_parallel(parameters: int, n: int) -> ParameterTraffic:
    """Parameters whole: gradients are summed, 2(n-1)/n."""
    return _traffic({"all_reduce": 1}, parameters, n)


def zero1(parameters: int, n: int) -> ParameterTraffic:
    """Gradients and slots divided (`slots`): 2(n-1)/n."""
    return _traffic({"reduce_scatter": 1, "all_gather": 1}, parameters, n)


def zero3(parameters: int, n: int) -> ParameterTraffic:
    """All divided (`params`), gathered in the forward and again in the backward pass: 3(n-1)/n."""
    return _traffic({"reduce_scatter": 1, "all_gather": 2}, parameters, n)


def _traffic(counts: dict[str, int], parameters: int, n: int) -> ParameterTraffic:
    total = sum((k * wire(name, parameters, n) for name, k in counts.items()), Fraction(0))
    return ParameterTraffic(counts if n > 1 else {}, total)
