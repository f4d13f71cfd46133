"""A tiny random model that speaks in bytes."""

from typing import Any

import jax.numpy as jnp

from jaxneox.config import Settings
from jaxneox.data.tokenizer import CharLevelTokenizer
from jaxneox.loading import LoadedModel
from jaxneox.loading.resting import laid_out
from jaxneox.model import Model
from jaxneox.parallel.mesh import final_sizes, make_mesh, parse_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.reference.parameters import random_params
from tests.train.runs import KEYS


def speaker(
    mesh: str = "dp=1",
    tokenizer: bool = True,
    seq_length: int = 48,
    broken: str = "",
    **changes: Any,
) -> LoadedModel:
    """`broken`: characters whose embedding is no number; `changes` are keys of the YAML."""
    keys: dict[str, Any] = {key.replace("-", "_"): value for key, value in KEYS.items()}
    keys |= {"seq_length": seq_length, "max_position_embeddings": seq_length}
    keys |= {"padded_vocab_size": 640} | changes
    own = CharLevelTokenizer()
    config = Settings(keys).resolve(dp=1, vocab_size=own.vocab_size)
    sizes = final_sizes(whole(parse_mesh(mesh)), 8)
    params = {name: jnp.asarray(w) for name, w in random_params(config.model, seed=1).items()}
    for character in broken:
        embed = params["embed.tokens"]
        params["embed.tokens"] = embed.at[own.encode(character)[0]].set(jnp.nan)
    devices, rules = make_mesh(sizes), rules_for(sizes, 0, False)
    laid = laid_out(params, Model(config.model, rules), rules, devices)
    return LoadedModel(config, laid, own if tokenizer else None, devices, rules, "float32")
