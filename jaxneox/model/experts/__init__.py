"""A mixture of experts: MLPs of which each token passes through a few, chosen by a router.

`layer` has the parameters and puts the rest together. `router` chooses each token's experts, with
`sinkhorn` to balance them in training and `capacity` to bound them; `balance` says how even the
choice was. `mixture` computes the experts' outputs and their gradients on each device, by the
`products` of rows sorted by expert; `segments` says where the rows go, also between devices.
"""

from jaxneox.model.experts.layer import Experts

__all__ = ["Experts"]
