"""The interfaces of a conversion: a source is read and a target is written.

A `Checkpoint` is anything that was opened. It has parameters, by jaxneox's names and in jaxneox's
layout, and a function, which is the one that its own program computes; so any two can be compared.
A `Source` wraps a checkpoint that is to be converted and accounts for its tensors; a `Target`
writes one. A new family of checkpoints is a Source, a Target, or both: `convert.conversion` and
`convert.proof` know nothing else.

Parameters are moved one part at a time: see `convert.parts`.
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
from jaxneox.config.optimization_schema import LossScaleConfig
from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer

Logits = Callable[[np.ndarray], np.ndarray]
"""Maps int tokens [B, T] to float32 logits [B, T, V]."""


@dataclass(frozen=True)
class UserProgram:
    """What a user of a checkpoint will run, in float32.

    Attributes:
        logits: its function.
        nbytes: the memory that it takes, in bytes.
        how: how it is run here, as the end of a sentence, if not as a user would.
    """

    logits: Logits
    nbytes: int
    how: str = ""


@dataclass(frozen=True)
class Fidelity:
    """The closeness of a checkpoint's parameters to the function that its own program computed.

    Attributes:
        rounding: the types that numbers were rounded to; empty if every number was kept.
        exact: whether the function was kept, apart from rounding.
        mergeable: whether any single model has the function. None has it where the ranks
            drifted apart in such a way that no merge can follow them.
        folded: whether numbers were moved from one tensor into another, so that products of
            tensors are unchanged although the tensors are not.
    """

    rounding: frozenset[np.dtype] = frozenset()
    exact: bool = True
    mergeable: bool = True
    folded: bool = False


class Checkpoint(ABC):
    """An opened checkpoint: parameters as jaxneox has them, and the function of its own program.

    Attributes:
        model: the model configuration of the parameters.
        shapes: the shape of each whole parameter; parameters of layers have the layer axis
            first.
        conversion: what a converted checkpoint records about how it was made.
    """

    model: ModelConfig
    shapes: Shapes
    conversion: Mapping[str, Any] = MappingProxyType({})

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that is stored with the checkpoint, or None."""
        return None

    @property
    def declared_model(self) -> ModelConfig | None:
        """The model as another file of the checkpoint declares it; None without such a file."""
        return None

    @abstractmethod
    def dtype(self, name: str) -> np.dtype:
        """Return the type that holds every number of a parameter."""

    @abstractmethod
    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        """Read a parameter, or only that of the layer of this number if `layer` is given."""

    def leaves(self, part: Part) -> Leaves:
        """Read the parameters of one part."""
        names = names_in(part, self.shapes, self.model)
        return {name: self.leaf(name, layer_of(part)) for name in names}

    @property
    def forward(self) -> Forward:
        """The function in float64; by default, the function of the parameters."""
        return JaxneoxForward(self.model, self.leaf)

    @property
    def fidelity(self) -> Fidelity:
        return Fidelity()

    @property
    def alternatives(self) -> Mapping[str, Forward]:
        """Further functions for every certificate, by title, such as old faults of its program."""
        return {}

    @property
    def older_merges(self) -> Mapping[str, Callable[[], Forward]]:
        """Merges of the ranks that its program has had, by title; computed only on request."""
        return {}

    def program(self) -> UserProgram | str:
        """Return the program that a user will run, or the reason why it cannot run."""
        return "not run: its own program is not here"

    @property
    def nbytes_float32(self) -> int:
        """The size of all parameters in float32, in bytes."""
        return 4 * sum(int(np.prod(shape)) for shape in self.shapes.values())


Moment = Literal["mu", "nu"]
"""Adam's first and second moment."""


@dataclass(frozen=True)
class Training:
    """The state of Adam and the counters of a run that continues in another program.

    Attributes:
        updates: the number of updates that Adam has made.
        position: the position in the learning rate schedule.
        moments: Adam's moments, each as a checkpoint; the gradients were averaged over the
            batch.
        skipped: the number of steps without an update, because gradients were not finite.
        scale: returns the loss scale (factor, steps without overflow, overflows still
            forgiven), or None if it starts afresh.
        facts: what a certificate says about the state.
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
        checkpoint: the opened checkpoint that the target is proved against.
        path: the path of what is read, for messages and the certificate.
        kept: whether it can be opened again by its path.
        title: the program, the step and the parallel sizes, in a few words.
        step: the step that training had reached; 0 if no file tells.
        keys: NeoX's YAML keys for the converted run.
        dtypes: the types in which `read` returns the parameters.
        tokenizer: the tokenizer that goes with the target, if any.
        notes: what a person should know, one line each.
        facts: what a certificate says about the files.
        files: every file that is read; their checksums are computed during the conversion.
        unread: files beside them that hold nothing that is converted.
        outside: where a tokenizer was looked for outside of the checkpoint, found or not.
        left_out: the fates of tensors without effect, for the account.
        conversion: what the target records about how it was made.
        training: the optimizer's state, if it was asked for.
        dp: the number of data-parallel ranks of the run, which is a factor of its global batch.
    """

    checkpoint: Checkpoint
    path: Path | str
    kept: bool = True
    title: str
    step: int = 0
    keys: Mapping[str, Any]
    dtypes: Mapping[str, np.dtype]
    tokenizer: Tokenizer | None = None
    notes: Sequence[str] = ()
    facts: Mapping[str, Any]
    files: Sequence[Path | TorchFile] = ()
    unread: Sequence[Path] = ()
    outside: Sequence[Path] = ()
    left_out: Sequence[Fate] = ()
    conversion: Mapping[str, Any] = MappingProxyType({})
    training: Training | None = None
    dp: int = 1

    @property
    def shapes(self) -> Shapes:
        """The shape of each whole parameter that `read` returns."""
        return self.checkpoint.shapes

    @abstractmethod
    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        """Read one part: its parameters, and the fates of the tensors that they were made of.

        The next part that the same thread reads may be written into the same arrays.
        """


class Target(ABC):
    """A checkpoint that is written: `start`, `write` every part, `write_training`, `finish`.

    Attributes:
        title: the program and the parallel sizes, in a few words.
        nbytes: the disk space that is needed, in bytes.
        notes: what a user of the files should know, one line each; complete after `start`.
        facts: what a certificate says about the files.
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
        """Write one part, and return the fates of the tensors that were made of it."""

    def write_training(self, training: Training, advance: Callable[[int], None]) -> None:
        """Write the optimizer's state, and call `advance` with the number of bytes written."""
        raise NotImplementedError(f"{self.title} takes no optimizer")

    @abstractmethod
    def finish(self) -> list[str]:
        """Write the rest, and return what could not be written, one line each."""

    @abstractmethod
    def reopen(self) -> Checkpoint:
        """Open the written checkpoint for the proof."""

    @abstractmethod
    def result(self, dst: Path) -> tuple[str, str]:
        """Return two lines for the terminal: what `dst` holds now, and what a user can do next."""
