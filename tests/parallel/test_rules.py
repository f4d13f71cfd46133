import pytest
from jax.sharding import PartitionSpec as P

from jaxneox.errors import UserError
from jaxneox.model import Model
from jaxneox.parallel.rules import rules_for
from tests.parallel.meshes import MODEL

EIGHT = {"dp": 4, "tp": 2}


def test_weights_lie_as_the_table_says() -> None:
    rules = rules_for(EIGHT, 0, False)
    assert rules.weight("layers", "embed", "mlp") == P(None, None, "tp")
    assert rules.weight("vocab", "embed") == P("tp", None)
    assert rules.activation("batch", "stream", "embed") == P("dp", "cp", None)
    streams = rules_for(EIGHT, 0, True).activation("batch", "stream", "embed")
    assert streams == P("dp", ("cp", "tp"), None)
    assert rules.partial("batch", "length", "embed", over="mlp").unreduced == {"tp"}
    assert rules.parts("batch", "vocab") == 8


@pytest.mark.parametrize(
    ("zero", "split"), [(0, "none"), (1, "updates"), (2, "gradients"), (3, "parameters")]
)
def test_each_zero_stage_splits_what_it_should(zero: int, split: str) -> None:
    rules = rules_for(EIGHT, zero, False)
    over = P(None, "dp", "tp"), P(None, None, "tp")
    args = ("layers.mlp.up", ("layers", "embed", "mlp"), (2, 32, 64))
    order = ["none", "updates", "gradients", "parameters"]
    found = [rules.optimizer(*args), rules.gradient(*args), rules.parameter(*args)]
    split_over = [over[not (order.index(split) > i)] for i in range(3)]
    assert [spec.partitions for spec in found] == [spec.partitions for spec in split_over]


def test_below_stage_2_the_gradients_of_matrices_are_partial_sums() -> None:
    """Those of biases and norms are not: a bias shared so cannot be added to what dp splits."""
    up = ("layers.mlp.up", ("layers", "embed", "mlp"), (2, 32, 64))
    bias = ("layers.mlp.up_bias", ("layers", "mlp"), (2, 64))
    both = {"dp", "cp"}
    for zero in (0, 1):
        rules = rules_for(EIGHT, zero, False)
        assert rules.in_step(*up) == P(None, None, "tp", reduced=both)
        assert rules.gradient(*up) == P(None, None, "tp", unreduced=both)
        assert rules.in_step(*bias) == rules.gradient(*bias) == P(None, "tp")
    for zero in (2, 3):
        rules = rules_for(EIGHT, zero, False)
        assert rules.in_step(*up) == rules.parameter(*up)
        assert not rules.gradient(*up).unreduced


def test_zero_finds_an_axis_for_dp_or_leaves_it_whole() -> None:
    rules = rules_for(EIGHT, 3, False)
    assert rules.optimizer("w", ("layers", "mlp"), (4, 64)) == P(None, ("tp", "dp"))
    heads = ("layers", "embed", "kv_heads", "head")
    assert rules.optimizer("w", heads, (4, 64, 8, 96)) == P(None, None, ("tp", "dp"), None)
    assert rules.optimizer("w", heads, (4, 64, 4, 96)) == P(None, None, "tp", "dp")  # the longest
    assert rules.optimizer("w", heads, (4, 64, 4, 16)) == P(None, "dp", "tp", None)
    down = ("layers", "mlp", "embed")
    assert rules.optimizer("w", down, (4, 64, 16)) == P(None, ("tp", "dp"), None)
    assert rules.optimizer("w", down, (4, 20, 16)) == P(None, "tp", "dp")
    assert rules.optimizer("w", ("one",), (1,)) == P(None)
    assert rules.optimizer("w", ("layers", "embed"), (4, 30)) == P(None, None)  # layers stay whole


def test_every_parameter_of_the_model_has_rules() -> None:
    model = Model(MODEL, rules_for(EIGHT, 3, False))
    for name, axes in model.axes.items():
        assert len(model.layout.parameter(name, axes, model.shapes[name])) == len(axes)


def test_an_axis_without_a_rule_raises() -> None:
    with pytest.raises(UserError, match=r"x\.y: its axis 'colour' has no rule"):
        rules_for(EIGHT, 0, False).check("x.y", ("colour",), (4,))


def test_a_size_that_tp_does_not_divide_raises_with_the_nearest_that_does() -> None:
    with pytest.raises(UserError, match=r"tp=4 does not divide its axis kv_heads of 6; .* tp=3"):
        rules_for({"dp": 1, "tp": 4}, 0, False).check("q", ("kv_heads",), (6,))


def test_a_vocabulary_that_tp_does_not_divide_lies_along_another_axis() -> None:
    """The model pads it while it computes; gradients are cut again before they are added up."""
    odd = ("embed.tokens", ("vocab", "embed"), (525, 32))
    bias = ("unembed.bias", ("vocab",), (525,))
    plain, split = (rules_for(EIGHT, zero, False) for zero in (0, 3))
    plain.check(*odd)
    assert plain.parameter(*odd) == plain.in_step(*odd) == plain.gradient(*odd) == P(None, "tp")
    assert split.parameter(*odd) == P(None, ("tp", "dp"))
    assert plain.parameter(*bias) == plain.gradient(*bias) == P(None)
    assert plain.weight(*odd[1]) == P("tp", None)
