"""Hugging Face's LlamaForCausalLM by the names on disk, with `{}` for the layer.

Mistral, Qwen2 and Qwen3 use the same names. Source: transformers 5.23,
models/{llama,mistral,qwen2,qwen3}/modeling_*.py. Query head n reads key-value head n // group, as
ours; the activation is applied to `gate_proj`.
"""

from convert.rules.hf_neox import head, split
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig

PREFIX = "model."
HEAD = "lm_head.weight"
BUFFERS = ("self_attn.rotary_emb.inv_freq",)
"""Saved by 4.x: rotary's frequencies."""

LAYER = "model.layers.{}."
BRANCHES = {"up_proj": "up", "gate_proj": "gate"}


def rules(model: ModelConfig) -> tuple[Rule, ...]:
    return rules_with(mlp(model), model)


def rules_with(feed_forward: list[Rule], model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules of a model whose layers have these in the place of Llama's MLP."""
    table = [
        split("model.embed_tokens.weight", "embed.tokens", "V D -> V D"),
        split(LAYER + "input_layernorm.weight", "layers.norm1.scale", "D -> D"),
        *attention(model),
        split(LAYER + "post_attention_layernorm.weight", "layers.norm2.scale", "D -> D"),
        *feed_forward,
        split("model.norm.weight", "final_norm.scale", "D -> D"),
    ]
    return (*table, *head(HEAD, model))


def attention(model: ModelConfig) -> list[Rule]:
    qkv, out = "layers.attention.qkv", "layers.attention.out"
    table = []
    for slot, heads in (("q", "(K G H)"), ("k", "(K O H)"), ("v", "(K O H)")):
        name, axes = f"{LAYER}self_attn.{slot}_proj", heads.strip("()")
        table.append(split(f"{name}.weight", qkv, f"{heads} D -> D {axes}", slot))
        if model.attention.bias:
            table.append(split(f"{name}.bias", f"{qkv}_bias", f"{heads} -> {axes}", slot))
    table.append(split(LAYER + "self_attn.o_proj.weight", out, "D (K G H) -> K G H D"))
    if model.attention.biased_output:
        table.append(split(LAYER + "self_attn.o_proj.bias", f"{out}_bias", "D -> D"))
    if model.attention.qk_norm_joint:
        for norm, axes in (("q_norm", "K G H"), ("k_norm", "K H")):
            ours, pattern = f"layers.attention.{norm}.scale", f"({axes}) -> {axes}"
            table.append(split(f"{LAYER}self_attn.{norm}.weight", ours, pattern))
    if model.attention.qk_norm_per_head:
        for norm in ("q_norm", "k_norm"):
            ours = f"layers.attention.{norm}.scale"
            table.append(split(f"{LAYER}self_attn.{norm}.weight", ours, "H -> H"))
    return table


def mlp(model: ModelConfig) -> list[Rule]:
    table = []
    for theirs, ours in BRANCHES.items():
        table.append(split(f"{LAYER}mlp.{theirs}.weight", f"layers.mlp.{ours}", "F D -> D F"))
        if model.mlp.bias:
            table.append(split(f"{LAYER}mlp.{theirs}.bias", f"layers.mlp.{ours}_bias", "F -> F"))
    table.append(split(LAYER + "mlp.down_proj.weight", "layers.mlp.down", "D F -> F D"))
    if model.mlp.bias:
        table.append(split(LAYER + "mlp.down_proj.bias", "layers.mlp.down_bias", "D -> D"))
    return table
