"""Translates the YAML of a model with `mlp_type: llama` to the keys of NeoX's HEAD.

From 2023-05 to 2024-09 NeoX had an MLP of its own for llama and mistral models, without biases:
w2(act(w1 x) * w3 x), `intermediate_size` wide, or as `jaxneox.config` says by default
(LLaMAParallelMLP, megatron/model/transformer.py of v2.0). HEAD expresses the same by a gated
activation whose `intermediate_size` is three times the width.
"""

from collections.abc import Mapping
from typing import Any

from jaxneox.config import Settings
from jaxneox.config.keys.model import GATED_ACTIVATIONS, PLAIN_ACTIVATIONS
from jaxneox.config.schema import MlpConfig
from jaxneox.errors import UserError

NAMES = {ours: theirs for theirs, ours in GATED_ACTIVATIONS.items()}
"""HEAD's names of gated activations, by the functions of their gates."""


def without_mlp_type(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the keys of a checkpoint whose tensors are those of `mlp_type: llama`.

    Raises:
        UserError: HEAD has no gated activation for the YAML's activation, or a key is not one that
            a YAML may have.
    """
    rest = {
        name: value for name, value in keys.items() if name not in ("mlp_type", "mlp_multiple_of")
    }
    settings = Settings(rest)
    activation, size = settings["activation"], settings["intermediate_size"]
    of_head = activation == "swiglu"  # a YAML that was translated already
    known = {name for name, function in PLAIN_ACTIVATIONS.items() if function in NAMES}
    if activation not in known and not of_head:
        raise UserError(
            f"activation: {activation} in an MLP of mlp_type llama, which no key of NeoX's HEAD "
            f"says; expected {', '.join(sorted(known | {'swiglu'}))}"
        )
    plain = "silu" if of_head else activation
    mlp = Settings(rest | {"mlp_type": "llama", "activation": plain}).model(vocab_size=1).mlp
    width = size // 3 if of_head and size is not None else mlp.size
    return rest | {
        "activation": "geglu" if plain == "gelu" else NAMES[mlp.activation],
        "intermediate_size": 3 * width,
        "use_bias_in_mlp": False,
    }


def keys_of_gated(mlp: MlpConfig) -> dict[str, Any]:
    """Return HEAD's keys of a gated MLP.

    Args:
        mlp: a gated MLP whose activation is one of `NAMES`.
    """
    return {
        "activation": NAMES[mlp.activation],
        "intermediate_size": 3 * mlp.size,
        "use_bias_in_mlp": mlp.bias,
    }
