"""Build the model that the keys describe, with the sizes and names that NeoX derives.

Sources: megatron/neox_arguments/arguments.py (calculate_derived, validate_values), megatron/
tokenizer/tokenizer.py (padding), megatron/model/transformer.py (ParallelMLP, rotary width) and
megatron/model/{norms,activations}.py of GPT-NeoX ea7aefd8.
"""

import reprlib
from dataclasses import replace
from typing import Any

from jaxneox.config.check import CheckedKeys
from jaxneox.config.divisors import divisors
from jaxneox.config.experts import experts_config, with_experts
from jaxneox.config.keys.model import GATED_ACTIVATIONS, PLAIN_ACTIVATIONS
from jaxneox.config.layer_schema import LayerKind, shortest_pattern
from jaxneox.config.lora import lora_config
from jaxneox.config.mamba import mamba_config
from jaxneox.config.mup import with_mup
from jaxneox.config.rope import rope_scaling
from jaxneox.config.schema import (
    AttentionConfig,
    InitConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    PositionConfig,
    TokenizerConfig,
)
from jaxneox.errors import UserError


def model_config(settings: CheckedKeys, padded_vocab: int) -> ModelConfig:
    """Build the model.

    Args:
        settings: the checked keys.
        padded_vocab: rows of the embedding.

    Raises:
        UserError: a size is missing, or the sizes do not fit together.
    """
    num_layers = settings.needed("num_layers")
    attention = _attention(settings)
    kinds = with_experts(settings, _kinds(settings, num_layers))
    seq_length = settings.needed("seq_length")
    settings.needed("max_position_embeddings")
    positions = _positions(settings, attention.head_dim)
    if positions.max_positions < seq_length:
        too_few = (
            f"max_position_embeddings {positions.max_positions} is less than seq_length "
            f"{seq_length}"
        )
        if positions.kind == "learned":
            raise UserError(f"{too_few}: raise it to {seq_length} or shorten the sequences")
        settings.note(f"{too_few}: no learned positions depend on it, {seq_length} is taken")
        positions = replace(positions, max_positions=seq_length)
    if settings["gpt_j_tied"] and not settings["gpt_j_residual"]:
        settings.note("gpt_j_tied: changes nothing without gpt_j_residual, as in NeoX")
    _check_dropout(settings, "hidden_dropout")
    mlp = _mlp(settings)
    plain = settings.fill(
        ModelConfig,
        "model",
        **_head(settings),
        vocab_size=padded_vocab,
        attention=attention,
        mlp=mlp,
        norm=_norm(settings),
        positions=positions,
        init=settings.fill(InitConfig, "model.init"),
        lora=lora_config(settings, mlp.gated, "experts" in kinds),
        pattern=shortest_pattern(kinds),
        mamba=mamba_config(settings, kinds),
        experts=experts_config(settings, kinds, mlp),
        shared_norm=settings["gpt_j_residual"] and settings["gpt_j_tied"],
    )
    return with_mup(settings, plain)


def _head(settings: CheckedKeys) -> dict[str, Any]:
    """Return what differs in a reward model, which has a head of its own and no unembedding."""
    if settings["train_impl"] != "rm":
        return {}
    return {"head": "reward", "tied_embedding": False, "logit_bias": False}


def _check_dropout(settings: CheckedKeys, name: str) -> None:
    rate = settings[name]
    if rate >= 1 - 2.0**-24:  # what is kept is divided by the rest
        raise UserError(f"{name}: found {rate:g}, which leaves nothing: expected below 1")


def padded_vocab(tokenizer: TokenizerConfig, vocab_size: int | None) -> int:
    """Return the rows of the embedding.

    They are the least multiple of `divisible_by` x `model_parallel` that holds all tokens, where
    `padded_size` does not give them. The YAML's model parallel size counts, not the mesh's, so that
    a model is the same on any mesh.

    Args:
        tokenizer: the keys of the tokenizer.
        vocab_size: the tokens that it has, or None where it is not at hand.

    Raises:
        UserError: the number is not known, or the tokenizer has more tokens than rows.
    """
    padded = tokenizer.padded_size
    if padded is None:
        if vocab_size is None:
            raise UserError("padded_vocab_size is missing and there is no tokenizer to derive it")
        multiple = tokenizer.divisible_by * tokenizer.model_parallel
        padded = -(-vocab_size // multiple) * multiple
    if vocab_size is not None and vocab_size > padded:
        raise UserError(
            f"the tokenizer has {vocab_size} tokens but padded_vocab_size is {padded}: "
            "use the tokenizer that the model was made for, or add rows for its tokens with "
            f"--finetune and --set padded_vocab_size={vocab_size}"
        )
    return padded


KINDS: dict[str, LayerKind] = {"global": "dense", "flash": "dense", "mamba": "mamba"}
"""The kinds of layers by NeoX's types of attention."""


def _kinds(settings: CheckedKeys, num_layers: int) -> tuple[LayerKind, ...]:
    """Return the kind of every layer."""
    patterns = _patterns(settings["attention_config"], num_layers)
    types = [name for pattern, times in patterns for name in pattern * min(times, num_layers)]
    for name in types:
        if not isinstance(name, str) or name not in KINDS:
            raise UserError(
                f"attention_config: unknown type {reprlib.repr(name)}: use global, flash or mamba"
            )
    described = sum(len(pattern) * times for pattern, times in patterns)
    if described != num_layers:
        raise UserError(
            f"attention_config describes {described} layers but num_layers is {num_layers}: "
            f"make them equal, or write [[[{types[0] if types else 'global'}], all]]"
        )
    return tuple(KINDS[name] for name in types)


def _patterns(attention_config: list[Any] | None, num_layers: int) -> list[tuple[list[Any], int]]:
    """Return the patterns of attention types, and how often each is repeated.

    `[[[a, b], 2], [[c], 1]]` stands for a, b, a, b, c, and `all` repeats a pattern to the end.
    """
    if attention_config is None:
        return [(["global"], num_layers)]
    if all(isinstance(entry, str) for entry in attention_config):
        return [(attention_config, 1)]
    patterns: list[tuple[list[Any], int]] = []
    for entry in attention_config:
        match entry:
            case [[*pattern], "all"] if pattern and num_layers % len(pattern) == 0:
                return [(pattern, num_layers // len(pattern))]
            case [[*pattern], "all"]:
                raise UserError(
                    f"attention_config: the pattern {reprlib.repr(pattern)} does not divide "
                    f"{num_layers} layers"
                )
            case [[*pattern], int(times)] if times > 0:
                patterns.append((pattern, times))
            case _:
                raise UserError(
                    f"attention_config: found {reprlib.repr(entry)}, expected [[types], times], "
                    "as in [[[global], 12]] or [[[global], all]]"
                )
    return patterns


def _attention(settings: CheckedKeys) -> AttentionConfig:
    hidden, heads = settings.needed("hidden_size"), settings.needed("num_attention_heads")
    head_dim, biased = settings["head_dim"], settings["use_bias_in_attn_linear"]
    if head_dim is None and hidden % heads:
        layers = settings["num_layers"]
        swapped = f" (num_layers {layers} does: are they swapped?)" if hidden % layers == 0 else ""
        raise UserError(
            f"num_attention_heads {heads} does not divide hidden_size {hidden}{swapped}: "
            f"the nearest that does is {_nearest_divisor(hidden, heads)}"
        )
    _check_dropout(settings, "attention_dropout")
    return settings.fill(
        AttentionConfig,
        "model.attention",
        kv_heads=settings["num_kv_heads"] or heads,
        head_dim=head_dim or hidden // heads,
        output_bias=settings["attention_output_bias"] or not biased,
        # NeoX's scaling by layer cancels and only forces the softmax to float32
        softmax_fp32=settings["attention_softmax_in_fp32"]
        or settings["apply_query_key_layer_scaling"],
    )


def _nearest_divisor(number: int, target: int) -> int:
    return min(divisors(number), key=lambda d: abs(d - target))


def _mlp(settings: CheckedKeys) -> MlpConfig:
    name = settings["activation"]
    gated = name in GATED_ACTIVATIONS
    llama = settings["mlp_type"] == "llama"
    if llama and gated:
        settings.note(f"mlp_type: llama changes nothing with the gated {name}, as in NeoX")
        llama = False
    tanh = name == "gelu" and settings["bias_gelu_fusion"]
    return settings.fill(
        MlpConfig,
        "model.mlp",
        size=_llama_size(settings) if llama else _mlp_size(settings, gated),
        activation="gelu_tanh" if tanh else (PLAIN_ACTIVATIONS | GATED_ACTIVATIONS)[name],
        gated=gated or llama,
        bias=settings["use_bias_in_mlp"] and not llama,
    )


def _llama_size(settings: CheckedKeys) -> int:
    """Return the width of a branch of NeoX's LLaMAParallelMLP of 2023-05 to 2024-09."""
    for name in ("expansion_factor", "mlp_multiple_of"):
        if settings.given(name):
            raise UserError(f"{name}: mlp_type llama has none: set intermediate_size, or swiglu")
    size = settings["intermediate_size"]
    if size is None:
        size = -(-int(2 * settings["hidden_size"] * 4 / 3) // 256) * 256
    return int(size)


def _mlp_size(settings: CheckedKeys, gated: bool) -> int:
    """Return the width of one branch.

    A gated MLP has two branches of a third of the width, so that it has as many parameters. NeoX
    rounds the two matrices apart, and fails where the second's width, which is this one, is not
    half of the first's.
    """
    hidden = settings["hidden_size"]
    size = settings["intermediate_size"]
    factor = settings["expansion_factor"]
    if size is not None and factor is not None:
        raise UserError(
            f"intermediate_size is {size} and expansion_factor is {factor}: keep one of the two"
        )
    if size is None:
        size = 4 * hidden if factor is None else int(factor * hidden)
    if gated:
        size //= 3
    if size < 1:
        raise UserError(
            f"the MLP would be {size} wide: raise expansion_factor or intermediate_size"
        )
    multiple = settings["mlp_multiple_of"]
    return int(-(-size // multiple) * multiple)


def _norm(settings: CheckedKeys) -> NormConfig:
    kind = settings["norm"].removeprefix("te_")
    epsilon = {"rmsnorm": "rms_norm_epsilon", "scalenorm": "scalenorm_epsilon"}
    # NeoX HEAD never looks at use_bias_in_norms
    bias = settings["use_bias_in_norms"] or settings["neox_compat"]
    return settings.fill(
        NormConfig,
        "model.norm",
        kind=kind,
        epsilon=settings[epsilon.get(kind, "layernorm_epsilon")],
        bias=bias and kind == "layernorm",
    )


def _positions(settings: CheckedKeys, head_dim: int) -> PositionConfig:
    fraction = settings["rotary_pct"]
    rotary_width = int(head_dim * fraction)
    if settings["pos_emb"] == "rotary" and (rotary_width % 2 or not rotary_width):
        even = max(2, rotary_width + 1 - (rotary_width + 1) % 2)
        raise UserError(
            f"rotary_pct {fraction} of a head of {head_dim} turns {rotary_width} dimensions, which "
            f"must be even and not 0: for {even} set rotary_pct to {even / head_dim:g}"
        )
    buckets, distance = settings["rpe_num_buckets"], settings["rpe_max_distance"]
    if settings["pos_emb"] == "rpe" and (buckets < 2 or distance <= buckets // 2):
        raise UserError(
            f"rpe_num_buckets {buckets} and rpe_max_distance {distance}: expected 2 buckets or "
            "more, and a distance above half of them"
        )
    scaling = rope_scaling(settings, rotary_width)
    return settings.fill(PositionConfig, "model.positions", scaling=scaling)
