"""Mixtures of experts of Hugging Face's families, by the names on disk, with `{}` for the layer.

Source: transformers 5.23, models/{mixtral,olmoe}/modeling_*.py, and conversion_mapping.py, which
joins the experts' tensors in memory and takes them apart on disk. Both add up the outputs of the k
experts of the largest probabilities, a softmax over all experts in float32; Mixtral divides these
by their sum, OLMoE if `norm_topk_prob` says so.
"""

from collections.abc import Mapping

from convert.rules.hf_llama import LAYER
from convert.rules.hf_neox import split
from convert.rules.rule import Rule, one_expert
from jaxneox.config.schema import ModelConfig

ROUTER = "layers.experts.router.weight"


def experts(model: ModelConfig, router: str, each: str, matrices: Mapping[str, str]) -> list[Rule]:
    """Return the rules of a layer's mixture.

    Args:
        model: the model's configuration.
        router: the name of the router.
        each: the prefix of an expert's matrices, with `{expert}` for its number.
        matrices: their names, by ours.
    """
    assert model.experts is not None
    table = [split(f"{LAYER}{router}", ROUTER, "U D -> D U")]
    for number in range(model.experts.count):
        prefix, slot = LAYER + each.replace("{expert}", str(number)), one_expert(number)
        for ours, theirs in matrices.items():
            pattern = "D (O X) -> O X D" if ours == "down" else "(O X) D -> O D X"
            leaf = f"layers.experts.{ours}"
            table.append(split(f"{prefix}{theirs}.weight", leaf, pattern, slot))
    return table
