"""The layout: which dim lies along which axes, and where a dim lies when it is a twin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshlang.dims import Dim, split_label, twin_of
from meshlang.errors import LayoutError, did_you_mean, message
from meshlang.layout.mesh import Mesh
from meshlang.notation import entries


@dataclass(frozen=True, slots=True)
class Layout:
    """A table from dim names to axes, the first axis of a dim being the outer one.

    >>> Layout.parse("batch:data+model experts?:model")["batch"]
    ('data', 'model')
    """

    table: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: names written with a question mark: no tensor need have them
    optional: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str | Layout) -> Layout:
        """Read ``"batch:data d_ff:model"``; spaces, commas or semicolons between entries."""
        if isinstance(text, Layout):
            return text
        table: dict[str, tuple[str, ...]] = {}
        optional = set()
        for word, value in entries(text, "layout"):
            name = word.rstrip("?")
            if name in table:
                raise LayoutError(
                    message(
                        f"dim {name!r} stands twice in one layout.",
                        [("layout", text)],
                        f"to divide it by several axes write {name}:first+second",
                    )
                )
            table[name] = tuple(value.split("+"))
            if word.endswith("?"):
                optional.add(name)
        return cls(tuple(table.items()), frozenset(optional))

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """The axes of a dim; none for a dim that the table does not name."""
        return dict(self.table).get(name, ())

    @property
    def names(self) -> tuple[str, ...]:
        """The dims that the table names."""
        return tuple(name for name, _ in self.table)

    def __str__(self) -> str:
        marks = {name: "?" if name in self.optional else "" for name in self.names}
        return " ".join(f"{name}{marks[name]}:{'+'.join(axes)}" for name, axes in self.table)


@dataclass(frozen=True)
class Tables:
    """A mesh with the three tables: where every dim lies.

    Attributes:
        layout: for computing.
        params: axes over which variables are kept divided besides.
        slots: axes over which gradients and optimizers' slots are divided besides.
    """

    mesh: Mesh
    layout: Layout = field(default_factory=Layout)
    params: Layout = field(default_factory=Layout)
    slots: Layout = field(default_factory=Layout)
    _known: dict[Dim, tuple[str, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        for what, table in self.named():
            for name, axes in table.table:
                for axis in axes:
                    if axis not in self.mesh.names:
                        known = f"the axes are: {_listed(self.mesh.names)}"
                        raise LayoutError(
                            message(
                                f"{what} puts {name!r} on axis {axis!r}, which the mesh lacks.",
                                [(what, table), ("mesh", self.mesh)],
                                did_you_mean(axis, self.mesh.names, known),
                            )
                        )
                if len(set(axes)) < len(axes):
                    raise LayoutError(
                        message(
                            f"{what} puts {name!r} twice on one axis.",
                            [(what, table)],
                            "name each axis of a dim once",
                        )
                    )

    def named(self) -> tuple[tuple[str, Layout], ...]:
        """The tables with the words for them."""
        return (("layout", self.layout), ("params", self.params), ("slots", self.slots))

    def __str__(self) -> str:
        """The mesh and the tables that are not empty, one a line."""
        count = f"{self.mesh.size} processor" + ("s" if self.mesh.size > 1 else "")
        lines = [f"mesh    {self.mesh}  ({count})" if self.mesh.axes else f"mesh    {count}"]
        return "\n".join([*lines, *(f"{what:<7} {t}" for what, t in self.named() if t.table)])

    def rows(self) -> list[tuple[str, object]]:
        """The tables that are not empty and the mesh, as rows of an error."""
        return [
            *((what, table) for what, table in self.named() if table.table),
            ("mesh", self.mesh),
        ]

    def axes(self, dim: Dim) -> tuple[str, ...]:
        """The axes that divide a dim: a pure function of its name, its twin, and the tables.

        Axes of size 1 divide nothing; they are left out, so that no collective uses them.
        """
        if dim not in self._known:
            self._known[dim] = tuple(a for a in self.named_axes(dim) if self.mesh[a] > 1)
        return self._known[dim]

    def named_axes(self, dim: Dim) -> tuple[str, ...]:
        """The axes that the tables name for a dim, whatever their sizes."""
        twin = dim.twin
        if twin is None:
            return self.layout[dim.name]
        if twin.kind == "whole":
            return ()
        if twin.kind == "beside":
            taken = self.layout[twin.of[0]]
            return tuple(a for a in self.layout[dim.name] if a not in taken)
        return self._kept_axes(twin.of, twin.kind)[dim.name]

    def _kept_axes(self, owner: tuple[str, ...], kind: str) -> dict[str, tuple[str, ...]]:
        """Where the dims of a variable are kept: own axes first, then those that tables add."""
        found = {}
        for label in owner:
            name, mark = split_label(label)
            found[name] = self.named_axes(Dim(name, 1, twin_of(mark)))
        for table in (self.params,) if kind == "kept" else (self.params, self.slots):
            for name in found:
                used = {a for axes in found.values() for a in axes}
                found[name] = (*found[name], *(a for a in table[name] if a not in used))
        return found

    def skipped(self, owner: tuple[str, ...]) -> list[tuple[str, str]]:
        """The (dim, axis) pairs that `params` and `slots` ask for and a variable cannot have."""
        found = self._kept_axes(owner, "slot")
        wanted = [(n, a) for t in (self.params, self.slots) for n in found for a in t[n]]
        return [(n, a) for n, a in wanted if self.mesh[a] > 1 and a not in found[n]]

    def check_used(self, names: Iterable[str]) -> None:
        """Refuse a table that names a dim which no tensor has, unless written ``name?``."""
        known = set(names)
        for what, table in self.named():
            for name in table.names:
                if name not in known and name not in table.optional:
                    raise LayoutError(
                        message(
                            f"{what} names a dim {name!r} that no tensor has.",
                            [(what, table), ("dims", _listed(sorted(known)))],
                            did_you_mean(
                                name, known, f"remove it, or write {name}?:... if it may be missing"
                            ),
                        )
                    )


def _listed(names: Iterable[str]) -> str:
    return " ".join(names)
