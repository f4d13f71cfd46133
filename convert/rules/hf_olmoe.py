"""Hugging Face's OlmoeForCausalLM by the names on disk, with `{}` for the layer.

Source: transformers 5.23, models/olmoe/modeling_olmoe.py and conversion_mapping.py.
"""

from convert.rules import hf_llama
from convert.rules.hf_experts import experts
from convert.rules.rule import Rule
from jaxneox.config.schema import ModelConfig

PREFIX, HEAD, BUFFERS = hf_llama.PREFIX, hf_llama.HEAD, hf_llama.BUFFERS


def rules(model: ModelConfig) -> tuple[Rule, ...]:
    return hf_llama.rules_with(
        experts(
            model,
            "mlp.gate.weight",
            "mlp.experts.{expert}.",
            {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
        ),
        model,
    )
