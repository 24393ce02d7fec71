"""What is refused, word for word."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml

optim: Any = ml.optim

CONSTRUCTORS: dict[str, tuple[Callable[[], Any], str]] = {
    "rate": (
        lambda: optim.Sgd(learning_rate="0.1"),
        "Sgd: learning_rate is neither a number nor a schedule.\n"
        "  learning_rate  '0.1', a str\n"
        "  fix: learning_rate=0.01, or learning_rate=0.01 * ml.optim.LinearWarmup(steps=100)",
    ),
    "no rate": (
        lambda: optim.AdamW(learning_rate=None),
        "AdamW: learning_rate is neither a number nor a schedule.\n"
        "  learning_rate  None, a NoneType\n"
        "  fix: learning_rate=0.01, or learning_rate=0.01 * ml.optim.LinearWarmup(steps=100)",
    ),
    "adafactor's rate": (
        lambda: optim.Adafactor(decay_rate=True),
        "Adafactor: decay_rate is neither a number nor a schedule.\n"
        "  decay_rate  True, a bool\n"
        "  fix: decay_rate=0.01, or decay_rate=0.01 * ml.optim.LinearWarmup(steps=100)",
    ),
    "decay's rate": (
        lambda: optim.AdamW(learning_rate=0.1, decay_rate="0.1"),
        "AdamW: decay_rate is neither a number nor a schedule.\n"
        "  decay_rate  '0.1', a str\n"
        "  fix: decay_rate=0.01, or decay_rate=0.01 * ml.optim.LinearWarmup(steps=100)",
    ),
    "momentum": (
        lambda: optim.Sgd(learning_rate=0.1, momentum=1.0),
        "Sgd: momentum is 1.0, and must lie in [0, 1).",
    ),
    "nesterov": (
        lambda: optim.Sgd(learning_rate=0.1, nesterov=True),
        "Sgd: nesterov looks ahead along a momentum of 0.\n  fix: momentum=0.9",
    ),
    "beta1": (
        lambda: optim.AdamW(learning_rate=0.1, beta1=-0.1),
        "AdamW: beta1 is -0.1, and must lie in [0, 1).",
    ),
    "beta2": (
        lambda: optim.AdamW(learning_rate=0.1, beta2=1.0),
        "AdamW: beta2 is 1.0, and must lie in [0, 1).",
    ),
    "epsilon": (
        lambda: optim.AdamW(learning_rate=0.1, epsilon=0.0),
        "AdamW: epsilon is 0.0, and must be above 0.",
    ),
    "weight decay": (
        lambda: optim.AdamW(learning_rate=0.1, weight_decay=-1.0),
        "AdamW: weight_decay is -1.0, and must be 0 or more.",
    ),
    "one expression": (
        lambda: optim.AdamW(learning_rate=0.1, exclude_from_weight_decay="bias"),
        "AdamW: exclude_from_weight_decay takes several expressions.\n"
        "  given  'bias'\n"
        "  fix: exclude_from_weight_decay=('bias',)",
    ),
    "no expression": (
        lambda: optim.AdamW(learning_rate=0.1, exclude_from_weight_decay=("bias(",)),
        "AdamW: an entry of exclude_from_weight_decay is no regular expression: "
        "missing ), unterminated subpattern at position 4.\n"
        "  pattern  'bias('\n"
        "  fix: put a backslash before characters that stand for themselves",
    ),
    "adafactor's beta1": (
        lambda: optim.Adafactor(beta1=1.0),
        "Adafactor: beta1 is 1.0, and must lie in [0, 1).",
    ),
    "dim size": (
        lambda: optim.Adafactor(min_dim_size_to_factor=1),
        "Adafactor: min_dim_size_to_factor is 1, and must be 2 or more.",
    ),
    "epsilon1": (
        lambda: optim.Adafactor(epsilon1=-1.0),
        "Adafactor: epsilon1 is -1.0, and must be 0 or more.",
    ),
    "threshold": (
        lambda: optim.Adafactor(clipping_threshold=0.0),
        "Adafactor: clipping_threshold is 0.0, and must be above 0.",
    ),
    "exponent": (
        lambda: optim.Adafactor(decay_exponent=0.0),
        "Adafactor: decay_exponent is 0.0, and must be above 0.",
    ),
    "one name": (
        lambda: optim.Adafactor(stacked_dims="experts"),
        "Adafactor: stacked_dims takes several names.\n"
        "  given  'experts'\n"
        "  fix: stacked_dims=('experts',)",
    ),
    "one expression of scales": (
        lambda: optim.Adafactor(exclude_from_parameter_scale="bias"),
        "Adafactor: exclude_from_parameter_scale takes several expressions.\n"
        "  given  'bias'\n"
        "  fix: exclude_from_parameter_scale=('bias',)",
    ),
    "lion": (
        lambda: optim.Lion(learning_rate=0.1, beta2=1.0),
        "Lion: beta2 is 1.0, and must lie in [0, 1).",
    ),
    "lion's decay": (
        lambda: optim.Lion(learning_rate=0.1, weight_decay=-0.5),
        "Lion: weight_decay is -0.5, and must be 0 or more.",
    ),
    "lamb": (
        lambda: optim.Lamb(learning_rate=0.1, epsilon=0),
        "Lamb: epsilon is 0, and must be above 0.",
    ),
    "lamb's norms": (
        lambda: optim.Lamb(learning_rate=0.1, least_norm=2.0, largest_norm=1.0),
        "Lamb: the largest norm lies below the least.\n  least_norm    2.0\n  largest_norm  1.0",
    ),
    "lamb's names": (
        lambda: optim.Lamb(learning_rate=0.1, exclude_from_trust=("*",)),
        "Lamb: an entry of exclude_from_trust is no regular expression: "
        "nothing to repeat at position 0.\n"
        "  pattern  '*'\n"
        "  fix: put a backslash before characters that stand for themselves",
    ),
    "clippy": (
        lambda: optim.Clippy(learning_rate=0.1, relative=-0.5),
        "Clippy: relative is -0.5, and must be 0 or more.",
    ),
    "clippy's accumulator": (
        lambda: optim.Clippy(learning_rate=0.1, clip_accumulator=True, accumulate_first=True),
        "Clippy: the accumulator cannot take clipped gradients before the clipping.\n"
        "  clip_accumulator  True\n"
        "  accumulate_first  True\n"
        "  fix: leave one of them out",
    ),
    "an average inside of what changes steps": (
        lambda: optim.RelativeClip(
            optimizer=optim.ByName(optimizer=optim.Ema(optimizer=optim.Lion(learning_rate=0.1)))
        ),
        "RelativeClip: averages are of values that were assigned, so Ema goes outside.\n"
        "  fix: ml.optim.Ema(optimizer=ml.optim.RelativeClip(optimizer=...))",
    ),
    "two averages": (
        lambda: optim.Ema(optimizer=optim.Ema(optimizer=optim.Lion(learning_rate=0.1))),
        "Ema: the optimizer keeps averages already.",
    ),
    "decay of an average": (
        lambda: optim.Ema(optimizer=optim.Lion(learning_rate=0.1), decay=1.0),
        "Ema: decay is 1.0, and must lie in [0, 1).",
    ),
    "start of an average": (
        lambda: optim.Ema(optimizer=optim.Lion(learning_rate=0.1), start=-1),
        "Ema: start is -1, and must be 0 or more.",
    ),
    "norm of a gradient": (
        lambda: optim.BlockClip(optimizer=optim.Lion(learning_rate=0.1), max_norm=0.0),
        "BlockClip: max_norm is 0.0, and must be above 0.",
    ),
    "no optimizer": (
        lambda: optim.BlockClip(optimizer=0.1),
        "BlockClip: optimizer is no optimizer.\n"
        "  optimizer  0.1, a float\n"
        "  fix: optimizer=ml.optim.AdamW(learning_rate=1e-3)",
    ),
    "no pattern": (
        lambda: optim.Rule(pattern="bias("),
        "Rule: pattern is no regular expression: missing ), unterminated subpattern at "
        "position 4.\n"
        "  pattern  'bias('\n"
        "  fix: put a backslash before characters that stand for themselves",
    ),
    "a rule for what there is not": (
        lambda: optim.ByName(
            optimizer=optim.Sgd(learning_rate=0.1),
            rules=(optim.Rule(pattern="bias", weight_decay=0.0),),
        ),
        "ByName: a rule sets weight_decay, which Sgd does not have.\n"
        "  pattern  'bias'\n"
        "  of Sgd   learning_rate momentum nesterov\n"
        "  fix: give the rule an optimizer of its own",
    ),
    "a rule for what another drives": (
        lambda: optim.ByName(
            optimizer=optim.Ema(optimizer=optim.Sgd(learning_rate=0.1)),
            rules=(optim.Rule(pattern="bias", learning_rate=0.0),),
        ),
        "ByName: a rule sets learning_rate, which Ema does not have.\n"
        "  pattern  'bias'\n"
        "  of Ema   optimizer decay start\n"
        "  fix: put ByName inside of Ema, not around it",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name: str) -> None:
    make, text = CONSTRUCTORS[name]
    with pytest.raises(ml.MeshlangError) as caught:
        make()
    assert str(caught.value) == text


def refused(fn: Callable[[ml.Tensor, ml.Tensor], Any], error: type[Exception]) -> str:
    """The error of a traced function of two variables."""

    def step() -> None:
        fn(
            ml.variable("w", "d:4 e:2", init=ml.zeros_init),
            ml.variable("b", "e:2", init=ml.zeros_init),
        )

    with pytest.raises(error) as caught:
        ml.trace(step)
    return str(caught.value)


SGD = ml.optim.Sgd(learning_rate=0.1)


def test_as_many_gradients_as_variables() -> None:
    text = refused(lambda w, b: SGD.apply([w, b], ml.gradients(ml.sum(w), [w])), ml.ProgramError)
    assert text == (
        "an optimizer takes one gradient for each variable.\n"
        "  variables  2\n"
        "  gradients  1\n"
        "  fix: optimizer.apply(variables, ml.gradients(loss, variables))"
    )


def test_gradients_in_the_order_of_the_variables() -> None:
    text = refused(
        lambda w, b: SGD.apply([w, b], ml.gradients(ml.sum(w * b), [b, w])), ml.VariableError
    )
    assert text == (
        "the gradient of variable 'w' has other dims than its update.\n"
        "  variable  [d':4 e':2]\n"
        "  gradient  [e':2]\n"
        "  fix: take it from ml.gradients(loss, variables), in the order of the variables"
    )


def test_gradients_under_the_dims_of_updates() -> None:
    text = refused(lambda w, b: SGD.apply([b], [ml.sum(w, "d")]), ml.VariableError)
    assert text == (
        "the gradient of variable 'b' has other dims than its update.\n"
        "  variable  [e':2]\n"
        "  gradient  [e:2]\n"
        "  fix: take it from ml.gradients(loss, variables), in the order of the variables"
    )


def test_only_variables() -> None:
    text = refused(lambda w, b: SGD.apply([w + b], ml.gradients(ml.sum(w), [w])), ml.VariableError)
    assert text == (
        "only a variable can be optimized.\n"
        "  given  Tensor[d:4 e:2] float32\n"
        "  fix: give ml.trainable_variables(), or what ml.variable returned"
    )


def test_only_in_a_trace() -> None:
    with pytest.raises(ml.ProgramError) as caught:
        SGD.apply([], [])
    assert str(caught.value) == (
        "ml.scope belongs to a program, and none is being traced.\n"
        "  fix: call it inside of the function given to ml.trace or ml.run"
    )
