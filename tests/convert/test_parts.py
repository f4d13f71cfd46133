"""Which layers have a parameter: as conversions know it, and as the model declares it."""

from dataclasses import replace

import pytest

from convert.parts import layers_with, names_in, place_of
from jaxneox.config.layer_schema import ExpertsConfig
from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.schema import ModelConfig
from jaxneox.model.parameters import Declaration
from tests.model.variants import configure


def mixed(pattern: tuple) -> ModelConfig:
    cfg = configure("untied")
    kinds = {"experts": ExpertsConfig(4, 8), "mamba": MambaConfig(16, 2)}
    return replace(cfg, num_layers=2 * len(pattern), pattern=pattern, **kinds)


@pytest.mark.parametrize("pattern", [("dense",), ("dense", "experts", "mamba"), ("mamba",)])
def test_the_model_declares_the_same(pattern: tuple) -> None:
    declared = Declaration(mixed(pattern))
    for name in declared.shapes:
        if name.startswith("layers."):
            assert layers_with(name, declared.cfg) == declared.holders(name)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("layers.norm1.scale", (0, 1, 2, 3, 4, 5)),
        ("layers.attention.qkv", (0, 1, 3, 4)),
        ("layers.mlp.up", (0, 3)),
        ("layers.experts.router.weight", (1, 4)),
        ("layers.mamba.conv", (2, 5)),
    ],
)
def test_parameters_of_a_pattern(name: str, layers: tuple[int, ...]) -> None:
    model = mixed(("dense", "experts", "mamba"))
    assert layers_with(name, model) == layers
    assert [place_of(name, layer, model) for layer in layers] == list(range(len(layers)))
    for part in range(6):
        assert names_in(part, [name], model) == ([name] if part in layers else [])
    assert names_in("embedding", [name], model) == []
