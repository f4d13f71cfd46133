"""A mixture of experts: MLPs of which each token passes through a few, chosen by a router.

`layer` has the parameters and puts the rest together. `router` chooses each token's experts, with
`sinkhorn` to balance them in training and `capacity` to bound them; `balance` says how even the
choice was. `mixture` is the experts' sum as a function of whole arrays, `device` the program of one
device: by the `products` of rows sorted by expert, on their `routes` to the experts and back;
`segments` has what these are made of.
"""

from jaxneox.model.experts.layer import Experts

__all__ = ["Experts"]
