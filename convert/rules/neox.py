"""GPT-NeoX's tensors by the modules of its `to_sequential()`, as of its HEAD, ea7aefd8.

Sources: megatron/model/{transformer,word_embeddings,norms,gpt2_model,positional_embeddings}.py and
megatron/mpu/layers.py. Three facts were measured on real checkpoints: `(K R H)` is right for plain
attention, and each RANK has `[q|k|v]` for grouped heads and `[x|gate]` for a gated MLP.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from convert.rules.mamba import mixer
from convert.rules.rule import Role, Rule, rule
from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.schema import ModelConfig

EMBEDDING, FIRST_BLOCK = 0, 2  # indices in the Sequential; 1 and L + 2 hold no parameters

OLD_NAMES = {"mlp.dense_h_to_4h": "mlp.linear1", "mlp.dense_4h_to_h": "mlp.linear2"}
"""Names before 2024-09."""

HIDDEN_AXES = {
    "attention.query_key_value.weight": ("embed", "kv_heads"),
    "attention.dense.weight": ("kv_heads", "embed"),
    "mlp.linear1.weight": ("embed", "mlp"),
    "mlp.linear2.weight": ("mlp", "embed"),
}
"""What the matrices of a block read and write, by one logical axis each, as muP asks."""

LLAMA_MLP = {"mlp.w3": "up", "mlp.w1": "gate", "mlp.w2": "down"}
"""The matrices of `mlp_type: llama`, in NeoX from 2023-05 to 2024-09: w2(act(w1 x) * w3 x)."""

EXPERTS = "mlp.experts."
"""The prefix of the experts' matrices."""

REWARD = "rm_linear.weight"
"""The head of a reward model (train_impl rm), in the place of the unembedding."""

BUFFERS = ("attention.rotary_emb.inv_freq", "attention.alibi_embed.slopes")
"""Saved by some versions: computed from the configuration, and checked against it."""


def final_norm_index(layers: int) -> int:
    return layers + 3


def unembedding_index(layers: int) -> int:
    return layers + 4


@cache
def modules(model: ModelConfig, llama_mlp: bool = False) -> Mapping[int, tuple[Rule, ...]]:
    """Return the rules of every module, by its index in the Sequential.

    Args:
        model: the model's configuration.
        llama_mlp: whether the MLP is that of NeoX's `mlp_type: llama`.
    """
    L = model.num_layers
    blocks = {kind: block(model, kind, llama_mlp) for kind in dict.fromkeys(model.pattern)}
    table = {EMBEDDING: embedding(model)}
    table |= {FIRST_BLOCK + i: blocks[kind] for i, kind in enumerate(model.kinds)}
    table[final_norm_index(L)] = tuple(norm("norm", "final_norm", model))
    table[unembedding_index(L)] = unembedding(model)
    return {index: rules for index, rules in table.items() if rules}


def every(model: ModelConfig, llama_mlp: bool = False) -> list[Rule]:
    """Return the rules of all modules, each once."""
    return list(dict.fromkeys(r for rules in modules(model, llama_mlp).values() for r in rules))


def embedding(model: ModelConfig) -> tuple[Rule, ...]:
    rules = [rule("word_embeddings.weight", Role.SPLIT, ("embed.tokens", "V D -> V D"))]
    if model.positions.kind == "learned":
        rows = ("embed.positions", "P D -> P D")
        rules.append(rule("position_embeddings.weight", Role.COPY, rows))
    return tuple(rules)


def unembedding(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the unembedding's rules. NeoX has no bias there; ours may have one, from folding.

    A reward model has a row-parallel matrix instead, whose ranks read a part of the hidden state
    each, after their own copy of the final norm.
    """
    if model.head == "reward":
        weight = ("reward.weight", "O S -> S O")
        own = "final_norm" if model.norm.kind == "scalenorm" else ""
        return (rule(REWARD, Role.SPLIT, weight, norm=own),)
    rules = []
    if not model.tied_embedding:
        weight = ("unembed.weight", "V D -> D V")
        rules.append(rule("final_linear.weight", Role.SPLIT, weight, norm="final_norm"))
    if model.logit_bias:
        bias = ("unembed.bias", "V -> V")
        rules.append(rule("final_linear.bias", Role.SPLIT, bias, norm="final_norm"))
    return tuple(rules)


def block(model: ModelConfig, kind: LayerKind, llama_mlp: bool = False) -> tuple[Rule, ...]:
    """Return the rules of one layer of a kind."""
    if kind == "mamba":
        return tuple(mamba(model))
    if kind == "experts":
        feed_forward = experts(model)
    else:
        feed_forward = separate_mlp(model) if llama_mlp else mlp(model)
    rules = [
        *norm("input_layernorm", "layers.norm1", model),
        *attention(model),
        *norm("post_attention_layernorm", "layers.norm2", model),
        *feed_forward,
    ]
    if model.shared_norm:
        rules = [r for r in rules if not r.theirs.startswith("post_attention_layernorm")]
    return tuple(rules)


def mamba(model: ModelConfig) -> list[Rule]:
    """Return the rules of a mamba layer, whose ranks each have a copy of its norm.

    The copies start equal and have the same gradients, which are sums over all ranks.
    """
    assert model.mamba is not None
    copies = [replace(one, role=Role.COPY) for one in norm("norm", "layers.norm1", model)]
    return [*copies, *mixer(model.mamba)]


def norm(theirs: str, ours: str, model: ModelConfig) -> list[Rule]:
    names = {
        "layernorm": ({"weight": "scale", "bias": "bias"}, "D -> D"),
        "rmsnorm": ({"scale": "scale"}, "D -> D"),
        "scalenorm": ({"g": "g"}, "O -> O"),
        "non_parametric_layernorm": ({}, ""),
    }
    pairs, pattern = names[model.norm.kind]
    return [rule(f"{theirs}.{t}", Role.NORM, (f"{ours}.{o}", pattern)) for t, o in pairs.items()]


def attention(model: ModelConfig) -> list[Rule]:
    qkv, out = "attention.query_key_value", "attention.dense"
    weight, bias = "layers.attention.qkv", "layers.attention.qkv_bias"
    if model.attention.group == 1:
        stacked = [("(K R H) D -> D K R H", "(K R H) -> K R H", "")]
    else:
        stacked = [
            ("(K G H) D -> D K G H", "(K G H) -> K G H", "q"),
            ("(K O H) D -> D K O H", "(K O H) -> K O H", "k"),
            ("(K O H) D -> D K O H", "(K O H) -> K O H", "v"),
        ]
    weights = [(weight, pattern, slot) for pattern, _, slot in stacked]
    biases = [(bias, pattern, slot) for _, pattern, slot in stacked]
    back = ("layers.attention.out", "D (K G H) -> K G H D")
    rules = [
        rule(f"{qkv}.weight", Role.SPLIT, *weights, norm="layers.norm1"),
        rule(f"{out}.weight", Role.SPLIT, back),
    ]
    if model.attention.bias:
        rules += [
            rule(f"{qkv}.bias", Role.SPLIT, *biases, norm="layers.norm1"),
        ]
    if model.attention.biased_output:
        own = ("layers.attention.out_bias", "D -> D")
        rules.append(rule(f"{out}.bias", Role.BIAS, own))
    return rules + _qk_norm(model)


def _qk_norm(model: ModelConfig) -> list[Rule]:
    if not model.attention.qk_norm:
        return []
    if model.norm.kind == "scalenorm":
        own = ("layers.attention.qk_norm.g", "O -> O")
        return [rule("attention.qk_layernorm.g", Role.COPY, own)]
    theirs = {"layernorm": {"weight": "scale", "bias": "bias"}, "rmsnorm": {"scale": "scale"}}
    ours, pattern = "layers.attention.qk_norm", "(K G) H -> K G H"
    return [
        rule(f"attention.qk_layernorm.{t}", Role.SPLIT, (f"{ours}.{o}", pattern))
        for t, o in theirs.get(model.norm.kind, {}).items()
    ]


def shared(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules of what all blocks share; it is saved with each of them."""
    if model.positions.kind != "rpe":
        return ()
    return (rule("attention.rpe.weight", Role.SPLIT, ("embed.rpe", "B (K G) -> B K G")),)


def mlp(model: ModelConfig) -> list[Rule]:
    feeds = norm_of_mlp(model)
    branches = ["up", "gate"] if model.mlp.gated else ["up"]
    weights = [(f"layers.mlp.{branch}", "F D -> D F") for branch in branches]
    biases = [(f"layers.mlp.{branch}_bias", "F -> F") for branch in branches]
    rules = [
        rule("mlp.linear1.weight", Role.SPLIT, *weights, norm=feeds),
        rule("mlp.linear2.weight", Role.SPLIT, ("layers.mlp.down", "D F -> F D")),
    ]
    if model.mlp.bias:
        rules += [
            rule("mlp.linear1.bias", Role.SPLIT, *biases, norm=feeds),
            rule("mlp.linear2.bias", Role.BIAS, ("layers.mlp.down_bias", "D -> D")),
        ]
    return rules


def experts(model: ModelConfig) -> list[Rule]:
    """Return the rules of a mixture; each rank has some of the experts, one after the other.

    Both of an expert's matrices are stored [width, hidden] (megatron/model/moe_mlp.py).
    """
    ours, feeds = "layers.experts", norm_of_mlp(model)
    into, out = (f"{ours}.up", "(E X) D -> E D X"), (f"{ours}.down", "(E X) D -> E X D")
    return [
        rule("mlp.router.layer.weight", Role.ROUTER, (f"{ours}.router.weight", "U D -> D U")),
        rule("mlp.experts.mlp.w1", Role.SPLIT, into, norm=feeds),
        rule("mlp.experts.mlp.w2", Role.SPLIT, out),
    ]


def separate_mlp(model: ModelConfig) -> list[Rule]:
    """Return the rules of three separate matrices, with biases that only folded norms may need."""
    rules = []
    for theirs, ours in LLAMA_MLP.items():
        inner, leaf = ours != "down", f"layers.mlp.{ours}"
        pattern, norm = ("F D -> D F", norm_of_mlp(model)) if inner else ("D F -> F D", "")
        rules.append(rule(f"{theirs}.weight", Role.SPLIT, (leaf, pattern), norm=norm))
        if model.mlp.bias:
            role, pattern = (Role.SPLIT, "F -> F") if inner else (Role.BIAS, "D -> D")
            rules.append(rule(f"{theirs}.bias", role, (f"{leaf}_bias", pattern), norm=norm))
    return rules


def norm_of_mlp(model: ModelConfig) -> str:
    return "layers.norm1" if model.shared_norm else "layers.norm2"
