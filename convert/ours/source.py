"""A jaxneox run as the source of a conversion to another program."""

from pathlib import Path
from typing import Any

from convert.checkpoint import Source, Training
from convert.fate import Fate
from convert.parts import Leaves, Part
from convert.readers.jaxneox import JaxneoxCheckpoint, JaxneoxMoments, open_jaxneox


class JaxneoxSource(Source):
    """A jaxneox run as a source; the target accounts for its tensors, which are the parameters."""

    checkpoint: JaxneoxCheckpoint

    def __init__(self, path: Path, step: int | None, *, optimizer: bool = False) -> None:
        self.path = path
        self.checkpoint = open_jaxneox(path, step)
        self.step = self.checkpoint.location.step
        self.title = f"jaxneox step {self.step}"
        self.keys: dict[str, Any] = self.checkpoint.keys
        self.dtypes = {name: self.checkpoint.dtype(name) for name in self.checkpoint.shapes}
        self.tokenizer = self.checkpoint.tokenizer
        self.facts = {"kind": "jaxneox", "step": self.step}
        if optimizer:
            self.training = open_training(self.checkpoint)

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        return self.checkpoint.leaves(part), []


def open_training(checkpoint: JaxneoxCheckpoint) -> Training:
    """Open the optimizer's state.

    Raises:
        UserError: the checkpoint holds weights alone, or another optimizer's state.
    """
    mu, nu = (JaxneoxMoments(checkpoint.location, moment) for moment in ("mu", "nu"))
    return Training(mu.updates, mu.position, {"mu": mu, "nu": nu})
