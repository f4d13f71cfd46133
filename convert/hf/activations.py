"""The MLPs' activations, by transformers' names and by NeoX's keys."""

from typing import Any

from jaxneox.config.layer_schema import Activation

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "linear": "identity",
}
"""Our activations by transformers' names (activations.py); the first name of each is written."""

PLAIN: dict[Activation, dict[str, Any]] = {
    "gelu": {"activation": "gelu", "bias_gelu_fusion": False},
    "gelu_tanh": {"activation": "gelu", "bias_gelu_fusion": True},
    "relu": {"activation": "relu"},
    "silu": {"activation": "silu"},
    "mish": {"activation": "mish"},
}
GATED: dict[Activation, dict[str, Any]] = {
    "gelu": {"activation": "geglu"},
    "relu": {"activation": "reglu"},
    "silu": {"activation": "swiglu"},
    "sigmoid": {"activation": "glu"},
    "identity": {"activation": "bilinear"},
}
"""NeoX's keys of gated MLPs. NeoX has no name for an activation that is in neither table."""
