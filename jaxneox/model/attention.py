"""Causal self-attention with grouped heads, split over devices by key-value head."""
# B batch, T query length, S key length, D hidden, H head
# K key-value heads, G query heads for each of them, R = G + 2: a group's queries, key and value

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.schema import AttentionConfig, ModelConfig
from jaxneox.model.context import Context
from jaxneox.model.dropout import Noise
from jaxneox.model.kernels import Extra, mix
from jaxneox.model.layout import Layout
from jaxneox.model.lora import lora
from jaxneox.model.norms import RMSNorm, norm
from jaxneox.model.param import initializer, param, zeros
from jaxneox.model.positions import Alibi, Rotary
from jaxneox.model.product import columns_of, into, matrix, out_of
from jaxneox.model.ring import ring_attend


class Attention(nnx.Module):
    """Queries, keys and values, how they are mixed, and the output matrix; no residual."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        a = cfg.attention
        init, init_out = initializer(cfg.init.method, cfg), initializer(cfg.init.output_method, cfg)
        sizes = {"K": a.kv_heads, "R": a.group + 2, "H": a.head_dim}
        axes, D = ("kv_heads", "group", "head"), cfg.hidden_size
        self.qkv = param(rngs, ("embed", *axes), init, D=D, **sizes)
        self.qkv_bias = param(rngs, axes, zeros, **sizes) if a.bias else None
        self.qkv_lora = lora(cfg.lora, "qkv", rngs, ("embed",), axes, D=D, **sizes)
        sizes["R"] = a.group
        self.out = param(rngs, (*axes, "embed"), init_out, reads=3, **sizes, D=D)
        self.out_lora = lora(cfg.lora, "out", rngs, axes, ("embed",), **sizes, D=D)
        self.out_bias = param(rngs, ("embed",), zeros, D=D) if a.biased_output else None
        self.qk_norm = norm(cfg.norm, axes, rngs, **sizes) if a.qk_norm else None
        self.q_norm, self.k_norm = _norms_apart(cfg, rngs)
        self.cfg = a
        rotary = cfg.positions.kind == "rotary"
        self.rotary = Rotary(cfg.positions, a.head_dim) if rotary else None
        self.alibi = Alibi(a) if cfg.positions.kind == "alibi" else None
        self.rotated = self.rotary.width if self.rotary else 0

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Compute [B, T, D] without the output bias, a partial sum over the devices' heads."""
        positions, layout = context.positions, context.layout
        q, k, v = self.project(x_BTD, context.noise)
        if self.rotary is not None:
            q, k = self.rotary(q, positions.encoded), self.rotary(k, positions.encoded)
        if layout.rings is not None:
            slopes = None if self.alibi is None else jnp.asarray(self.alibi.slopes_KG)
            mixed = ring_attend(q, k, v, slopes, positions.documents, self.cfg, layout)
        else:
            k, v = whole(k, layout), whole(v, layout)
            extra = self.extra(context.score_bias, positions.documents)
            mixed = mix(q, k, v, positions.order_T, extra, context.noise, self.cfg, layout)
        return self.output(mixed, layout, context.noise)

    def extra(self, score_bias: jax.Array | None, documents_BT: jax.Array | None = None) -> Extra:
        """Collect what changes the scores besides the queries and keys."""
        return Extra(self.alibi, score_bias, documents_BT)

    def output(
        self, mixed_BTKGH: jax.Array, layout: Layout, noise: Noise | None = None
    ) -> jax.Array:
        """Compute [B, T, D] without the bias, a partial sum over the devices' heads."""
        partial = layout.partial("batch", "length", "embed", over="kv_heads")
        w_KGHD = self.out[...]
        mixed_BTX = jnp.reshape(mixed_BTKGH, (*mixed_BTKGH.shape[:2], -1))
        w_XD = matrix(w_KGHD, rows=3)
        y_BTD = out_of(mixed_BTX, w_XD, partial)
        return y_BTD if self.out_lora is None else y_BTD + self.out_lora(mixed_BTX, partial, noise)

    def project(
        self, x_BTD: jax.Array, noise: Noise | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute queries [B, T, K, G, H], keys [B, T, K, H] and values [B, T, K, H].

        With qk_norm every query head has a normalised key of its own: keys [B, T, K, G, H].
        """
        w_DKRH = self.qkv[...]
        w_DX = matrix(w_DKRH, rows=1)
        qkv_BTX = into(x_BTD, w_DX)
        if self.qkv_lora is not None:
            qkv_BTX += self.qkv_lora(x_BTD, columns_of(x_BTD, w_DX), noise)
        batch, length, _ = jax.typeof(qkv_BTX).sharding.spec
        heads = PartitionSpec(batch, length, *jax.typeof(w_DKRH).sharding.spec.partitions[1:])
        shape = (*x_BTD.shape[:2], *w_DKRH.shape[1:])
        qkv = jnp.reshape(qkv_BTX, shape, out_sharding=heads)
        if self.qkv_bias is not None:
            bias = (
                self.qkv_bias[...] * live_bias_mask(self.cfg, self.rotated).astype(qkv.dtype)[None]
            )
            qkv = qkv + bias[None, None]
        q, k, v = qkv[..., :-2, :], qkv[..., -2, :], qkv[..., -1, :]
        if self.q_norm is not None and self.k_norm is not None:
            return self.q_norm(q), self.k_norm(k), v
        if self.qk_norm is None:
            return q, k, v
        k = jnp.broadcast_to(k[:, :, :, None], q.shape)
        return self.qk_norm(q), self.qk_norm(k), v


def _norms_apart(cfg: ModelConfig, rngs: nnx.Rngs) -> tuple[nnx.Module | None, nnx.Module | None]:
    """Make norms of queries and of keys: of each head, or of all heads together, or none."""
    a = cfg.attention
    if a.qk_norm_per_head:
        axes, H = ("head",), a.head_dim
        return norm(cfg.norm, axes, rngs, H=H), norm(cfg.norm, axes, rngs, H=H)
    if a.qk_norm_joint:
        K, G, H = a.kv_heads, a.group, a.head_dim
        of_queries, of_keys = ("kv_heads", "group", "head"), ("kv_heads", "head")
        q_norm = RMSNorm(cfg.norm, of_queries, rngs, joint=True, K=K, G=G, H=H)
        return q_norm, RMSNorm(cfg.norm, of_keys, rngs, joint=True, K=K, H=H)
    return None, None


def whole(x: jax.Array, layout: Layout) -> jax.Array:
    """Gather all keys or values [B, S, K, (G,) H] of a sequence on every device with some of it."""
    return jax.reshard(x, layout.activation("batch", None, "kv_heads", *(None,) * (x.ndim - 3)))


def live_bias_mask(cfg: AttentionConfig, rotated: int) -> np.ndarray:
    """Mark the biases that the output depends on with 1, the others with 0: float32 [R, H].

    A key's bias adds the same to a query's scores for all keys, unless it is rotated by their
    positions, and the softmax cancels what all keys share. Left in, its gradient would be rounding
    error alone, which Adam scales up to the size of any other: a random walk that differs from mesh
    to mesh.
    """
    mask = np.ones((cfg.group + 2, cfg.head_dim), np.float32)
    if not (cfg.qk_norm or cfg.qk_norm_per_head or cfg.qk_norm_joint):
        mask[-2, rotated:] = 0
    return mask
