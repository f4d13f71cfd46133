"""Translates the YAML of a model with `mlp_type: llama` to the keys of NeoX's HEAD.

From 2023-05 to 2024-09 NeoX had an MLP of its own for llama and mistral models, without biases:
w2(act(w1 x) * w3 x), `intermediate_size` wide, or 2/3 of 4 times the hidden size, rounded up to a
multiple of 256 (LLaMAParallelMLP, megatron/model/transformer.py of v2.0). HEAD expresses the same
by a gated activation whose `intermediate_size` is three times the width.
"""

from collections.abc import Mapping
from typing import Any

from jaxneox.errors import UserError

GATED = {"silu": "swiglu", "swiglu": "swiglu", "gelu": "geglu", "relu": "reglu"}
MULTIPLE = 256


def without_mlp_type(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the keys.

    Raises:
        UserError: HEAD has no gated activation for the YAML's activation.
    """
    activation = keys.get("activation", "gelu")
    if activation not in GATED:
        raise UserError(
            f"activation: {activation} in an MLP of mlp_type llama, which no key of NeoX's HEAD "
            f"says; expected {', '.join(GATED)}"
        )
    rest = {
        name: value for name, value in keys.items() if name not in ("mlp_type", "mlp_multiple_of")
    }
    width = keys.get("intermediate_size") or default_width(int(keys["hidden_size"]))
    if activation == "swiglu":
        width = int(keys["intermediate_size"]) // 3 if keys.get("intermediate_size") else width
    return rest | {
        "activation": GATED[activation],
        "intermediate_size": 3 * int(width),
        "use_bias_in_mlp": False,
    }


def default_width(hidden: int) -> int:
    return -(-(2 * 4 * hidden // 3) // MULTIPLE) * MULTIPLE
