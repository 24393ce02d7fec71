"""The mesh: named axes over which processors are arranged, row-major."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from meshlang.errors import MeshError, message
from meshlang.notation import entries


@dataclass(frozen=True, slots=True)
class Mesh:
    """Processors in a grid with named axes, numbered row-major: the last axis varies fastest.

    >>> mesh = Mesh.parse("data:2 model:4")
    >>> mesh.size, mesh["model"]
    (8, 4)
    >>> mesh.coordinates(6)
    {'data': 1, 'model': 2}
    """

    axes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.axes]
        for name in names:
            if names.count(name) > 1:
                raise MeshError(
                    message(
                        f"axis {name!r} stands twice in one mesh.",
                        [("mesh", self)],
                        "name each axis once",
                    )
                )
        for name, size in self.axes:
            if size < 1:
                raise MeshError(
                    message(
                        f"axis {name!r} has size {size}.",
                        [("mesh", self)],
                        "sizes are positive; to switch an axis off, give it size 1",
                    )
                )

    @classmethod
    def parse(cls, text: "str | Mesh") -> "Mesh":
        """Read ``"data:2 model:4"``; entries may be separated by spaces, commas or semicolons."""
        if isinstance(text, Mesh):
            return text
        axes = []
        for name, value in entries(text, "mesh"):
            if not value.isdecimal():
                raise MeshError(
                    message(
                        f"the size of axis {name!r} is {value!r}, not a number.",
                        [("mesh", text)],
                        "write axis:size, e.g. 'data:2 model:4'",
                    )
                )
            axes.append((name, int(value)))
        return cls(tuple(axes))

    @property
    def names(self) -> tuple[str, ...]:
        """The axis names, outermost first."""
        return tuple(name for name, _ in self.axes)

    @property
    def size(self) -> int:
        """The number of processors."""
        return prod(size for _, size in self.axes)

    def __getitem__(self, axis: str) -> int:
        """The size of one axis."""
        return dict(self.axes)[axis]

    def ways(self, axes: tuple[str, ...]) -> int:
        """Into how many pieces these axes divide something: the product of their sizes."""
        sizes = dict(self.axes)
        return prod(sizes[a] for a in axes)

    def coordinates(self, processor: int) -> dict[str, int]:
        """Where a processor stands on each axis."""
        found = {}
        for name, size in reversed(self.axes):
            processor, found[name] = divmod(processor, size)
        return {name: found[name] for name in self.names}

    def processor(self, coordinates: dict[str, int]) -> int:
        """The number of the processor at these coordinates."""
        number = 0
        for name, size in self.axes:
            number = number * size + coordinates[name]
        return number

    def group(self, processor: int, axes: tuple[str, ...]) -> tuple[int, ...]:
        """The processors that differ from this one only along `axes`, the first axis outermost.

        >>> Mesh.parse("data:2 model:4").group(6, ("model",))
        (4, 5, 6, 7)
        >>> Mesh.parse("data:2 model:2").group(0, ("model", "data"))
        (0, 2, 1, 3)
        """
        groups = [self.coordinates(processor)]
        for axis in axes:
            groups = [{**at, axis: i} for at in groups for i in range(self[axis])]
        return tuple(self.processor(at) for at in groups)

    def block(self, processor: int, placement: Sequence[tuple[str, ...]]) -> tuple[int, ...]:
        """Which block along each dim a processor has, given the axes of each dim.

        >>> Mesh.parse("data:2 model:4").block(6, ((), ("model", "data")))
        (0, 5)
        """
        at = self.coordinates(processor)
        index = []
        for axes in placement:
            place = 0
            for axis in axes:
                place = place * self[axis] + at[axis]
            index.append(place)
        return tuple(index)

    def __str__(self) -> str:
        return " ".join(f"{name}:{size}" for name, size in self.axes)
