"""A model's architecture in a few words."""

from convert.inspection.facts import Architecture
from jaxneox.config.schema import ModelConfig


def of_model(model: ModelConfig) -> Architecture:
    a = model.attention
    return Architecture(
        layers=model.num_layers,
        hidden=model.hidden_size,
        heads=a.num_heads,
        groups=a.kv_heads,
        head_dim=a.head_dim,
        residual=_residual(model),
        norm=_norm(model),
        positions=_positions(model),
        mlp=f"{'gated ' if model.mlp.gated else ''}{model.mlp.activation}",
        mlp_width=model.mlp.size,
        tied=model.tied_embedding,
        vocabulary=model.vocab_size,
        sequence=model.seq_length,
        head=model.head,
        mamba=_mamba(model),
    )


def _residual(model: ModelConfig) -> str:
    name = "parallel" if model.parallel_residual else "sequential"
    if model.attention_dropped:
        name += ", its attention dropped"
    return name + (", one norm for both branches" if model.shared_norm else "")


def _mamba(model: ModelConfig) -> str | None:
    """Say which layers are state spaces, and how wide they are."""
    count = model.kinds.count("mamba")
    if model.mamba is None or not count:
        return None
    which = "all" if count == model.num_layers else f"{count} of {model.num_layers}"
    groups = f" in {model.mamba.groups} groups" if model.mamba.groups > 1 else ""
    return f"{which} layers mamba of {model.mamba.channels} channels{groups}"


def _norm(model: ModelConfig) -> str:
    joint = model.norm.kind == "layernorm" and not model.norm.bias
    name = model.norm.kind + (" without bias" if joint else "")
    a = model.attention
    queries = a.qk_norm or a.qk_norm_per_head or a.qk_norm_joint
    return name + (", of queries and keys too" if queries else "")


def _positions(model: ModelConfig) -> str:
    kind, fraction = model.positions.kind, model.positions.rotary_fraction
    scaling = model.positions.scaling
    text = f"{kind} {100 * fraction:g}%" if kind == "rotary" else kind
    if scaling.type != "default":
        text += f" scaled by {scaling.factor:g} ({scaling.type})"
    return text


def lines(model: Architecture) -> list[str]:
    """Describe a model in two lines: its sizes, and what it is made of."""
    sizes = [f"{model.layers} layers of {model.hidden}"]
    if model.heads:
        sizes.append(f"{model.heads} heads" + (f" of {model.head_dim}" if model.head_dim else ""))
    if model.groups and model.groups != model.heads:
        sizes.append(f"{model.groups} key-value heads")
    if model.mlp_width:
        sizes.append(f"MLP {model.mlp_width}")
    if model.vocabulary:
        sizes.append(f"vocabulary {model.vocabulary} (padded)")
    if model.sequence:
        sizes.append(f"sequence {model.sequence}")
    made = [
        model.residual and f"{model.residual} residual".replace(", one", " with one"),
        model.norm,
        model.positions,
        model.mlp,
        _head(model),
        model.mamba,
    ]
    return [", ".join(sizes), *([", ".join(filter(None, made))] if any(made) else [])]


def _head(model: Architecture) -> str | None:
    if model.head == "reward":
        return "a reward model"
    return None if model.tied is None else "tied" if model.tied else "untied"
