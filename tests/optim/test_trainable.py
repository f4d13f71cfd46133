"""Patterns that choose what is trained."""

import pytest

from jaxneox.errors import UserError
from jaxneox.optim.trainable import trained_names

NAMES = ("embed.tokens", "layers.attention.qkv", "layers.mlp.up", "final_norm.scale")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], NAMES),
        (["*"], NAMES),
        (["!embed.*"], NAMES[1:]),
        (["layers.*"], NAMES[1:3]),
        (["layers.*", "!*.up"], NAMES[1:2]),
        (["!layers.*", "layers.mlp.up"], (NAMES[0], *NAMES[2:])),
        (["layers.mlp.up", "final_norm.scale"], NAMES[2:]),
    ],
)
def test_the_last_pattern_that_fits_decides(patterns: list[str], expected: tuple[str, ...]) -> None:
    assert trained_names(patterns, NAMES) == set(expected)


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["embeds.*"], "'embeds.*' fits no parameter of this model, which has embed.tokens, "),
        (["!Layers.*"], "'!Layers.*' fits no parameter"),
        (["layers.*", "!layers.*"], "leaves no parameter to train"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(patterns: list[str], says: str) -> None:
    with pytest.raises(UserError) as raised:
        trained_names(patterns, NAMES)
    assert says in str(raised.value)
