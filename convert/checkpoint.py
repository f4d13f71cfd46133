"""What a conversion is made of: a source that is read, a target that is written.

A `Checkpoint` is anything that was opened. It has parameters, by jaxneox's names and in jaxneox's
layout, and a function, which is its own program's; so any two can be compared. A `Source` wraps
one to be converted and accounts for its tensors, a `Target` writes one. A new family of
checkpoints is a Source, a Target, or both: `convert.conversion` and `convert.proof` know nothing
else.

Parameters are moved a part at a time: see `convert.parts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from convert.fate import Fate
from convert.oracle import Forward, JaxneoxForward
from convert.parts import Leaves, Part, Shapes, layer_of, names_in
from convert.readers.torch_file import TorchFile
from jaxneox.config.schema import LossScaleConfig, ModelConfig
from jaxneox.data import Tokenizer

Logits = Callable[[np.ndarray], np.ndarray]
"""int [B, T] -> float32 [B, T, V]"""


@dataclass(frozen=True)
class Fidelity:
    """How far the parameters of a checkpoint have the function that its own program computed.

    Attributes:
        rounding: the types that numbers were rounded to; none where all were kept.
        exact: whether the function was kept, but for rounding.
        mergeable: whether any single model has it: not where ranks drifted apart in a way that
            none can follow.
        folded: whether numbers were moved from one tensor into another, so that products are the
            same where numbers are not.
    """

    rounding: frozenset[np.dtype] = frozenset()
    exact: bool = True
    mergeable: bool = True
    folded: bool = False


class Checkpoint(ABC):
    """An opened checkpoint: its parameters as jaxneox has them, its function as it was computed.

    Attributes:
        model: the configuration that the parameters have.
        shapes: of all parameters, whole: those of layers with the axis of layers first.
        conversion: what a converted checkpoint remembers of how it was made.
    """

    model: ModelConfig
    shapes: Shapes
    conversion: Mapping[str, Any] = MappingProxyType({})

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The one that lies with it, if any."""
        return None

    @property
    def said(self) -> ModelConfig | None:
        """The configuration by another of its own files, where there is one."""
        return None

    @abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """Return the type that holds every number of a parameter."""

    @abstractmethod
    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        """Read a parameter, or one layer of it where `layer` is given."""

    def leaves(self, part: Part) -> Leaves:
        """Read the parameters of one part."""
        names = names_in(part, self.shapes)
        return {name: self.leaf(name, layer_of(part)) for name in names}

    @property
    def forward(self) -> Forward:
        """The function in float64. By default it is that of the parameters."""
        return JaxneoxForward(self.model, self.leaf)

    @property
    def fidelity(self) -> Fidelity:
        return Fidelity()

    @property
    def others(self) -> Mapping[str, Forward]:
        """Functions that a certificate sets beside this one, by title: other merges, old faults."""
        return {}

    def program(self) -> Logits | str:
        """Return the program that a user will run on it, in float32, or why it cannot run here."""
        return "not run: its own program is not here"


Moment = Literal["mu", "nu"]
"""Adam's first and second."""


@dataclass(frozen=True)
class Training:
    """The state of Adam and the counters of a run that is to go on elsewhere.

    Attributes:
        updates: that Adam has made.
        position: of the learning rate's schedule.
        skipped: steps that changed nothing, for their gradients were not finite.
        moments: of gradients that are averaged over the batch, as checkpoints of their own.
        scale: returns the loss scale (factor, calm steps, overflows still forgiven), or None for
            one that begins anew.
        facts: what a certificate says of the state.
    """

    updates: int
    position: int
    moments: Mapping[Moment, Checkpoint]
    skipped: int = 0
    scale: Callable[[LossScaleConfig], tuple[float, int, int] | None] = lambda config: None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Source(ABC):
    """A checkpoint that is converted.

    Attributes:
        checkpoint: what the target is proved against.
        path: as the user typed it.
        title: the program, the step and the parallel sizes, in a few words.
        step: that training had reached; 0 where nothing tells.
        keys: NeoX's YAML keys of the run that it becomes.
        dtypes: the types in which `layer` returns the parameters.
        tokenizer: the one that goes with the target, if any.
        notes: what a person should know, one line each.
        facts: what a certificate says of the files.
        files: all that is read, to be summed and checked meanwhile.
        unread: files beside them that hold nothing that is converted.
        left_out: tensors without effect, for the account.
        conversion: what the target remembers of how it was made.
        training: the optimizer's state, where it was asked for.
        dp: the data-parallel ranks of the run, which are part of its global batch.
    """

    checkpoint: Checkpoint
    path: Path | str
    title: str
    step: int = 0
    keys: Mapping[str, Any]
    dtypes: Mapping[str, np.dtype]
    tokenizer: Tokenizer | None = None
    notes: Sequence[str] = ()
    facts: Mapping[str, Any]
    files: Sequence[Path | TorchFile] = ()
    unread: Sequence[Path] = ()
    left_out: Sequence[Fate] = ()
    conversion: Mapping[str, Any] = MappingProxyType({})
    training: Training | None = None
    dp: int = 1

    @abstractmethod
    def layer(self, part: Part) -> tuple[Leaves, list[Fate]]:
        """Read one part: its parameters, and the account of the tensors that they were made of."""


class Target(ABC):
    """A checkpoint that is written: `start`, `write` every part, `write_training`, `finish`.

    Attributes:
        title: the program and the parallel sizes, in a few words.
        nbytes: that the disk needs room for.
        notes: what a user of the files should know, one line each; complete after `start`.
        facts: what a certificate says of the files.
        at_once: how many parts may be written at the same time, in any order.
    """

    title: str
    nbytes: int
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = MappingProxyType({})
    at_once: ClassVar[int] = 1

    @abstractmethod
    def start(self, folder: Path) -> None:
        """Begin to write into an empty folder."""

    @abstractmethod
    def write(self, part: Part, leaves: Leaves) -> list[Fate]:
        """Write one part. Returns the account of the tensors that it was made into."""

    def write_training(self, training: Training, advance: Callable[[int], None]) -> None:
        """Write the optimizer's state. `advance` is told the bytes that are done."""
        raise NotImplementedError(f"{self.title} takes no optimizer")

    @abstractmethod
    def finish(self) -> list[str]:
        """Write the rest. Returns what could not be written, one line each."""

    @abstractmethod
    def reopen(self) -> Checkpoint:
        """Open what was written, for the proof."""

    @abstractmethod
    def result(self, dst: Path) -> tuple[str, str]:
        """Say what lies at `dst` now, and what a user does next: two lines for the terminal."""
