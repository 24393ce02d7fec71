import numpy as np, pytest
import meshlang as ml
from tests.harness import *
def net(x):
    w = ml.variable("w", "d:16 f:24", init=ml.normal_init(0.3))
    return {"h": ml.relu(ml.einsum(x, w, reduce="d"))}
CASES = (
    case("add", ml.add, np.add, x="batch:8 d:16", y="d:16"),
    case("log", ml.log, np.log, x=floats("batch:8 d:16", low=0.5, high=2.0)),
    case("net", net, x="batch:8 d:16"),
    case("softmax", lambda x: ml.softmax(x,"d"), x="batch:8 d:16"),
)
def train(x):
    w = ml.variable("w", "d:16 f:24", init=ml.normal_init(0.3))
    loss = ml.mean(ml.square(ml.einsum(x, w, reduce="d")))
    (v,) = ml.trainable_variables()
    (g,) = ml.gradients(loss, [v])
    m = ml.variable("m", g.shape, init=0.0)
    m2 = m*0.9+g
    ml.assign(m, m2); ml.assign(v, v-0.1*m2)
    return loss
TRAIN = case("train", train, gradients=False, x="batch:8 d:16")
def test_values(): check_values(CASES[:2])
def test_slopes(): check_slopes(CASES)
@pytest.mark.parametrize("laid", drawn("t", layouts("batch d f")))
def test_layouts(laid): check(CASES, laid)
@pytest.mark.parametrize("laid", [Laid("r:2 c:2","batch:r d:c",b,params="f:r", slots="d:r") for b in BACKENDS]+[Laid("r:2 c:2","batch:r f:c",b, slots="d:r") for b in BACKENDS])
def test_steps(laid): check(TRAIN, laid, steps=5)
