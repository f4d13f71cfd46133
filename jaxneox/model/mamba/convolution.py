"""The causal convolution of each channel over its last few tokens, and what follows it."""
# B batch, T length, C channels, W width of the convolution, K = W - 1

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.checkpoint, prevent_cse=False)
def convolved(
    u_BTC: jax.Array,
    weight_WC: jax.Array,
    bias_C: jax.Array | None,
    before_BKC: jax.Array | None = None,
    documents_BT: jax.Array | None = None,
) -> jax.Array:
    """Compute `silu(sum over j of weight_j u_{t-K+j} + bias)` in float32, in the type of u.

    Args:
        u_BTC: a row's channels.
        weight_WC: the last of W belongs to the present token.
        bias_C: of each channel, if there is one.
        before_BKC: what came before the row; zeros unless given.
        documents_BT: the document of each token, which sees no other; none if a row is one text.
    """
    T, W = u_BTC.shape[1], weight_WC.shape[0]
    if before_BKC is None:
        padded = jnp.pad(u_BTC, ((0, 0), (W - 1, 0), (0, 0)))
    else:
        padded = jnp.concatenate([before_BKC.astype(u_BTC.dtype), u_BTC], axis=1)
    total = jnp.float32(0)
    for j in range(W):
        term = (
            padded[:, j : j + T].astype(jnp.float32) * weight_WC[j].astype(jnp.float32)[None, None]
        )
        if documents_BT is not None and j < W - 1:
            term = jnp.where(_same(documents_BT, W - 1 - j)[..., None], term, 0.0)
        total += term
    if bias_C is not None:
        total += bias_C.astype(jnp.float32)[None, None]
    return jax.nn.silu(total).astype(u_BTC.dtype)


def last_inputs(u_BTC: jax.Array, lengths_B: jax.Array, width: int) -> jax.Array:
    """Take what the tokens after rows of these lengths see of them: [B, K, C], zeros before."""
    places_BK = lengths_B[:, None] - jnp.arange(width - 1, 0, -1)[None]
    chosen_BKT = jax.nn.one_hot(places_BK, u_BTC.shape[1], dtype=u_BTC.dtype)
    return jnp.einsum("BTC,BKT->BKC", u_BTC, chosen_BKT, precision="highest")


def _same(documents_BT: jax.Array, distance: int) -> jax.Array:
    """Tell for each token whether the one so far before it is of its document."""
    earlier = jnp.pad(documents_BT, ((0, 0), (distance, 0)), constant_values=-1)
    return earlier[:, : documents_BT.shape[1]] == documents_BT
