"""Megatron-LM's tensors by megatron.core's names, as a single rank would have them.

Sources: megatron/core/transformer/{attention,mlp}.py and models/gpt/gpt_model.py. Two facts were
measured on real checkpoints: linear_qkv has `[q x group, k, v]` for each query group, and
a gated linear_fc1 starts with the rows that the activation is applied to. Tensor parallelism cuts a
SPLIT tensor along one axis into equal shares, and a gated linear_fc1 in each of its halves; a share
of linear_qkv may end inside a group. Every rank has a copy of the other tensors.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from convert.parts import Part, names_in
from convert.rules.rule import SPLIT, Role, Rule, rule
from jaxneox.config.schema import ModelConfig

WORDS, POSITIONS = "embedding.word_embeddings.weight", "embedding.position_embeddings.weight"
QKV, PROJ = "self_attention.linear_qkv", "self_attention.linear_proj"
FC1, FC2 = "mlp.linear_fc1", "mlp.linear_fc2"
FINAL, HEAD = "decoder.final_layernorm", "output_layer.weight"


@cache
def rules(model: ModelConfig, *, inside: bool) -> tuple[Rule, ...]:
    """Return the rules of each layer, or those of all tensors outside layers."""
    return _block(model) if inside else _outside(model)


def rules_in(part: Part, model: ModelConfig) -> list[Rule]:
    """Return the rules of the parameters of one part."""
    table = rules(model, inside=isinstance(part, int))
    return [rule for rule in table if names_in(part, rule.leaves, model)]


def _outside(model: ModelConfig) -> tuple[Rule, ...]:
    table = [rule(WORDS, Role.SPLIT, ("embed.tokens", "V D -> V D"))]
    if model.positions.kind == "learned":
        table.append(rule(POSITIONS, Role.COPY, ("embed.positions", "P D -> P D")))
    table += _norm(FINAL, "final_norm", model)
    if not model.tied_embedding:
        table.append(rule(HEAD, Role.SPLIT, ("unembed.weight", "V D -> D V")))
    return tuple(table)


def _block(model: ModelConfig) -> tuple[Rule, ...]:
    attention, branches = "layers.attention.", ["gate", "up"] if model.mlp.gated else ["up"]
    weights = [(f"layers.mlp.{branch}", "F D -> D F") for branch in branches]
    biases = [(f"layers.mlp.{branch}_bias", "F -> F") for branch in branches]
    table = [
        *_norm("input_layernorm", "layers.norm1", model),
        rule(f"{QKV}.weight", Role.SPLIT, (attention + "qkv", "(K R H) D -> D K R H")),
        rule(f"{PROJ}.weight", Role.SPLIT, (attention + "out", "D (K G H) -> K G H D")),
        *_norm("pre_mlp_layernorm", "layers.norm2", model),
        rule(f"{FC1}.weight", Role.SPLIT, *weights),
        rule(f"{FC2}.weight", Role.SPLIT, ("layers.mlp.down", "D F -> F D")),
    ]
    if model.attention.bias:
        table += [
            rule(f"{QKV}.bias", Role.SPLIT, (attention + "qkv_bias", "(K R H) -> K R H")),
            rule(f"{PROJ}.bias", Role.BIAS, (attention + "out_bias", "D -> D")),
        ]
    if model.mlp.bias:
        table += [
            rule(f"{FC1}.bias", Role.SPLIT, *biases),
            rule(f"{FC2}.bias", Role.BIAS, ("layers.mlp.down_bias", "D -> D")),
        ]
    return tuple(table)


def _norm(theirs: str, ours: str, model: ModelConfig) -> list[Rule]:
    table = [rule(f"{theirs}.weight", Role.NORM, (f"{ours}.scale", "D -> D"))]
    if model.norm.kind == "layernorm":
        table.append(rule(f"{theirs}.bias", Role.NORM, (f"{ours}.bias", "D -> D")))
    return table


def split_axis(rule: Rule) -> int:
    """Return the axis along which ranks share a SPLIT tensor."""
    first = rule.parts[0].sides[0].lstrip("(")[0]
    return 0 if first in SPLIT else 1


def joined(rule: Rule, shards: Sequence[np.ndarray]) -> np.ndarray:
    """Join a SPLIT tensor from its ranks' shares."""
    if len(shards) == 1:
        return shards[0]
    halves = [np.split(shard, len(rule.parts)) for shard in shards]
    axis = split_axis(rule)
    return np.concatenate([np.concatenate(part, axis) for part in zip(*halves, strict=True)])


def cut(rule: Rule, whole: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Cut a tensor into each rank's share: the inverse of `joined`."""
    axis = split_axis(rule)
    parts = [np.split(part, ranks, axis) for part in np.split(whole, len(rule.parts))]
    return [np.concatenate(own) for own in zip(*parts, strict=True)]
