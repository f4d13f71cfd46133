"""A few lines of text from a model that has just been trained.

Every token runs the whole window again: right for a glance, not for generation in earnest.
"""

import jax
import jax.numpy as jnp

from jaxneox.data import Tokenizer
from jaxneox.model import Params
from jaxneox.parallel.mesh import replicas
from jaxneox.train.run import Run


def sample(run: Run, tokenizer: Tokenizer, count: int, prompt: str, temperature: float) -> str:
    """Generate `count` tokens after `prompt` with the run's present parameters."""
    model, length = run.plan.model, run.cfg.model.seq_length
    copies = replicas(run.plan.sizes)
    ids = tokenizer.encode(prompt)[-length:]

    @jax.jit
    def next_token(
        params: Params, window_T: jax.Array, last: jax.Array, key: jax.Array
    ) -> jax.Array:
        window_BT = jnp.broadcast_to(window_T[None], (copies, length))
        window_BT = jax.reshard(window_BT, run.plan.rules.activation("batch", None))
        logits = model.logits(params, window_BT)
        logits_V = jax.reshard(logits, jax.P(None, None, None))[0, last] / temperature
        known = jnp.arange(logits_V.shape[0]) < tokenizer.rows
        return jax.random.categorical(key, jnp.where(known, logits_V, -jnp.inf))

    with jax.set_mesh(run.mesh):
        for key in jax.random.split(jax.random.key(run.cfg.train.seed), count):
            window = ids[-length:]
            padded = jnp.array(window + [0] * (length - len(window)), jnp.int32)
            ids.append(next_token(run.state.params, padded, len(window) - 1, key).item())
    return tokenizer.decode(ids)
