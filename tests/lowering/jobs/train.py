"""Four steps of a small mixture-of-experts transformer; what came out goes to a file.

Arguments: the processors of each process, and the file, which process 0 writes.
"""

import sys

import numpy as np

import meshlang as ml
from meshlang.lowering import cluster
from models.layers import Attention
from models.moe import MixtureOfExperts
from models.transformer import Transformer

devices, path = int(sys.argv[1]), sys.argv[2]
ml.start(devices=devices)
model = Transformer(
    vocab=64,
    layers=2,
    d_model=16,
    attention=Attention(heads=4, d_head=4, dropout=0.1),
    moe=MixtureOfExperts(experts=4, d_expert=32, group="batch length -> group token:32"),
)
optimizer = ml.optim.AdamW(learning_rate=1e-2)


def step(tokens, targets):
    sums = model({"tokens": tokens, "targets": targets}, train=True)
    loss = sums.loss / sums.count + sums.auxiliary
    weights = ml.trainable_variables()
    optimizer.apply(weights, ml.gradients(loss, weights))
    return {"loss": loss, "tokens": tokens}


rows = ml.spec("batch:16 length:32", "int32")
wide = ml.Precision("float64", "float64", "float64")
program = ml.trace(step, tokens=rows, targets=rows, precision=wide)
layout = "batch:data group:data heads:model vocab:model experts:model"
planned = ml.plan(program, "data:2 model:4", layout, params="d_model:data")
train = ml.lower(planned, counted=True)
train.initialize(seed=1)
losses = []
for i in range(4):
    tokens = np.random.default_rng(i).integers(0, 64, (16, 32), dtype=np.int32)
    shown = np.zeros_like(tokens)
    shown[train.needed("tokens")] = tokens[train.needed("tokens")]
    results = train(tokens=shown, targets=shown)
    losses.append(float(results["loss"]))
    np.testing.assert_array_equal(results["tokens"].numpy(), tokens)
    print(f"step {i}", flush=True)
variables = {name: train[name] for name in train.store.variables}

# Four steps sent what the plan says, on the processors of every process.
sent = {key: (ran.collectives, ran.bytes) for key, ran in train.ran().items()}
traffic = planned.cost.traffic.items()
assert sent == {key: (4 * once.collectives, 4 * once.bytes) for key, once in traffic}, sent

# A check that finds something on one processor only is raised by all processes.
checked = ml.trace(lambda x: ml.check(x, message="x"), x=ml.spec("batch:16"))
check = ml.lower(ml.plan(checked, "data:2 model:4", "batch:data"))
try:
    check(x=[0.0] * 15 + [np.inf])
except ml.CheckError as error:
    print(f"CheckError: {error}", flush=True)

if cluster.peers().index == 0:
    np.savez(path, losses=losses, **variables)
cluster.peers().barrier("the end", 60.0)
