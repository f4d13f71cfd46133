"""Choice of the Hugging Face architecture that has a model's function, with reasons against others.

The question is put to config.json itself: its content, read back as by `convert.from_hf`, must
equal the model in every field that affects the function. A field that ModelConfig gains is one of
them unless it is listed here.
"""

import json
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

from convert.hf.config import config_of, keys_of
from convert.hf.families import FAMILIES
from convert.hf.family import Family
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig, RopeScaling
from jaxneox.errors import UserError

INDIFFERENT = {
    "seq_length",
    *("init.method", "init.output_method", "init.std", "init.scale", "init.widths"),
    *("init.widths.hidden", "init.widths.attention", "init.widths.mlp", "init.widths.as_neox"),
    *("hidden_dropout", "attention.dropout"),
    *("attention.softmax_fp32", "attention.kernel"),  # how it is computed
    *("experts.exact", "mamba.selective_fp32"),
    *("experts.jitter", "experts.balance_loss", "experts.z_loss", "experts.capacity_factor"),
    "experts.sinkhorn_rows",
}
"""Fields that affect training but not the trained function."""

POSITION_FIELDS = {
    "rotary": {"rotary_fraction", "rotary_base"}
    | {f"scaling.{field.name}" for field in fields(RopeScaling)},
    "learned": {"max_positions", "offset"},
    "rpe": {"rpe_buckets", "rpe_max_distance"},
}
"""The fields that each kind of positions reads; no other kind looks at them. The kind itself is
compared first, then all other fields, and then these for models of that kind."""

MULTIPLIED = (
    "its activations are multiplied by constants (use_mup): `jaxneox convert fold-mup` puts them "
    "into the weights"
)
WITHOUT_ATTENTION = ("attention.", "mlp.", "parallel_residual", "shared_norm", "attention_dropped")
"""The beginnings of fields that models whose layers are all of kind mamba do not look at."""

REASONS = {
    "pattern": "its layers are {ours}, there {theirs}",
    "mamba.groups": "its mamba layers have {ours} groups of channels (mamba_groups), there "
    "{theirs}",
    "mamba.bias": "its mamba layers have {ours:biases|no biases} (mamba_use_bias_in_linears)",
    "positions.kind": "its positions are {ours}, there {theirs}",
    "positions.offset": "its learned positions begin at row {ours} (opt_pos_emb_offset)",
    "shared_norm": "one norm feeds both branches (gpt_j_tied): --copy-shared-norm writes it twice, "
    "which is exactly the same function",
    "logit_bias": "its logits have a bias, left by folding the final norm's drift: convert the "
    "source again with `jaxneox convert from-neox SRC DST --norms mean`, which leaves none, at "
    "the cost that its certificate states",
    "attention_dropped": "its attention has no effect (attention_dropped)",
    "parallel_residual": "its residual is {ours:parallel|sequential}, there {theirs:parallel|"
    "sequential}",
    "attention.qk_norm": "queries and keys are normalised (use_qk_layernorm)",
    "attention.window": "a token sees {ours} before it (sliding_window_width), and there all",
    "attention.kv_heads": "it has {ours} key-value heads, there {theirs} (one per head)",
    "attention.qk_norm_per_head": "its attention has {ours:norms|no norms} of each head's queries "
    "and keys (qk_norm_per_head)",
    "attention.qk_norm_joint": "its attention has {ours:norms|no norms} of all heads' queries and "
    "keys together (qk_norm_joint)",
    "attention.output_bias": "its attention's output has {ours:a bias|no bias} beside those of "
    "queries, keys and values (attention_output_bias)",
    "attention.head_dim": "its heads are {ours} wide, there {theirs} (hidden_size / heads)",
    "attention.bias": "its attention has {ours:biases|no biases}",
    "mlp.gated": "its MLP is {ours:gated|not gated}",
    "mlp.bias": "its MLP has {ours:biases|no biases}",
    "mlp.activation": "its MLP's activation is {ours}, there {theirs}",
    "head": "its head gives {ours}, there {theirs}",
    "lora": "LoRA's matrices stand beside its own: `jaxneox convert merge-adapter` makes one model "
    "of both",
    "experts.router": "its experts are chosen by {ours}, there by {theirs}",
    "experts.gated": "its experts are {ours:gated|not gated}",
    "experts.normalized": "a token's weights of its experts are {ours:divided|not divided} by "
    "their sum (moe_norm_topk_prob)",
    "experts.shared": "it has {ours} shared experts, there {theirs}",
    "experts.residual_quirk": "layers with experts drop the attention (moe_attention_dropped)",
    "attention.scale": MULTIPLIED,
    "multipliers.embedding": MULTIPLIED,
    "multipliers.positions": MULTIPLIED,
    "multipliers.output": MULTIPLIED,
    "norm.kind": "its norms are {ours}, there {theirs}",
    "norm.bias": "its norms have {ours:a bias|no bias}",
}


class FormatArgument:
    """A format argument: `{x:this|that}` is `this` if x is true; a tuple is a list of words."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __format__(self, spec: str) -> str:
        this, _, that = spec.partition("|")
        if isinstance(self.value, tuple):
            return " and ".join(map(str, self.value))
        return (this if self.value else that) if spec else str(self.value)


def choose(model: ModelConfig, preferred: str | None = None) -> Family:
    """Choose the architecture that has exactly the model's function.

    Args:
        model: the model that is to be written.
        preferred: the architecture that a converted model came from, which is taken if it is one of
            those that have the function; by default the first of them.

    Raises:
        UserError: none has it; names the nearest, with all reasons.
    """
    candidates: list[tuple[Family, dict[str, str]]] = []
    for family in FAMILIES:
        with suppress(UserError):  # of sizes that the family cannot have
            candidates.append((family, reasons(family, model)))
    if not candidates:
        raise UserError("no architecture of transformers is near this model")
    nearest, why = min(
        candidates,
        key=lambda pair: (
            "head" in pair[1],
            "pattern" in pair[1],
            "positions.kind" in pair[1],
            len(pair[1]),
            pair[0].architecture != preferred,
        ),
    )
    if why:
        raise UserError(
            f"{nearest.architecture} is the nearest to this model in transformers, and is not the "
            f"same function: {'; '.join(dict.fromkeys(why.values()))}"
        )
    return nearest


def reasons(family: Family, model: ModelConfig) -> dict[str, str]:
    """List by field why the family lacks the model's function; empty if the family has it."""
    config = json.loads(json.dumps(config_of(family, model)))
    ours, theirs = meaning(model), meaning(Settings(keys_of(config)).model(vocab_size=None))
    return {
        name: REASONS.get(name, f"{name} is {{ours}}, there {{theirs}}").format(
            ours=FormatArgument(ours[name]), theirs=FormatArgument(theirs[name])
        )
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    }


def meaning(model: ModelConfig) -> dict[str, Any]:
    """Return every field that affects the function, by its dotted name."""
    alone = set(model.pattern) == {"mamba"}
    if alone and model.positions.kind in ("rotary", "alibi"):  # of attention
        model = replace(model, positions=replace(model.positions, kind="none"))
    kind = model.positions.kind
    others = set().union(*POSITION_FIELDS.values()) - POSITION_FIELDS.get(kind, set())
    left_out = INDIFFERENT | {f"positions.{name}" for name in others}
    if "dense" not in model.pattern:
        left_out |= {f"mlp.{field.name}" for field in fields(model.mlp)}
    named = {name: value for name, value in flat(model).items() if name not in left_out}
    if alone:
        named = {n: value for n, value in named.items() if not n.startswith(WITHOUT_ATTENTION)}
    return named


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten the fields of nested dataclasses to dotted names."""
    by_name: dict[str, Any] = {}
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            by_name |= flat(inner, f"{prefix}{field.name}.")
        else:
            by_name[prefix + field.name] = inner
    return by_name
