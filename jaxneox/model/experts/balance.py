"""How evenly tokens are spread over experts, and the losses that make a router spread them."""
# B batch, T length, k choices of a token, E experts

import jax
import jax.numpy as jnp

from jaxneox.model.experts.segments import one_hot


def chosen(choices_BTk: jax.Array, experts: int) -> jax.Array:
    """Count how many choices of each row are for each expert, float32 [B, E]."""
    return jnp.sum(one_hot(choices_BTk, experts), axis=(1, 2), dtype=jnp.float32)


def balance_loss(logits_BTE: jax.Array, shares_BE: jax.Array) -> jax.Array:
    """Compute the loss of each row that is least, 1, where all experts have equal shares.

    It is E times the sum over experts of the share of choices and of the mean probability (Fedus
    et al. 2021, "Switch Transformers", equation 4), taken of a row: then it adds up over rows,
    however a mesh or an accumulation cuts a batch. The probabilities are the softmax of the logits
    for every kind of router.

    Args:
        logits_BTE: the router's, float32.
        shares_BE: of a row's choices, for each expert.

    Returns:
        float32 [B].
    """
    means_BE = jnp.mean(jax.nn.softmax(logits_BTE, axis=-1), axis=1)
    return logits_BTE.shape[2] * jnp.sum(shares_BE * means_BE, axis=1)


def z_loss(logits_BTE: jax.Array) -> jax.Array:
    """Compute the mean of `log(Z)^2` over the tokens of each row, float32 [B].

    It keeps logits small (Zoph et al. 2022, "ST-MoE", equation 5).
    """
    return jnp.mean(jax.nn.logsumexp(logits_BTE, axis=-1) ** 2, axis=1)
