"""muP's updates against torch's Adam and AdamW with a rate and a decay for each parameter."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from jaxneox.config.widths import Widths
from tests.optim.cases import AXES, Arrays, gradients, ours, random_arrays, rate
from tests.optim.test_optimizer import ADAM, ROUNDING, decay
from tests.reference.compare import worst_leaf

WIDTHS = Widths(hidden=4.0, attention=2.0, mlp=8.0)
READS = {  # how many times more a hidden matrix reads; nothing else reads a width
    "layers.attention.qkv": 4.0,
    "layers.attention.out": 2.0,
    "layers.mlp.up": 4.0,
    "layers.mlp.down": 8.0,
}


def with_torch(make: Callable[[Any, Any], Any]) -> Arrays:
    """mup's groups: the rate of hidden matrices divided by their width, their decay times it."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    leaves = {n: torch.tensor(x, dtype=torch.float64) for n, x in random_arrays(0).items()}
    groups = [
        {
            "params": [x],
            "weight_decay": decay(ADAM, n) * READS.get(n, 1.0),
            "times": READS.get(n, 1),
        }
        for n, x in leaves.items()
    ]
    optimizer = make(torch.optim, groups)
    for step, grads in enumerate(gradients()):
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(grads[name], dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = rate(ADAM, step) / group["times"]
        optimizer.step()
    return {name: leaf.numpy() for name, leaf in leaves.items()}


@pytest.mark.parametrize("as_neox", [False, True])
def test_adam_with_widths(as_neox: bool) -> None:
    """Decoupled decay here, and in NeoX HEAD torch's Adam, whose decay is in the gradient."""
    cfg = dataclasses.replace(ADAM, widths=dataclasses.replace(WIDTHS, as_neox=as_neox))
    kind = "Adam" if as_neox else "AdamW"
    expected = with_torch(
        lambda optim, groups: getattr(optim, kind)(groups, betas=ADAM.betas, eps=ADAM.eps)
    )
    error, name = worst_leaf(ours(cfg), expected)
    assert error <= ROUNDING, name


def test_lion_without_decay_moves_hidden_matrices_less() -> None:
    """Its steps are signs: of the same gradients, a step is smaller by the width."""
    plain = dataclasses.replace(ADAM, kind="lion", betas=(0.7, 0.9), weight_decay=0.0)
    start, one = random_arrays(0), ours(plain)
    other = ours(dataclasses.replace(plain, widths=WIDTHS))
    for name in AXES:
        moved = (one[name] - start[name]) / READS.get(name, 1.0)
        # a step of 0.05 is rounded to 1e-7, which is 2e-6 of it
        assert abs(other[name] - start[name] - moved).max() <= 1e-6, name


def test_a_width_that_is_fixed() -> None:
    """What writes to it still reads a width that grows; NeoX looks at both sides."""
    fixed = Widths(hidden=4.0, attention=2.0, mlp=None)
    up, down = (AXES[f"layers.mlp.{name}"] for name in ("up", "down"))
    assert (fixed.reads(up), fixed.reads(down)) == (4.0, 1.0)
    as_neox = dataclasses.replace(fixed, as_neox=True)
    assert (as_neox.reads(up), as_neox.reads(down)) == (1.0, 1.0)
    assert fixed.reads(("layers", "embed", "rank")) == 4.0  # LoRA's A, and its B reads the rank
    assert fixed.reads(("layers", "rank", "mlp")) == 1.0
