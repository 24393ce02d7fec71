"""Five training steps of the whole mixture-of-experts model, dropout and jitter on.

The same losses and the same final variables, whatever the layout.
"""

import pytest

import meshlang as ml
from models.layers import Attention, RelativeBias
from models.moe import MixtureOfExperts, SwitchRouter, Top2Router
from models.transformer import Transformer
from tests.harness import Case, Laid, case, check, drawn, ints

ROWS, LENGTH, VOCAB = 8, 16, 24


def model(router: Top2Router | SwitchRouter) -> Transformer:
    return Transformer(
        vocab=VOCAB,
        layers=2,
        d_model=16,
        attention=Attention(heads=4, d_head=4, dropout=0.1),
        position=RelativeBias(),
        moe=MixtureOfExperts(
            experts=4,
            d_expert=16,
            router=router,
            group="batch length -> group token:16",
            z_loss=1e-3,
        ),
        dropout=0.2,
    )


def training(name: str, router: Top2Router | SwitchRouter) -> Case:
    transformer = model(router)
    optimizer = ml.optim.AdamW(learning_rate=1e-2, weight_decay=0.1)

    def step(tokens: ml.Tensor, targets: ml.Tensor) -> dict[str, ml.Tensor]:
        sums = transformer({"tokens": tokens, "targets": targets}, train=True)
        loss = sums.loss / sums.count + sums.auxiliary
        weights = ml.trainable_variables()
        gradients = ml.gradients(loss, weights)
        applied = ml.optim.apply_guarded(optimizer, loss, weights, gradients, max_norm=1.0)
        return {"loss": loss, "norm": applied.gradient_norm}

    shape = f"batch:{ROWS} length:{LENGTH}"
    inputs = {"tokens": ints(shape, VOCAB), "targets": ints(shape, VOCAB)}
    return case(name, step, gradients=False, **inputs)


TOP2 = training("top-2", Top2Router())
SWITCH = training("switch", SwitchRouter())

NINE = (
    Laid("data:8", "batch:data group:data"),
    Laid("model:4", "heads:model vocab:model experts:model"),
    Laid("all:4", "batch:all group:all experts:all"),
    Laid("data:2 model:4", "batch:data group:data heads:model vocab:model experts:model"),
    Laid("data:2 model:4", "batch:data group:data+model heads:model experts:model"),
    Laid("data:2 model:2", "batch:data group:data experts:data heads:model d_expert:model"),
    Laid("a:2 b:2 c:2", "batch:a group:a heads:b experts:b vocab:b d_expert:c"),
    Laid("a:2 b:2 c:2", "batch:a+b group:a+b heads:c vocab:c experts:c"),
    Laid(
        "data:2 model:2",
        "batch:data group:data heads:model vocab:model experts:model",
        params="d_model:data",
    ),
)


@pytest.mark.parametrize("laid", drawn("nine layouts", NINE, draws=3, on_devices=9))
def test_five_steps_are_the_same_under_nine_layouts(laid: Laid) -> None:
    check(TOP2, laid, steps=5)


@pytest.mark.parametrize("laid", drawn("nine layouts of switch", NINE, draws=1, on_devices=9))
def test_five_steps_with_switch_routing(laid: Laid) -> None:
    check(SWITCH, laid, steps=5)
