"""Hugging Face's MambaForCausalLM by the names on disk, with `{}` for the layer.

Source: transformers 5.23, models/mamba/modeling_mamba.py.
"""

from dataclasses import replace

from convert.rules.hf_neox import head, split
from convert.rules.mamba import mixer
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig

PREFIX = "backbone."
HEAD = "lm_head.weight"
BUFFERS: tuple[str, ...] = ()

LAYER = "backbone.layers.{}."


def rules(model: ModelConfig) -> tuple[Rule, ...]:
    """Return the rules; those of its mixers are none if the model has no mamba layers."""
    mixers = mixer(model.mamba) if model.mamba is not None else []
    table = [
        split("backbone.embeddings.weight", "embed.tokens", "V D -> V D"),
        split(LAYER + "norm.weight", "layers.norm1.scale", "D -> D"),
        *(replace(one, theirs=LAYER + one.theirs) for one in mixers),
        split("backbone.norm_f.weight", "final_norm.scale", "D -> D"),
    ]
    return (*table, *head(HEAD, model))
