"""Hugging Face's GPT2LMHeadModel by the names on disk, with `{}` for the layer.

Source: transformers 5.23, models/gpt2/modeling_gpt2.py. Its matrices are `Conv1D`s, [in, out]; all
queries come first, then all keys, then all values.
"""

from convert.rules.hf_neox import head, norm, split
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig

PREFIX = "transformer."
HEAD = "lm_head.weight"
BUFFERS = ("attn.bias", "attn.masked_bias")
"""Saved by 4.x: the causal mask and its value."""

LAYER = "transformer.h.{}."


def rules(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules, with all biases: models without some of them have another architecture."""
    attention = "layers.attention."
    table = [
        split("transformer.wte.weight", "embed.tokens", "V D -> V D"),
        split("transformer.wpe.weight", "embed.positions", "P D -> P D"),
        *norm(LAYER + "ln_1", "layers.norm1"),
        split(LAYER + "attn.c_attn.weight", attention + "qkv", "D (R K H) -> D K R H"),
        split(LAYER + "attn.c_attn.bias", attention + "qkv_bias", "(R K H) -> K R H"),
        split(LAYER + "attn.c_proj.weight", attention + "out", "(K G H) D -> K G H D"),
        split(LAYER + "attn.c_proj.bias", attention + "out_bias", "D -> D"),
        *norm(LAYER + "ln_2", "layers.norm2"),
        split(LAYER + "mlp.c_fc.weight", "layers.mlp.up", "D F -> D F"),
        split(LAYER + "mlp.c_fc.bias", "layers.mlp.up_bias", "F -> F"),
        split(LAYER + "mlp.c_proj.weight", "layers.mlp.down", "F D -> F D"),
        split(LAYER + "mlp.c_proj.bias", "layers.mlp.down_bias", "D -> D"),
        *norm("transformer.ln_f", "final_norm"),
    ]
    return (*table, *head(HEAD, model))
