"""Kernels of convolution: TensorFlow's own, on what the windows of a block reach over.

Positional names: B batch, S spatial, G groups, I channels in, O channels out, K windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tensorflow as tf

from meshlang.dims import Dim, Shape
from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.kernels import Here, kernel
from meshlang.ops.convolution import Along, Conv, ConvFilters, ConvInput, Roles, roles
from meshlang.ops.span import as_tensorflow


@kernel(Conv)
def _conv(op: Conv, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, filters = step.inputs
    form = _Form.of(op.along, x, filters, step.outputs[0])
    return [form.back("y", form.conv(form.to("x", blocks[0]), form.to("filters", blocks[1])))]


@kernel(ConvInput)
def _conv_input(
    op: ConvInput, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    g, filters = step.inputs
    form = _Form.of(op.along, step.outputs[0], filters, g)
    return [form.back("x", form.to_input(form.to("y", blocks[0]), form.to("filters", blocks[1])))]


@kernel(ConvFilters)
def _conv_filters(
    op: ConvFilters, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    x, g = step.inputs
    form = _Form.of(op.along, x, step.outputs[0], g)
    return [form.back("filters", form.to_filters(form.to("x", blocks[0]), form.to("y", blocks[1])))]


@dataclass(frozen=True)
class _Form:
    """The dims of x [B S G I], filters [K I G O] and y [B S G O] in TensorFlow's order.

    One spatial dim is two of which the first has size 1.

    Attributes:
        values: x, filters and y as the plan has them; their dims in order stand in `orders`.
        padding: TensorFlow's word, if the windows' dims are whole; else it is there already.
        dtype: in which is computed; short floats are computed in float32.
    """

    values: dict[str, PlanValue]
    orders: dict[str, tuple[tuple[str, ...], ...]]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    dtype: tf.DType

    @classmethod
    def of(cls, along: Sequence[Along], x: PlanValue, filters: PlanValue, y: PlanValue) -> _Form:
        """Of the blocks of a step."""
        plain = Shape(d for d in x.shape if not d.name.endswith(".run"))
        dims = roles(along, plain, filters.shape, y.shape)
        batch, groups, inputs, outputs = (tuple(d.name for d in part) for part in _parts(dims))
        spatial, windows = tuple(a.dim for a in along), tuple(a.window for a in along)
        whole = spatial[0] in x.shape.names
        reached = tuple(f"{name}.run" for name in spatial)
        fill = 1 if len(along) == 1 else 0
        wide = "float64" if "float64" in (x.dtype, filters.dtype, y.dtype) else "float32"
        return cls(
            values={"x": x, "filters": filters, "y": y},
            orders={
                "x": (batch, *_each(spatial if whole else reached), groups, inputs),
                "filters": (*_each(windows), inputs, groups, outputs),
                "y": (batch, *_each(spatial), groups, outputs),
            },
            strides=(1,) * fill + tuple(a.span.stride for a in along),
            dilations=(1,) * fill + tuple(a.span.dilation for a in along),
            padding=as_tensorflow([a.span for a in along]) if whole else "VALID",
            dtype=tf.as_dtype(wide),
        )

    def sizes(self, what: str) -> list[int]:
        """Of the dims in TensorFlow's order, each part as one, with a spatial dim of size 1."""
        value = self.values[what]
        size = dict(zip(value.shape.names, value.block, strict=True))
        sizes = [prod(size[name] for name in part) for part in self.orders[what]]
        if len(sizes) == 4:
            sizes.insert(0 if what == "filters" else 1, 1)
        return sizes

    def to(self, what: str, block: tf.Tensor) -> tf.Tensor:
        """From a block to that order."""
        names = self.values[what].shape.names
        order = [names.index(name) for part in self.orders[what] for name in part]
        return tf.cast(tf.reshape(tf.transpose(block, order), self.sizes(what)), self.dtype)

    def back(self, what: str, x: tf.Tensor) -> tf.Tensor:
        """From that order to a block."""
        value = self.values[what]
        names = value.shape.names
        order = [names.index(name) for part in self.orders[what] for name in part]
        block = tf.reshape(x, [value.block[i] for i in order])
        return tf.cast(tf.transpose(block, np.argsort(order).tolist()), value.dtype)

    # -- in that order, groups apart ---------------------------------------------------------------

    def conv(self, x: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
        """y of x and filters."""
        if self._depthwise:
            flat = tf.squeeze(self._spread(filters), -3)
            made = tf.raw_ops.DepthwiseConv2dNative(
                input=self._flat(x), filter=flat, **self._lies()
            )
            return tf.reshape(made, self.sizes("y"))
        if self._flatly:
            run, more = tf.raw_ops.Conv2D, {"dilations": [1, *self.dilations, 1]}
        else:
            run, more, filters = tf.raw_ops.Conv3D, {}, self._spread(filters)
        pairs = zip(_apart(x), _apart(filters), strict=True)
        return _together([run(input=x, filter=f, **self._lies(), **more) for x, f in pairs])

    def to_input(self, g: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
        """x of y and filters."""
        spread = self._spread(filters)
        *outer, groups, inputs = self.sizes("x")
        if self._depthwise:
            made = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=[*outer, groups],
                filter=tf.squeeze(spread, -3),
                out_backprop=self._flat(g),
                **self._lies(),
            )
            return tf.reshape(made, self.sizes("x"))
        run = tf.raw_ops.Conv2DBackpropInput if self._flatly else tf.raw_ops.Conv3DBackpropInputV2
        pairs = zip(_apart(g), _apart(spread), strict=True)
        made = [
            run(input_sizes=[*outer, inputs], filter=f, out_backprop=g, **self._lies())
            for g, f in pairs
        ]
        return _together(made)

    def to_filters(self, x: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        """Filters of x and y."""
        *windows, inputs, groups, outputs = self.sizes("filters")
        wide = [(k - 1) * d + 1 for k, d in zip(windows, self.dilations, strict=True)]
        if self._depthwise:
            made = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=self._flat(x),
                filter_sizes=[*wide, groups, outputs],
                out_backprop=self._flat(g),
                **self._lies(),
            )
            made = tf.reshape(made, [*wide, inputs, groups, outputs])
        else:
            run = (
                tf.raw_ops.Conv2DBackpropFilter
                if self._flatly
                else tf.raw_ops.Conv3DBackpropFilterV2
            )
            sizes = [*wide, inputs, outputs]
            pairs = zip(_apart(x), _apart(g), strict=True)
            made = _together(
                [run(input=x, filter_sizes=sizes, out_backprop=g, **self._lies()) for x, g in pairs]
            )
        for i, dilation in enumerate(self.dilations):
            if dilation > 1:
                made = tf.gather(made, range(0, wide[i], dilation), axis=i)
        return made

    @property
    def _flatly(self) -> bool:
        return len(self.strides) == 2

    @property
    def _depthwise(self) -> bool:
        """TensorFlow's own one, which has one stride. Along one dim the other stride is free."""
        *_, inputs, groups, _ = self.sizes("filters")
        alike = len(set(self.strides)) == 1 or len(self.orders["x"]) == 4
        return self._flatly and inputs == 1 and groups > 1 and alike

    def _lies(self) -> dict[str, object]:
        strides = (max(self.strides),) * 2 if self._depthwise else self.strides
        return {"strides": [1, *strides, 1], "padding": self.padding}

    def _flat(self, x: tf.Tensor) -> tf.Tensor:
        """[... G C] as [... GC]."""
        return tf.reshape(x, [*x.shape[:-2], x.shape[-2] * x.shape[-1]])

    def _spread(self, filters: tf.Tensor) -> tf.Tensor:
        """Zeros between the indices of a dilated window: gradients know no dilation on CPUs."""
        for i, dilation in enumerate(self.dilations):
            if dilation == 1:
                continue
            size = filters.shape[i]
            paddings = [[0, 0] for _ in range(filters.shape.rank + 1)]
            paddings[i + 1][1] = dilation - 1
            wide = tf.pad(tf.expand_dims(filters, i + 1), paddings)
            shape = list(filters.shape)
            shape[i] = size * dilation
            wide = tf.reshape(wide, shape)
            filters = tf.gather(wide, range((size - 1) * dilation + 1), axis=i)
        return filters


def _apart(x: tf.Tensor) -> list[tf.Tensor]:
    """[... G C] as G times [... C]; of one group the same memory."""
    return [tf.squeeze(x, -2)] if x.shape[-2] == 1 else tf.unstack(x, axis=-2)


def _together(parts: list[tf.Tensor]) -> tf.Tensor:
    """The way back."""
    return tf.expand_dims(parts[0], -2) if len(parts) == 1 else tf.stack(parts, axis=-2)


def _parts(dims: Roles) -> tuple[tuple[Dim, ...], ...]:
    return dims.batch, dims.groups, dims.inputs, dims.outputs


def _each(names: Iterable[str]) -> list[tuple[str, ...]]:
    return [(name,) for name in names]
