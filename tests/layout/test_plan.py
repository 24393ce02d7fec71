"""Plans as people and golden files see them. A change in communication is a diff of a text here.

Look at tests/golden/plan/ with a reader's eyes when it changes.
"""

import pytest

import meshlang as ml
from meshlang.layout.report import amount, hosts_table, table
from tests.layout import programs
from tests.oracles.communication import MOE_TABLE, TRANSFORMER_LAYOUT, Transformer

MODEL = Transformer(layers=2)
LAYOUTS = {
    "one processor": "",
    "data": "batch:data+model",
    "model": "d_h:data+model",
    "both": "batch:data d_h:model",
}


def plan_of(name: str) -> ml.Plan:
    both = "batch:data d_h:model"
    return {
        "two_layers": lambda: ml.plan(programs.two_layers(), "data:4 model:2", both),
        "transformer": lambda: ml.plan(
            programs.transformer(MODEL, unroll=False), "data:2 model:4", TRANSFORMER_LAYOUT
        ),
        "transformer_zero": lambda: ml.plan(
            programs.transformer(MODEL, unroll=False),
            "data:2 model:4",
            f"{TRANSFORMER_LAYOUT} experts?:model",
            params="d_model:data d_ff:data",
        ),
        "mixture": lambda: ml.plan(
            programs.mixture(MOE_TABLE[0]),
            "data:4 model:2",
            "group:data experts:data d_expert:model",
        ),
    }[name]()


NAMES = ["two_layers", "transformer", "transformer_zero", "mixture"]


@pytest.mark.parametrize("name", NAMES)
def test_text(name: str, golden):
    golden(f"plan/{name}_text.txt", plan_of(name).text())


@pytest.mark.parametrize("name", NAMES)
def test_summary(name: str, golden):
    golden(f"plan/{name}_summary.txt", str(plan_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_text_is_stable(name: str):
    assert plan_of(name).text() == plan_of(name).text()


def test_one_processor_says_so():
    plan = ml.plan(ml.trace(lambda x: x * 2.0, x=ml.spec("d:4")))
    assert (
        str(plan)
        == """mesh    1 processor

On each processor, in one call:

no contractions

no collectives

memory: variables 0, activations at most 36 B"""
    )


def test_compare(golden):
    golden("plan/compare.txt", ml.compare(programs.two_layers(), "data:4 model:2", LAYOUTS))


def test_compare_with_a_table_for_parameters(golden):
    program = programs.transformer(MODEL, unroll=False)
    layouts = {"data": "batch:data", "both": "batch:data heads:model d_ff:model vocab:model"}
    text = ml.compare(program, "data:4 model:2", layouts, params="d_model:data")
    golden("plan/compare_zero.txt", text)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_machines(hosts: int, golden):
    golden(f"plan/machines_{hosts}.txt", hosts_table(plan_of("transformer_zero"), hosts))


def test_gathers_are_said_aloud():
    """What moves because a name is forgotten, or because an op works along a divided dim."""

    def fn(x):
        with ml.scope("attention"):
            keys = x.rename(length="memory")
        return keys, ml.unstack(x, "length")

    plan = ml.plan(ml.trace(fn, x=ml.spec("batch:2 length:8")), "a:2", "length:a")
    assert (
        str(plan).split("\n\n", 5)[-1]
        == """Gathered because the layout leaves memory whole:
  scope      from                          times  sent
  ---------  ----------------------------  -----  ----
  attention  [batch:2 length:8/a] float32      1  32 B

Gathered because unstack works on all of length:
  scope       from                          times  sent
  ----------  ----------------------------  -----  ----
  (no scope)  [batch:2 length:8/a] float32      1  32 B"""
    )


# -- pictures -------------------------------------------------------------------------------------


def pictured(shape: str, mesh: str, layout: str) -> str:
    return ml.plan(ml.trace(lambda x: x, x=ml.spec(shape)), mesh, layout).show("x")


PICTURES = {
    "whole": ("d:4", "a:2", ""),
    "scalar": ("", "a:2", ""),
    "one_dim": ("batch:8 d:4", "data:2 model:2", "batch:data"),
    "two_dims": ("d_model:8 d_ff:12", "data:2 model:3", "d_model:data d_ff:model"),
    "two_axes": ("vocab:8 d:4", "data:2 model:2", "vocab:model+data"),
    "three_dims": ("i:4 j:4 k:2", "a:2 b:2 c:2", "i:a j:b k:c"),
    "four_dims": ("i:2 j:2 k:4 l:2", "a:2 b:2 c:4 d:2", "i:a j:b k:c l:d"),
    "large": ("batch:512 d_ff:1024", "data:16 model:32", "batch:data d_ff:model"),
    "many_copies": ("batch:512 d_ff:1024", "data:4 model:32", "batch:data"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name: str, golden):
    golden(f"plan/picture_{name}.txt", pictured(*PICTURES[name]))


def test_pictures_of_variables_inputs_and_results():
    plan = plan_of("two_layers")
    assert plan.show("w").startswith("w [d_io':128 d_h':256/model] float32\n")
    assert plan.show("x").startswith("x [batch:64/data d_io:128] float32\n")
    assert plan.show("dw").startswith("dw [d_io':128 d_h':256/model] float32\n")
    with pytest.raises(ml.MeshlangError) as error:
        plan.show("dww")
    assert (
        str(error.value)
        == """the plan has no variable, input or result 'dww'.
  fix: did you mean 'dw'?"""
    )
    with pytest.raises(ml.MeshlangError) as error:
        plan.show("bias")
    assert (
        str(error.value)
        == """the plan has no variable, input or result 'bias'.
  fix: one of: dv dw dx dy v w x y"""
    )


# -- tables and amounts ---------------------------------------------------------------------------


def test_table():
    rows = [("data", 1, "12 kB"), ("model and data", 20, "0")]
    assert (
        table(("axis", "runs", "sent"), rows)
        == """axis            runs   sent
--------------  ----  -----
data               1  12 kB
model and data    20      0"""
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1, "1 B"),
        (0.75, "0.75 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.9, "1.00 kB"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (3_145_728, "3.15 MB"),
        (2.5e9, "2.50 GB"),
        (4e12, "4.00 TB"),
        (7e15, "7.00 PB"),
        (2e18, "2000 PB"),
    ],
)
def test_amount(count: float, text: str):
    assert amount(count, "B") == text
