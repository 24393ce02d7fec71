"""Adafactor: second moments kept as rows and columns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import meshlang as ml
from meshlang.dims import Dim, Shape
from meshlang.errors import MeshlangError, message
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.patterns import check_patterns, found_in
from meshlang.optim.schedules import (
    LearningRate,
    check_above_0,
    check_at_least,
    check_fraction,
    check_rate,
    rate,
)
from meshlang.optim.updates import DescentUpdate
from meshlang.program import apply
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Adafactor, with Mesh-TensorFlow's defaults.

    At step t, which counts from 0, with g the gradient and w the value before the update:

    1. ``b2 = 1 - (t+1)^-decay_exponent``: 0 at the first step.
    2. ``s = g^2 + epsilon1``.
    3. Factored when two dims or more, stacked ones not counted, have `min_dim_size_to_factor` or
       more. d0 is the largest, d1 the second largest; of equal ones the earlier comes first.
       ``vr = b2 vr + (1 - b2) mean_d0(s)``, ``vc = b2 vc + (1 - b2) mean_d1(s)``; all other dims
       stay in both. ``u = g rsqrt(vr / mean_d1(vr)) rsqrt(vc)``.
       Else ``v = b2 v + (1 - b2) s``, ``u = g rsqrt(v)``.
    4. ``u = u / max(1, rms(u) / clipping_threshold)``, rms over all dims, stacked ones too.
    5. ``scale = rate(t) max(rms(w), epsilon2)``, rms over all dims but stacked ones: each layer
       has its own. Without `multiply_by_parameter_scale`, ``scale = rate(t)``.
    6. ``u = u scale``; with beta1: ``m = beta1 m + (1 - beta1) u; u = m``, not corrected.
    7. ``w = w - u``.

    Stacked are the dims of scans, and those that `stacked_dims` names: along them stand variables
    of many layers or experts.

    Attributes:
        learning_rate: a number or a schedule. None is ``min((t+1)^-0.5, 0.01)``, and 0.05 times
            that without the parameter scale.
        multiply_by_parameter_scale: steps relative to the size of what they change.
        beta1: of a momentum, in [0, 1); 0 keeps none.
        decay_exponent: above 0; see 1.
        decay_rate: b2 outright, a number or a schedule, instead of 1: see `DecayRatePow` and
            `DecayRateAdam`.
        clipping_threshold: see 4; None does not clip.
        factored: False keeps the second moment of every element.
        min_dim_size_to_factor: see 3.
        epsilon1: added to squares.
        epsilon2: the least parameter scale.
        exclude_from_parameter_scale: regular expressions; a variable whose name one of them is
            found in has ``scale = rate(t)``.
        stacked_dims: names.

    Slots: ``NAME/adafactor_vr`` (the dims without d0) and ``NAME/adafactor_vc`` (without d1), or
    ``NAME/adafactor_v``; ``NAME/adafactor_m`` with beta1.
    Source: Shazeer and Stern, 2018.
    """

    learning_rate: LearningRate | None = None
    multiply_by_parameter_scale: bool = True
    beta1: float = 0.0
    decay_exponent: float = 0.8
    decay_rate: LearningRate | None = None
    clipping_threshold: float | None = 1.0
    factored: bool = True
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    exclude_from_parameter_scale: tuple[str, ...] = ()
    stacked_dims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("learning_rate", "decay_rate"):
            if getattr(self, name) is not None:
                check_rate("Adafactor", name, getattr(self, name))
        check_fraction("Adafactor", beta1=self.beta1)
        check_at_least("Adafactor", 2, min_dim_size_to_factor=self.min_dim_size_to_factor)
        check_at_least("Adafactor", 0, epsilon1=self.epsilon1, epsilon2=self.epsilon2)
        check_above_0(
            "Adafactor",
            clipping_threshold=self.clipping_threshold,
            decay_exponent=self.decay_exponent,
        )
        names = self.exclude_from_parameter_scale
        check_patterns("Adafactor", "exclude_from_parameter_scale", names)
        if isinstance(self.stacked_dims, str):
            rows = [("given", repr(self.stacked_dims))]
            fix = f"stacked_dims=({self.stacked_dims!r},)"
            raise MeshlangError(message("Adafactor: stacked_dims takes several names.", rows, fix))

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        pair = self._factored_dims(target)
        of_value = _squares(target.value, self._stacked(target))
        direction = yield from self._factored(target, *pair) if pair else self._whole(target)
        of_direction = direction.squares()
        yield
        now = rate(self._learning_rate(), target.step)
        size = self._size(target, of_value)
        if self.clipping_threshold is not None:
            rms = ml.sqrt(of_direction * (1.0 / target.value.shape.size))
            size = size / ml.maximum(rms * (1.0 / self.clipping_threshold), 1.0)
        if self.beta1:
            m = target.slot("adafactor_m")
            new_m = self.beta1 * m + (1.0 - self.beta1) * direction.times(now * size)
            target.assign(target.value - new_m, [*direction.slots, (m, new_m)])
        else:
            step = apply(DescentUpdate(False), target.value, direction.times(size), now)
            target.assign(step[0], direction.slots)

    def _learning_rate(self) -> LearningRate:
        if self.learning_rate is not None:
            return self.learning_rate
        relative = 1.0 if self.multiply_by_parameter_scale else 0.05
        return lambda t: relative * ml.minimum(ml.rsqrt(ml.cast(t, "high") + 1.0), 0.01)

    def _stacked(self, target: Target) -> list[str]:
        """Dims of the variable along which many variables stand."""
        names = (*target.stacked, *self.stacked_dims)
        return [name for name in target.value.shape.names if name in names]

    def _factored_dims(self, target: Target) -> tuple[Dim, Dim] | None:
        """d0 and d1, or None when the second moment is kept whole."""
        stacked = self._stacked(target)
        dims = [d for d in target.value.shape if d.name not in stacked]
        dims.sort(key=lambda d: -d.size)
        if not self.factored or len(dims) < 2 or dims[1].size < self.min_dim_size_to_factor:
            return None
        return dims[0], dims[1]

    def _factored(self, target: Target, d0: Dim, d1: Dim) -> Generator[None, None, _Direction]:
        """The direction by rows and columns; two sets of sums are made on the way."""
        # Scalars go into rows and sums of rows: the gradient itself is read, and never rewritten.
        shape, square = target.value.shape, ml.square(target.gradient)
        sums = ml.sum(square, d0.name), ml.sum(square, d1.name)
        yield
        vr, new_vr = self._moment(target, "adafactor_vr", shape - d0.name, sums[0], d0.size)
        vc, new_vc = self._moment(target, "adafactor_vc", shape - d1.name, sums[1], d1.size)
        total = ml.sum(new_vr, d1.name)
        yield
        rows, columns = ml.rsqrt(new_vr / (total * (1.0 / d1.size))), ml.rsqrt(new_vc)
        if target.scale is not None:
            rows = rows * target.scale
        slots = [(vr, new_vr), (vc, new_vc)]
        return _Direction(target.gradient, (rows, columns), square, slots)

    def _whole(self, target: Target) -> Generator[None, None, _Direction]:
        """The direction by the second moment of every element."""
        gradient, shape = target.gradient, target.value.shape
        v, new_v = self._moment(target, "adafactor_v", shape, ml.square(gradient), 1)
        yield
        if target.scale is not None:
            gradient = gradient * target.scale
        return _Direction(gradient * ml.rsqrt(new_v), (), None, [(v, new_v)])

    def _moment(
        self, target: Target, kind: str, shape: Shape, squares: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """A slot and its new value, from sums of `count` squares of the unscaled gradient."""
        old = target.slot(kind, shape)
        if self.decay_rate is None:
            fresh = (ml.cast(target.step, "high") + 1.0) ** -self.decay_exponent
        else:
            fresh = 1.0 - rate(self.decay_rate, target.step)
        mean = squares * (1.0 / count) if count > 1 else squares
        if target.scale is not None:
            mean = mean * ml.square(target.scale)
        return old, old * (1.0 - fresh) + (mean + self.epsilon1) * fresh

    def _size(self, target: Target, squares: Tensor) -> Tensor:
        """The rms of a value, [stacked dims], from its sums of squares; 1 without that scale."""
        excluded = found_in(target.variable.name, self.exclude_from_parameter_scale)
        if excluded or not self.multiply_by_parameter_scale:
            return rate(1.0, target.step)
        count = target.value.shape.size // squares.shape.size
        return ml.maximum(ml.sqrt(squares * (1.0 / count)), self.epsilon2)


@dataclass(frozen=True)
class _Direction:
    """A step before it is scaled: `base` times `factors`, which have fewer dims.

    Attributes:
        base: the gradient, or the direction itself when there are no factors.
        factors: rows and columns.
        square: of the base, where it is at hand.
        slots: (old, new) of the second moments.
    """

    base: Tensor
    factors: tuple[Tensor, ...]
    square: Tensor | None
    slots: list[tuple[Tensor, Tensor]]

    def squares(self) -> Tensor:
        """The sum of the squares of the direction, without making the direction: []."""
        if self.square is None:
            return _squares(self.base)
        return ml.einsum(self.square, *map(ml.square, reversed(self.factors)), keep="")

    def times(self, scale: Tensor) -> Tensor:
        """The direction times `scale`, which is small and so goes into the smallest factor."""
        product, *rest = (self.base, *self.factors)
        if not rest:
            return product * scale
        for factor in (rest[0] * scale, *rest[1:]):
            product = product * factor
        return product


def _squares(x: Tensor, keep: Sequence[str] = ()) -> Tensor:
    """The sum of squares over all dims but `keep`."""
    return ml.einsum(x, x, keep=" ".join(keep))
