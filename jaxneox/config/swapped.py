"""YAML files whose layers and heads are exchanged, as those of pythia-12b-deduped are."""

from collections.abc import Mapping
from typing import Any

from jaxneox.config.check import CheckedKeys


def exchanged(keys: Mapping[str, Any], num_layers: int) -> dict[str, Any] | None:
    """Return the keys of a checkpoint with `num_layers` and `num_attention_heads` exchanged.

    Args:
        keys: those of the YAML that lies beside the checkpoint.
        num_layers: the layers that its tensors have.

    Returns:
        The keys that fit the tensors, or None where the exchange does not explain the YAML: its
        number of heads must be the tensors' number of layers and must not divide the width, and its
        number of layers must divide the width.
    """
    checked = CheckedKeys(keys)
    layers, heads = checked["num_layers"], checked["num_attention_heads"]
    hidden = checked["hidden_size"]
    if None in (layers, heads, hidden) or heads != num_layers or layers == num_layers:
        return None
    if hidden % heads == 0 or hidden % layers:
        return None
    return dict(keys) | {"num_layers": heads, "num_attention_heads": layers}
