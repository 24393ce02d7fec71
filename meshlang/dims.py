"""Named dims, their twins, and shapes.

A dim's *name* is its placement: where a tensor lies follows from its dim names, the layout and the
mesh. A *twin* is another name for the layout and the same dim for the reader.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import SupportsIndex, overload

from meshlang.errors import DimError, did_you_mean, message
from meshlang.notation import dim_words


@dataclass(frozen=True, slots=True)
class Twin:
    """Why a dim does not lie where its plain name does.

    kind     lies
    whole    nowhere: every processor has all of it
    beside   on the axes of the dim that the dim `of[0]` leaves free
    kept     where a variable with the dims `of` (labels) is kept: its own axes, then `params`
    slot     as kept, then on the axes of the table `slots`
    """

    kind: str
    of: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """What is printed behind the name."""
        return {"whole": "*", "beside": "|" + "".join(self.of[:1])}.get(self.kind, "'")


WHOLE = Twin("whole")


@dataclass(frozen=True, slots=True)
class Dim:
    """One named tensor dimension.

    >>> Dim("batch", 32)
    batch:32
    """

    name: str
    size: int
    twin: Twin | None = None

    def __post_init__(self) -> None:
        """Sizes are positive."""
        if self.size < 1:
            raise DimError(
                message(f"dim {self.name!r} has size {self.size}, which is not positive.")
            )

    @property
    def label(self) -> str:
        """The name with the mark of its twin: ``experts*``, ``experts|group``, ``d_model'``."""
        return self.name + (self.twin.mark if self.twin else "")

    def plain(self) -> "Dim":
        """The dim without its twin's mark."""
        return self if self.twin is None else Dim(self.name, self.size)

    def __repr__(self) -> str:
        return f"{self.label}:{self.size}"


class Shape(tuple[Dim, ...]):
    """Ordered dims, no name twice. The order says nothing about placement.

    >>> shape = Shape.parse("batch:2 d_model:3")
    >>> shape - "batch", shape["d_model"].size, shape.size
    ([d_model:3], 3, 6)
    """

    __slots__ = ()

    def __new__(cls, dims: Iterable[Dim] = ()) -> "Shape":
        """Check that no name stands twice, twins included."""
        self = super().__new__(cls, dims)
        names = [d.name for d in self]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise DimError(
                message(
                    f"dim {twice!r} stands twice in one shape.",
                    [("dims", "[" + " ".join(map(repr, self)) + "]")],
                    f"rename one of them: x.rename({twice}='other')",
                )
            )
        return self

    @classmethod
    def parse(cls, text: "str | Shape | Iterable[Dim]") -> "Shape":
        """Read ``"batch:16 experts*:8"``; shapes and dims pass through."""
        if isinstance(text, Shape):
            return text
        if not isinstance(text, str):
            return cls(text)
        dims = []
        for name, mark, size in dim_words(text):
            if size is None:
                raise DimError(
                    message(f"dim {name!r} needs a size here.", [("shape", text)], f"{name}:SIZE")
                )
            dims.append(Dim(name, size, twin_of(mark)))
        return cls(dims)

    @property
    def names(self) -> tuple[str, ...]:
        """The names without marks."""
        return tuple(d.name for d in self)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes, in order."""
        return tuple(d.size for d in self)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(d.size for d in self)

    def find(self, name: str) -> Dim | None:
        """The dim of this name (or label), or None."""
        return next((d for d in self if name in (d.name, d.label)), None)

    @overload
    def __getitem__(self, key: str | SupportsIndex) -> Dim: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Dim, ...]: ...

    def __getitem__(self, key: str | SupportsIndex | slice) -> Dim | tuple[Dim, ...]:
        """A dim by its name, or by its place."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        found = self.find(key)
        if found is None:
            others = did_you_mean(key, self.names, f"the dims are: {' '.join(self.names)}")
            raise DimError(message(f"no dim named {key!r}.", [("shape", self)], others))
        return found

    def place(self, name: str) -> int:
        """Which position a dim has."""
        return self.index(self[name])

    def __contains__(self, item: object) -> bool:
        if isinstance(item, str):
            return self.find(item) is not None
        return super().__contains__(item)

    def pick(self, names: str) -> tuple[Dim, ...]:
        """The dims named in a string, in its order; each once, and sizes must be right."""
        found = []
        for name, mark, size in dim_words(names):
            dim = self[name + mark]
            why = f"is named twice: {names!r}" if dim in found else f"has not size {size}"
            if dim in found or size not in (None, dim.size):
                raise DimError(
                    message(f"dim {name!r} {why}.", [("shape", self)], "give names alone")
                )
            found.append(dim)
        return tuple(found)

    def __add__(self, other) -> "Shape":  # type: ignore[override]
        """Append dims: a `Dim`, a `Shape`, or a string with sizes."""
        more = (other,) if isinstance(other, Dim) else Shape.parse(other)
        return Shape((*self, *more))

    def __sub__(self, other) -> "Shape":
        """Remove dims by name; each must be there."""
        gone = (
            {self[d.name] for d in other} if not isinstance(other, str) else set(self.pick(other))
        )
        return Shape(d for d in self if d not in gone)

    def swap(self, old: Dim, *new: Dim) -> "Shape":
        """The shape with one dim replaced by others at its place."""
        return Shape(n for d in self for n in (new if d == old else (d,)))

    def plain(self) -> "Shape":
        """The shape without the marks of twins."""
        return Shape(d.plain() for d in self)

    def __iter__(self) -> Iterator[Dim]:
        return super().__iter__()

    def __repr__(self) -> str:
        return "[" + " ".join(map(repr, self)) + "]"

    __str__ = __repr__


def twin_of(mark: str) -> Twin | None:
    """The twin behind a mark written by a user: ``*`` or ``|other``."""
    if not mark:
        return None
    if mark == "*":
        return WHOLE
    if mark == "'":
        raise DimError(
            message(
                "a kept dim cannot be written down: it belongs to a variable.",
                fix="take it from the variable's shape",
            )
        )
    return Twin("beside", (mark[1:],))


def kept(shape: Shape, kind: str = "kept", owner: tuple[str, ...] | None = None) -> Shape:
    """The dims under which a variable of this shape is kept (kind "kept") or updated ("slot")."""
    twin = Twin(kind, owner if owner is not None else tuple(d.label for d in shape))
    return Shape(replace(d, twin=twin) for d in shape)


def ordinary(shape: Shape) -> Shape:
    """The dims under which a kept value is used: those that its variable was declared with."""
    return Shape(_declared(d) for d in shape)


def _declared(dim: Dim) -> Dim:
    if dim.twin is None or dim.twin.kind not in ("kept", "slot"):
        return dim
    for label in dim.twin.of:
        name, mark = split_label(label)
        if name == dim.name:
            return Dim(dim.name, dim.size, twin_of(mark))
    return dim.plain()


def split_label(label: str) -> tuple[str, str]:
    """A label's name and mark.

    >>> split_label("experts|group"), split_label("experts*"), split_label("batch")
    (('experts', '|group'), ('experts', '*'), ('batch', ''))
    """
    ((name, mark, _),) = dim_words(label)
    return name, mark


def is_kept(shape: Shape) -> bool:
    """Whether these are dims of a variable's update rather than of a model."""
    return any(d.twin is not None and d.twin.kind in ("kept", "slot") for d in shape)


def check_twins(op: str, shapes: Iterable[Shape], shown: Iterable[Shape] = ()) -> None:
    """Refuse to mix a dim with its twin, or two sizes of one dim, in one op.

    Errors show the operands' shapes, or those of `shown` in their place.
    """
    seen: dict[str, Dim] = {}
    shapes = list(shapes)
    shown = list(shown) or shapes
    for shape in shapes:
        for dim in shape:
            other = seen.setdefault(dim.name, dim)
            if other == dim:
                continue
            rows = [(f"operand {i}", s) for i, s in enumerate(shown)]
            if other.size != dim.size:
                raise DimError(
                    message(
                        f"{op}: dim {dim.name!r} has two sizes, {other.size} and {dim.size}.",
                        rows,
                        "rename one of them, or give both the same size",
                    )
                )
            raise DimError(
                message(
                    f"{op}: dim {other.label!r} meets its twin {dim.label!r}.",
                    rows,
                    _twin_fix(other, dim),
                )
            )


def _twin_fix(one: Dim, other: Dim) -> str:
    for a, b in ((one, other), (other, one)):
        if a.twin is None and b.twin is not None and b.twin.kind == "whole":
            return f"bring one to the other: ml.whole(x, {a.name!r}) or ml.divided(x, {a.name!r})"
        if a.twin is None and b.twin is not None and b.twin.kind == "beside":
            return f"ml.divided(x, {a.name!r}), or ml.exchange with {b.twin.of[0]!r}"
    if is_kept(Shape((one,))) or is_kept(Shape((other,))):
        return "use the variable through ml.variable, or both operands under the same twin"
    return f"bring both under one twin, with ml.whole or ml.divided(x, {one.name!r})"
