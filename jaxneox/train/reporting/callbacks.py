"""Progress of a run, told to functions of one's own after every step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax


@dataclass(frozen=True)
class Progress:
    """A run after one of its steps.

    Attributes:
        step: how many steps are done.
        figures: of this step, as they go to metrics.jsonl.
        read_params: makes plain arrays of the parameters.
        stop: ends the run before its next step; what it has learned is saved.
    """

    step: int
    figures: Mapping[str, Any]
    read_params: Callable[[], Mapping[str, jax.Array]] = field(repr=False)
    stop: Callable[[], None] = field(repr=False)

    @property
    def params(self) -> Mapping[str, jax.Array]:
        """A copy of the parameters by dotted names, float32, which may be kept."""
        return self.read_params()


Callback = Callable[[Progress], object]
"""A function of one's own; its result is ignored."""
