"""The models that an objective looks at: the one that is trained, and one to compare it with."""

from typing import NamedTuple

from jaxneox.model import Model, Params


class Models(NamedTuple):
    """A model with its parameters.

    Attributes:
        model: the functions.
        params: all of its parameters by name.
        reference: the model that it is compared with, which is not trained; None if the objective
            has none, or if the data has its log-probabilities.
    """

    model: Model
    params: Params
    reference: "Models | None" = None
