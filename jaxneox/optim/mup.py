"""muP's learning rates and weight decay, as transformations between Adam's update and the rate.

A hidden matrix that reads u times as many numbers as in the base moves u times less (Yang et al.
2022, table 8). Weight decay comes after that, so that a step takes the share
`lr x weight_decay` of every matrix whatever the width; mup's MuAdamW has the same from a decay
times u at a rate / u. NeoX HEAD has that decay in Adam's gradient instead (torch.optim.Adam).
"""

import optax

from jaxneox.config.schema import OptimizerConfig
from jaxneox.config.widths import Widths
from jaxneox.optim.chain import Chain, decays
from jaxneox.optim.matrices import Axes


def by_width(widths: Widths | None, axes: Axes) -> Chain:
    """Divide the updates of hidden matrices by how many times more they read than in the base.

    Args:
        widths: of the model beside its base; None without muP.
        axes: the logical axes of the parameters that are trained, by name.
    """
    if widths is None:
        return []
    ratios = {name: widths.reads(own) for name, own in axes.items()}

    def divide(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return {n: u if ratios[n] == 1 else u * (1 / ratios[n]) for n, u in updates.items()}

    return [optax.stateless(divide)]


def l2_decay(cfg: OptimizerConfig, axes: Axes) -> Chain:
    """Add NeoX's decay to the gradient: of hidden matrices times how many times more they read."""
    assert cfg.widths is not None
    if not cfg.weight_decay:
        return []
    reads = cfg.widths.reads
    decay = {n: cfg.weight_decay * reads(own) for n, own in axes.items() if decays(n)}

    def add(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        assert params is not None
        return {n: u + decay[n] * params[n] if n in decay else u for n, u in updates.items()}

    return [optax.stateless(add)]
