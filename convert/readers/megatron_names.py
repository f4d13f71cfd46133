"""One name for each tensor of Megatron-LM, whichever of its generations wrote it.

The names are those of megatron.core's local specification, without the layer's number:

    embedding.word_embeddings.weight        embedding.position_embeddings.weight
    input_layernorm.weight, .bias           pre_mlp_layernorm.weight, .bias
    self_attention.linear_qkv.weight, …     self_attention.linear_proj.weight, …
    mlp.linear_fc1.weight, …                mlp.linear_fc2.weight, …
    decoder.final_layernorm.weight, .bias   output_layer.weight

Transformer Engine keeps a norm with the matrix that reads it. Before megatron.core the state was
nested by module, whose names are here joined by dots (golden cases of 2024; the two oldest aliases
were read in the history of megatron/model/language_model.py).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LAYER = re.compile(r"(?:language_model\.(?:encoder|transformer)|decoder)\.layers\.(?:(\d+)\.)?(.+)")

INSIDE = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    "input_norm.": "input_layernorm.",
    "post_attention_norm.": "pre_mlp_layernorm.",
    "post_attention_layernorm.": "pre_mlp_layernorm.",
    "attention.query_key_value.": "self_attention.linear_qkv.",
    "attention.dense.": "self_attention.linear_proj.",
    "self_attention.query_key_value.": "self_attention.linear_qkv.",
    "self_attention.dense.": "self_attention.linear_proj.",
    "mlp.dense_h_to_4h.": "mlp.linear_fc1.",
    "mlp.dense_4h_to_h.": "mlp.linear_fc2.",
}
"""Prefixes of tensors in a layer, by other generations' names."""

OUTSIDE = {
    "language_model.embedding.": "embedding.",
    "language_model.encoder.final_norm.": "decoder.final_layernorm.",
    "language_model.encoder.final_layernorm.": "decoder.final_layernorm.",
    "language_model.transformer.final_layernorm.": "decoder.final_layernorm.",
    "language_model.output_layer.": "output_layer.",
    "word_embeddings_for_head.": "output_layer.",
    "decoder.final_norm.": "decoder.final_layernorm.",
}

NO_WEIGHTS = ("_extra_state", "rotary_pos_emb.inv_freq", "inv_freq")
"""Endings of the names of saved values that are not weights."""


class Named(NamedTuple):
    """A tensor's place in the model."""

    name: str
    layer: int | None  # None outside of the layers, and of layers that are stacked
    inside: bool  # of a layer, or of all of them


def named(key: str) -> Named:
    match = LAYER.fullmatch(key)
    if match is None:
        return Named(_renamed(key, OUTSIDE), None, False)
    return Named(_renamed(match[2], INSIDE), int(match[1]) if match[1] else None, True)


def flat(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested mappings to pairs of a dotted key and a value."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for theirs, ours in table.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
