"""Programs as text: one line for each op, bodies of loops indented. Stable, for golden files.

Values are numbered in order of appearance. A line ``# decoder/attention`` says under which scope
the lines that follow were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meshlang.structure import named_leaves

if TYPE_CHECKING:
    from meshlang.program import Node, Op, Program


#: what the branches of a cond are called
WORDS = ("if true", "if false")


class Listing:
    """Lines that name values by number; plans are written with it too."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._numbers: dict[Any, int] = {}
        self._indent = ""
        self._scope = ""

    def name(self, value: Any) -> str:
        """``%3`` for a value; a new one gets the next number."""
        return f"%{self._numbers.setdefault(value, len(self._numbers))}"

    def names(self, values: Iterable[Any]) -> str:
        """``%3, %4``."""
        return ", ".join(map(self.name, values))

    def line(self, text: str) -> None:
        """Add a line."""
        self._lines.append(self._indent + text)

    def under(self, scope: str) -> None:
        """Say the scope of what follows, where it changes."""
        if scope != self._scope:
            self.line(f"# {scope or '(no scope)'}")
            self._scope = scope

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is added inside stands further to the right."""
        before, self._indent = self._indent, self._indent + "  "
        try:
            yield
        finally:
            self._indent = before

    def begin(self, word: str, inner: Iterable[Any], outer: Iterable[Any]) -> None:
        """What a trip begins with: ``carry %4 = %3: [batch:8] float32``."""
        for mine, given in zip(inner, outer, strict=True):
            source = self.name(given)
            self.line(f"{word} {self.name(mine)} = {source}: {typed(mine)}")

    def end(self, word: str, outer: Iterable[Any], inner: Iterable[Any]) -> None:
        """What a loop gives back: ``%9 = stack %7: [layers:2 batch:8] float32``."""
        for made, mine in zip(outer, inner, strict=True):
            source = self.name(mine)
            self.line(f"{self.name(made)} = {word} {source}: {typed(made)}")

    def results(self, results: Any) -> None:
        """The last line: ``return loss=%9``."""
        named = ((path, self.name(value)) for path, value in named_leaves(results))
        words = (f"{path}={number}" if path else number for path, number in named)
        self.line(" ".join(["return", *words]))

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def typed(value: Any) -> str:
    """Dims and dtype of a tensor; a value of a plan says itself how it lies."""
    from meshlang.tensor import Tensor

    return f"{value.shape} {value.dtype}" if isinstance(value, Tensor) else str(value)


def types(values: Sequence[Any]) -> str:
    """Those of several results; equal ones once."""
    return ", ".join(dict.fromkeys(map(typed, values)))


def called(op: Op, operands: str) -> str:
    """``einsum(%0, %1) keep=batch``, or ``stored w`` where there are no operands."""
    call = f"{op.label}({operands})" if operands else op.label
    return f"{call} {op.detail}" if op.detail else call


def program_text(program: Program) -> str:
    """The whole program: inputs, one line for each op, results.

    Example:
        >>> import meshlang as ml
        >>> print(program_text(ml.trace(lambda x: ml.sum(x * 2.0, "d"), x=ml.spec("batch:4 d:8"))))
        %0 = input x: [batch:4 d:8] float32
        %1 = constant 2.0: [] float32
        %2 = multiply(%0, %1): [batch:4 d:8] float32
        %3 = sum(%2) d: [batch:4] float32
        return %3
    """
    listing = Listing()
    for name, x in program.inputs.items():
        listing.line(f"{listing.name(x)} = input {name}: {typed(x)}")
    _write(listing, program.nodes)
    listing.results(program.results)
    return str(listing)


def _write(listing: Listing, nodes: Sequence[Node]) -> None:
    for node in nodes:
        listing.under(node.scope)
        body = getattr(node.op, "body", None)
        branches = getattr(node.op, "branches", None)
        if body is not None:
            _write_loop(listing, node, body)
        elif branches is not None:
            _write_branches(listing, node, branches)
        else:
            what = called(node.op, listing.names(node.inputs))
            listing.line(f"{listing.names(node.outputs)} = {what}: {types(node.outputs)}")


def _write_loop(listing: Listing, node: Node, body: Any) -> None:
    """What each trip begins with, the ops of a trip, what comes out."""
    n, m = len(body.carry), len(body.carry) + len(body.xs)
    f = m + len(body.fixed)
    counted = f" ({listing.name(node.inputs[-1])})" if body.counted else ""
    listing.line(f"{node.op.label} {node.op.detail}{counted}")
    with listing.indented():
        if body.test is not None:
            _write_test(listing, node, body.test, f)
        listing.line(f"trip {listing.name(body.trip)}")
        listing.begin("carry", body.carry, node.inputs[:n])
        listing.begin("slice", body.xs, node.inputs[n:m])
        listing.begin("fixed", body.fixed, node.inputs[m:f])
        _write(listing, body.program.nodes)
        listing.under(node.scope)
        k = n + len(body.ys)
        s = k + len(body.sums)
        listing.end("last", node.outputs[:n], body.carry_out)
        listing.end("stack", node.outputs[n:k], body.ys)
        listing.end("sum", node.outputs[k:s], body.sums)
        for count in node.outputs[s:]:
            listing.line(f"{listing.name(count)} = trips: {typed(count)}")


def _write_test(listing: Listing, node: Node, test: Any, first: int) -> None:
    """What is computed before each trip; its fixed values are the operands from `first` on."""
    listing.line(f"while, before trip {listing.name(test.trip)}")
    with listing.indented():
        listing.begin("carry", test.carry, node.inputs[: len(test.carry)])
        listing.begin("fixed", test.fixed, node.inputs[first : first + len(test.fixed)])
        _write(listing, test.program.nodes)
        listing.under(node.scope)
        listing.line(f"holds {listing.name(test.predicate)}")


def _write_branches(listing: Listing, node: Node, branches: Any) -> None:
    listing.line(f"{node.op.label}({listing.name(node.inputs[0])})")
    first = 1
    with listing.indented():
        for word, branch in zip(WORDS, branches, strict=True):
            listing.line(word)
            last = first + len(branch.fixed)
            with listing.indented():
                listing.begin("fixed", branch.fixed, node.inputs[first:last])
                _write(listing, branch.program.nodes)
                listing.under(node.scope)
                listing.end("result", node.outputs, branch.outs)
            first = last
