"""Hugging Face's GPTNeoXForCausalLM by the names on disk, with `{}` for the layer.

Source: transformers 5.23, models/gpt_neox/modeling_gpt_neox.py. In memory it calls `embed_out`
`lm_head`; on disk, and everywhere in 4.x, it does not. Each head has its own `[q|k|v]`.
"""

from convert.rules.rule import Role, Rule, rule
from jaxneox.config.schema import ModelConfig

PREFIX = "gpt_neox."
HEAD = "embed_out.weight"
REWARD = "score.weight"
"""The head of a model with one label, which is a reward model."""

BUFFERS = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
"""Saved by 4.x: the causal mask, its value, and rotary's frequencies."""

LAYER = "gpt_neox.layers.{}."


def rules(model: ModelConfig) -> tuple[Rule, ...]:
    table = [
        split("gpt_neox.embed_in.weight", "embed.tokens", "V D -> V D"),
        *norm(LAYER + "input_layernorm", "layers.norm1"),
        *attention(model),
        *norm(LAYER + "post_attention_layernorm", "layers.norm2"),
        split(LAYER + "mlp.dense_h_to_4h.weight", "layers.mlp.up", "F D -> D F"),
        split(LAYER + "mlp.dense_h_to_4h.bias", "layers.mlp.up_bias", "F -> F"),
        split(LAYER + "mlp.dense_4h_to_h.weight", "layers.mlp.down", "D F -> F D"),
        split(LAYER + "mlp.dense_4h_to_h.bias", "layers.mlp.down_bias", "D -> D"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
    ]
    return (*table, *head(HEAD, model))


def head(name: str, model: ModelConfig) -> list[Rule]:
    """Return the rule of what follows the last norm; `name` is a language model's own matrix.

    Reward models of all families have the same name there (modeling_layers.py,
    GenericForSequenceClassification), and no bias.
    """
    if model.head == "reward":
        return [split(REWARD, "reward.weight", "O D -> D O")]
    return [] if model.tied_embedding else [split(name, "unembed.weight", "V D -> D V")]


def attention(model: ModelConfig) -> list[Rule]:
    qkv, out = LAYER + "attention.query_key_value", LAYER + "attention.dense"
    table = [
        split(f"{qkv}.weight", "layers.attention.qkv", "(K R H) D -> D K R H"),
        split(f"{out}.weight", "layers.attention.out", "D (K G H) -> K G H D"),
    ]
    if model.attention.bias:
        table += [
            split(f"{qkv}.bias", "layers.attention.qkv_bias", "(K R H) -> K R H"),
            split(f"{out}.bias", "layers.attention.out_bias", "D -> D"),
        ]
    return table


def norm(theirs: str, ours: str) -> list[Rule]:
    return [
        split(f"{theirs}.weight", f"{ours}.scale", "D -> D"),
        split(f"{theirs}.bias", f"{ours}.bias", "D -> D"),
    ]


def split(theirs: str, leaf: str, pattern: str, slot: str = "") -> Rule:
    """Make a rule for one rank, which has the whole tensor whatever its role."""
    return rule(theirs, Role.SPLIT, (leaf, pattern, slot))
