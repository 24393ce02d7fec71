"""The measured model in plain TensorFlow on one device, as its author would write it by hand.

As a program it is a contestant for `benchmarks.timing`: ``python -m benchmarks.reference``.

Names of tensors end in their dims: b batch, l length, m length once more (of keys), d d_model,
h heads, k d_head, f d_ff or d_expert, v vocab; the others as in `benchmarks.moe_formulations`.
"""

import argparse
import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from benchmarks.moe_formulations import FORMULATIONS, top_2
from benchmarks.sizes import COMPUTE_DTYPES, Sizes, batch, initial_weights
from benchmarks.timing import serve

NORM_EPSILON = 1e-6


class Reference:
    """A model with its optimizer, on the device where it is made.

    Attributes:
        sizes: The model's sizes.
        variables: float32, with the names and dims of `benchmarks.sizes.weights_of`.

    >>> sizes = Sizes(batch=2, length=4, vocab=7, layers=2, d_model=6, heads=2, d_head=3, d_ff=5,
    ...               experts=4, d_expert=5, group_size=4)
    >>> model = Reference(sizes, initial_weights(sizes, seed=0), formulation="gather")
    >>> losses = [float(model.step(**batch(sizes, seed=1))) for _ in range(5)]
    >>> losses[4] < losses[0]
    True
    """

    def __init__(self, sizes: Sizes, weights: Mapping[str, np.ndarray], *, formulation: str):
        """Makes the variables.

        Args:
            sizes: The model's sizes.
            weights: Initial values, as `benchmarks.sizes.initial_weights` draws them.
            formulation: How tokens travel to experts: a name in
                `benchmarks.moe_formulations.FORMULATIONS`.
        """
        self.sizes = sizes
        self.variables = {name: tf.Variable(value) for name, value in weights.items()}
        self._formulation = formulation
        self._means = {name: tf.Variable(tf.zeros_like(value)) for name, value in weights.items()}
        self._squares = {name: tf.Variable(tf.zeros_like(value)) for name, value in weights.items()}
        self._steps = tf.Variable(0, dtype=tf.int64)
        ids = tf.TensorSpec([sizes.batch, sizes.length], tf.int32)
        self.step = tf.function(self._step, input_signature=[ids, ids], autograph=False)

    def loss(self, tokens: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Computes the mean cross-entropy in nats, plus the weighted balance losses.

        Args:
            tokens: int32 [batch length].
            targets: int32 [batch length].

        Returns:
            A float32 scalar.
        """
        weights = {name: variable.read_value() for name, variable in self.variables.items()}
        return _loss(weights, tokens, targets, self.sizes, self._formulation)

    def gradients(self, tokens: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Computes `loss` and its gradient for each of ``variables``, dense, in their order."""
        with tf.GradientTape() as tape:
            loss = self.loss(tokens, targets)
        gradients = tape.gradient(loss, list(self.variables.values()))
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _step(self, tokens: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Takes one step of Adam; returns the loss before it."""
        loss, gradients = self.gradients(tokens, targets)
        steps = tf.cast(self._steps.assign_add(1), tf.float32)
        for (name, variable), gradient in zip(self.variables.items(), gradients, strict=True):
            # The fused kernel takes a third of the time of the same arithmetic op by op.
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._means[name].handle,
                v=self._squares[name].handle,
                beta1_power=self.sizes.beta1**steps,
                beta2_power=self.sizes.beta2**steps,
                lr=self.sizes.learning_rate,
                beta1=self.sizes.beta1,
                beta2=self.sizes.beta2,
                epsilon=self.sizes.epsilon,
                grad=gradient,
            )
        return loss


def _loss(
    weights: Mapping[str, tf.Tensor],
    tokens_bl: tf.Tensor,
    targets_bl: tf.Tensor,
    sizes: Sizes,
    formulation: str,
) -> tf.Tensor:
    x_bld = tf.cast(tf.gather(weights["embedding"], tokens_bl), sizes.compute)
    balance = tf.constant(0.0)
    for layer in range(sizes.layers):
        own = {
            name.removeprefix(f"layer_{layer}/"): weight
            for name, weight in weights.items()
            if name.startswith(f"layer_{layer}/")
        }
        x_bld += _attention(_norm(x_bld, own["attention_norm"]), own)
        y_bld = _norm(x_bld, own["feed_forward_norm"])
        if sizes.is_mixture(layer):
            y_bld, layer_balance = _mixture(y_bld, own, sizes, formulation)
            balance += layer_balance
        else:
            y_bld = _feed_forward(y_bld, own)
        x_bld += y_bld
    x_bld = _norm(x_bld, weights["final_norm"])
    logits_blv = tf.einsum("bld,dv->blv", x_bld, tf.cast(weights["logits"], x_bld.dtype))
    losses_bl = tf.nn.sparse_softmax_cross_entropy_with_logits(
        targets_bl, tf.cast(logits_blv, tf.float32)
    )
    return tf.reduce_mean(losses_bl) + sizes.balance_weight * balance


def _norm(x_bld: tf.Tensor, scale_d: tf.Tensor) -> tf.Tensor:
    """Divides by the root of the mean square, computed in float32 whatever the activations are."""
    wide = tf.cast(x_bld, tf.float32)
    mean_square = tf.reduce_mean(tf.square(wide), -1, keepdims=True)
    return tf.cast(wide * tf.math.rsqrt(mean_square + NORM_EPSILON) * scale_d, x_bld.dtype)


def _attention(x_bld: tf.Tensor, weights: Mapping[str, tf.Tensor]) -> tf.Tensor:
    query, key, value, output = [
        tf.cast(weights[name], x_bld.dtype) for name in ("query", "key", "value", "output")
    ]
    length, d_head = x_bld.shape[1], query.shape[-1]
    query_bhlk = tf.einsum("bld,dhk->bhlk", x_bld, query / math.sqrt(d_head))
    key_bhmk = tf.einsum("bmd,dhk->bhmk", x_bld, key)
    value_bhmk = tf.einsum("bmd,dhk->bhmk", x_bld, value)
    scores_bhlm = tf.einsum("bhlk,bhmk->bhlm", query_bhlk, key_bhmk)
    past_lm = np.tril(np.ones([length, length], bool))
    # Added rather than selected: `where` would need a second pass in the gradient.
    hidden_lm = tf.constant(np.where(past_lm, 0.0, -1e9), tf.float32)
    probs_bhlm = tf.nn.softmax(tf.cast(scores_bhlm, tf.float32) + hidden_lm)
    context_bhlk = tf.einsum("bhlm,bhmk->bhlk", tf.cast(probs_bhlm, x_bld.dtype), value_bhmk)
    return tf.einsum("bhlk,hkd->bld", context_bhlk, output)


def _feed_forward(x_bld: tf.Tensor, weights: Mapping[str, tf.Tensor]) -> tf.Tensor:
    hidden_blf = tf.einsum("bld,df->blf", x_bld, tf.cast(weights["wi"], x_bld.dtype))
    return tf.einsum("blf,fd->bld", tf.nn.relu(hidden_blf), tf.cast(weights["wo"], x_bld.dtype))


def _mixture(
    x_bld: tf.Tensor, weights: Mapping[str, tf.Tensor], sizes: Sizes, formulation: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the experts' gated answers and the balance loss."""
    x_gsd = tf.reshape(x_bld, [sizes.groups, sizes.group_size, sizes.d_model])
    # Near a tie the rounding of bfloat16 would send tokens elsewhere, so routers are float32.
    scores_gse = tf.einsum("gsd,de->gse", tf.cast(x_gsd, tf.float32), weights["router"])
    route, balance = top_2(tf.nn.softmax(scores_gse), sizes)
    wi, wo = [tf.cast(weights[name], x_bld.dtype) for name in ("expert_wi", "expert_wo")]

    def experts(inputs_egcd: tf.Tensor) -> tf.Tensor:
        hidden_egcf = tf.nn.relu(tf.einsum("egcd,edf->egcf", inputs_egcd, wi))
        return tf.einsum("egcf,efd->egcd", hidden_egcf, wo)

    answers_gsd = FORMULATIONS[formulation](x_gsd, route, experts)
    return tf.reshape(answers_gsd, x_bld.shape), balance


def traced(model: Reference) -> Reference:
    """The model, its step traced."""
    model.step.get_concrete_function()
    return model


def filled(model: Reference) -> Callable[[], float]:
    """A function that takes one training step and returns the loss before it."""
    arrays = {name: tf.constant(array) for name, array in batch(model.sizes, seed=0).items()}
    return lambda: float(model.step(**arrays))


def main() -> None:
    """Serves training steps of the reference model to `benchmarks.timing`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--formulation", choices=list(FORMULATIONS), default="one_hot")
    parser.add_argument("--compute", choices=COMPUTE_DTYPES, default="float32")
    flags = parser.parse_args()
    sizes = Sizes(compute=flags.compute)
    weights = initial_weights(sizes, seed=0)
    serve(lambda: traced(Reference(sizes, weights, formulation=flags.formulation)), filled)


if __name__ == "__main__":
    main()
