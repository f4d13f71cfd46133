"""The ranks and stages of Megatron-LM that a model is written for, and their limits."""

from dataclasses import replace
from typing import Any, NamedTuple

from convert.megatron.consistency import share
from convert.newer_features import newer_features, unwritten_layers
from convert.rules.megatron import rules
from convert.rules.rule import sizes_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

ACTIVATIONS = (("gelu", False), ("gelu_tanh", False), ("silu", True))
"""The activations, each with whether it is gated, that Megatron-LM's command line offers."""


class MegatronGrid(NamedTuple):
    """The parallel sizes and the format of the files."""

    tp: int
    pp: int
    chunks: int  # virtual stages of each stage
    format: str  # torch, torch_dist

    def __str__(self) -> str:
        virtual = f", {self.chunks} virtual stages each" if self.chunks > 1 else ""
        return (
            f"tensor-model-parallel-size {self.tp}, pipeline-model-parallel-size {self.pp}"
            f"{virtual}, ckpt-format {self.format}"
        )


def model_to_write(model: ModelConfig, tp: int) -> ModelConfig:
    """Return the model as Megatron-LM has to have it.

    It gets the biases that Megatron requires, and rows that divide over the ranks.

    Megatron has all biases or none, layer norms always have one, and gelu's tanh form is fused with
    a bias.
    """
    bias = model.attention.bias or model.mlp.bias or model.mlp.activation == "gelu_tanh"
    return replace(
        model,
        vocab_size=-(-model.vocab_size // tp) * tp,
        attention=replace(model.attention, bias=bias, output_bias=True),
        mlp=replace(model.mlp, bias=bias),
        norm=replace(model.norm, bias=model.norm.kind == "layernorm"),
    )


def refuse_grid(model: ModelConfig, grid: MegatronGrid) -> None:
    """Check that Megatron-LM can compute the model on the grid, from files that are written here.

    Raises:
        UserError: it cannot, or they are not written; the message gives every reason.
    """
    tp, pp, chunks, _ = grid
    if min(tp, pp, chunks) < 1:
        raise UserError(f"--tp {tp} --pp {pp} --virtual {chunks}: expected numbers from 1")
    if model.parallel_residual:
        raise UserError(
            "Megatron-LM has no parallel residual (gpt-j-residual), which this model has: "
            "jaxneox convert to-hf and to-neox write it as it is"
        )
    a, m, p = model.attention, model.mlp, model.positions
    reasons: dict[str, Any] = {
        "its logits have a bias": model.logit_bias,
        "it has mamba layers, which are not written for Megatron-LM": "mamba" in model.pattern,
        f"its norms are {model.norm.kind}": model.norm.kind not in ("layernorm", "rmsnorm"),
        f"its positions are {p.kind}": p.kind not in ("rotary", "learned", "none"),
        f"its learned positions begin at row {p.offset} (opt_pos_emb_offset)": (
            p.kind == "learned" and p.offset
        ),
        "its queries and keys have norms (use_qk_layernorm), a scale for each head": a.qk_norm,
        f"a token sees {a.window} before it (sliding_window_width)": a.window is not None,
        f"its MLP is {'gated' if m.gated else 'not gated'} with {m.activation}; Megatron-LM has "
        "swiglu, and gelu that is not gated": (m.activation, m.gated) not in ACTIVATIONS,
        f"{model.num_layers} layers do not divide over {pp * chunks} stages": (
            model.num_layers % (pp * chunks)
        ),
        "virtual stages need more than one stage": chunks > 1 and pp == 1,
        f"{a.num_heads} heads do not divide over {tp} ranks": a.num_heads % tp,
        f"{a.kv_heads} key-value heads do not divide over {tp} ranks, nor the ranks over them": (
            a.kv_heads % tp and tp % a.kv_heads
        ),
        "it is a reward model, whose head these files have no place for": model.head == "reward",
        **newer_features(model),
        **unwritten_layers(model),
    }
    written = model_to_write(model, tp)
    reasons |= {
        f"{rule.theirs} does not divide over {tp} ranks": (
            share(rule, rule.shape(sizes_of(written)), tp) is None
        )
        for rule in rules(written, inside=True)
        if rule.theirs.endswith(".weight")
    }
    refused = [reason for reason, holds in reasons.items() if holds]
    if refused:
        raise UserError(f"this model is not written for Megatron-LM: {'; '.join(refused)}")
