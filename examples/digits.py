"""The two-layer classifier of Mesh-TensorFlow's README, on handwritten digits, under four layouts.

    python examples/digits.py

The same program, the same losses; what differs is who computes what and what is sent.
"""

import numpy as np
from sklearn.datasets import load_digits

import meshlang as ml

STEPS, BATCH = 60, 256
LAYOUTS = {
    "one processor's": "",
    "data parallel": "batch:rows+cols",
    "model parallel": "hidden:rows+cols",
    "both": "batch:rows hidden:cols",
}


def loss_of(images: ml.Tensor, labels: ml.Tensor) -> ml.Tensor:
    """The mean cross entropy of a classifier with one hidden layer."""
    w1 = ml.variable("w1", "pixels:64 hidden:128", init=ml.normal_init(64**-0.5))
    w2 = ml.variable("w2", "hidden:128 classes:10", init=ml.normal_init(128**-0.5))
    hidden = ml.relu(ml.einsum(images, w1, reduce="pixels"))
    logits = ml.einsum(hidden, w2, reduce="hidden")
    return ml.mean(ml.logsumexp(logits, "classes") - ml.gather(logits, labels, dim="classes"))


def step(images: ml.Tensor, labels: ml.Tensor) -> ml.Tensor:
    """One step of gradient descent."""
    loss = loss_of(images, labels)
    weights = ml.trainable_variables()
    for weight, gradient in zip(weights, ml.gradients(loss, weights), strict=True):
        ml.assign(weight, weight - 0.5 * gradient)
    return loss


def main() -> None:
    """Train under each layout, then compare what they cost."""
    digits = load_digits()
    images, labels = (digits.data / 16.0).astype(np.float32), digits.target.astype(np.int32)
    program = ml.trace(
        step, images=ml.spec(f"batch:{BATCH} pixels:64"), labels=ml.spec(f"batch:{BATCH}", "int32")
    )
    for name, layout in LAYOUTS.items():
        train = ml.lower(ml.plan(program, mesh="rows:2 cols:2", layout=layout))
        train.initialize(seed=0)
        batches = [np.arange(i * BATCH, (i + 1) * BATCH) % len(labels) for i in range(STEPS)]
        losses = [train(images=images[rows], labels=labels[rows]) for rows in batches]
        print(f"{name:<16} loss after {STEPS} steps {losses[-1]:.5f}")
    print()
    print(ml.compare(program, "rows:2 cols:2", LAYOUTS))


if __name__ == "__main__":
    main()
