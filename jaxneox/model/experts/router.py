"""The router: which experts each token goes to, and what their outputs are multiplied by."""
# B batch, T length, D hidden, E experts, k choices of a token
# G groups of M rows that Sinkhorn balances together

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.schema import ExpertsConfig, ModelConfig
from jaxneox.model.context import Context
from jaxneox.model.dropout import uniform
from jaxneox.model.experts.segments import one_hot
from jaxneox.model.experts.sinkhorn import sinkhorn
from jaxneox.model.layout import Axes, Layout, on_devices
from jaxneox.model.param import exactly, initializer, param


class Routing(NamedTuple):
    """What the router says of each token.

    Attributes:
        experts: int32 [B, T, k].
        weights: of their outputs, float32 [B, T, k].
        logits: float32 [B, T, E].
    """

    experts: jax.Array
    weights: jax.Array
    logits: jax.Array


class Router(nnx.Module):
    """A linear layer without bias, and the choice of the k experts that it scores highest.

    `topk` weights them by the softmax of all scores. `sinkhorn` by the softmax, or by the sigmoid
    where k is 1; in training it chooses by scores that Sinkhorn's algorithm has balanced. Both are
    GPT-NeoX's (megatron/model/moe/router.py at ea7aefd8), which computes them in the dtype of its
    parameters.
    """

    def __init__(self, cfg: ModelConfig, experts: ExpertsConfig, rngs: nnx.Rngs):
        init = initializer(cfg.init.method, cfg)
        sizes = {"D": cfg.hidden_size, "E": experts.count}
        weight = param(rngs, ("embed", "choices"), init, **sizes)
        self.weight = exactly(weight) if experts.exact else weight
        self.cfg = experts

    def __call__(self, x_BTD: jax.Array, context: Context) -> Routing:
        """Choose each token's experts.

        Args:
            x_BTD: the normalised stream.
            context: what the layers share; noise makes it training.
        """
        noise = context.noise
        if noise is not None and self.cfg.jitter:
            low, high = 1 - self.cfg.jitter, 1 + self.cfg.jitter
            x_BTD = x_BTD * uniform(x_BTD, low, high, noise).astype(x_BTD.dtype)
        logits_BTE = self._logits(x_BTD)
        sigmoid = self.cfg.router == "sinkhorn" and self.cfg.top_k == 1
        score = jax.nn.sigmoid if sigmoid else jax.nn.softmax
        scores_BTE = score(logits_BTE.astype(jnp.float32))
        if not self.cfg.exact and self.cfg.router == "topk":
            scores_BTE = score(logits_BTE).astype(jnp.float32)
        ranked_BTE = scores_BTE
        if self.cfg.router == "sinkhorn" and noise is not None:
            ranked_BTE = self._balanced(logits_BTE.astype(jnp.float32))
        experts_BTk = _highest(ranked_BTE, self.cfg.top_k, context.layout)
        weights_BTk = _at(scores_BTE, experts_BTk)
        if self.cfg.normalized:
            weights_BTk = weights_BTk / jnp.sum(weights_BTk, axis=-1, keepdims=True)
        return Routing(experts_BTk, weights_BTk, logits_BTE.astype(jnp.float32))

    def _logits(self, x_BTD: jax.Array) -> jax.Array:
        """Score the experts, in float32 unless the router is to round as NeoX's does."""
        dtype = jnp.float32 if self.cfg.exact else x_BTD.dtype
        x_BTD, w_DE = x_BTD.astype(dtype), self.weight[...].astype(dtype)
        return jnp.einsum("BTD,DE->BTE", x_BTD, w_DE, precision="highest")

    def _balanced(self, logits_BTE: jax.Array) -> jax.Array:
        """Balance the scores of the rows that Sinkhorn's algorithm takes together.

        If there are several, each device computes all: the rows of a group may be on many devices,
        and the scores are few.
        """
        split = jax.typeof(logits_BTE).sharding.spec
        rows, length, _ = split
        if self.cfg.sinkhorn_rows > 1:
            rows = length = None
            logits_BTE = jax.reshard(logits_BTE, PartitionSpec(None, None, None))
        shape = (-1, self.cfg.sinkhorn_rows, *logits_BTE.shape[1:])
        spec = PartitionSpec(rows, None, length, None)
        balanced_GMTE = sinkhorn(jnp.reshape(logits_BTE, shape, out_sharding=spec))
        whole = PartitionSpec(rows, length, None)
        balanced_BTE = jnp.reshape(balanced_GMTE, logits_BTE.shape, out_sharding=whole)
        return jax.reshard(balanced_BTE, split)


def _highest(scores_BTE: jax.Array, k: int, layout: Layout) -> jax.Array:
    """Return the k experts with the highest scores, int32 [B, T, k].

    Each device ranks its own tokens: XLA would gather the scores of all for it.
    """
    tokens: Axes = ("batch", "stream", None)
    scores_BTE = jax.reshard(jax.lax.stop_gradient(scores_BTE), layout.activation(*tokens))

    def local(scores_BTE: jax.Array) -> tuple[jax.Array]:
        return (jax.lax.top_k(scores_BTE, k)[1],)

    chosen_BTk: jax.Array = on_devices(local, (tokens,), (tokens,), layout)(scores_BTE)[0]
    return chosen_BTk


def _at(scores_BTE: jax.Array, experts_BTk: jax.Array) -> jax.Array:
    """Take the scores of chosen experts."""
    chosen_BTkE = one_hot(experts_BTk, scores_BTE.shape[-1])
    return jnp.sum(jnp.where(chosen_BTkE, scores_BTE[:, :, None], 0), axis=-1)
