"""The facts about a checkpoint. `--json` prints these fields by these names; unknown is null."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

Kind = Literal["neox", "huggingface", "jaxneox", "megatron"]
TITLES: dict[Kind, str] = {
    "neox": "GPT-NeoX",
    "huggingface": "Hugging Face",
    "jaxneox": "jaxneox",
    "megatron": "Megatron-LM",
}


@dataclass(frozen=True)
class Architecture:
    """A model's architecture, as far as the files tell.

    Attributes:
        vocabulary: the rows of the embedding, including padding.
        positions, mlp: a few words, such as `rotary 25%` and `gated silu`.
        head: what follows the last norm, tokens (logits) or reward.
        mamba: which layers are state spaces, in a few words; None if there are none.
    """

    layers: int
    hidden: int
    heads: int | None = None
    groups: int | None = None  # key-value heads
    head_dim: int | None = None
    residual: str | None = None
    norm: str | None = None
    positions: str | None = None
    mlp: str | None = None
    mlp_width: int | None = None
    tied: bool | None = None
    vocabulary: int | None = None
    sequence: int | None = None
    head: str | None = None
    mamba: str | None = None


@dataclass(frozen=True)
class Optimizer:
    """The optimizer of a checkpoint.

    Attributes:
        zero_stage: DeepSpeed's ZeRO stage; 0 means without ZeRO.
        partitions: ZeRO's data-parallel partitions; 0 means without ZeRO.
        updates: the number of updates made; null if no file says so or it could not be read.
        master_weights: their dtype, if they are kept besides the weights.
        loss_scale: the loss scale, if there is one.
        layout: how the states lie in the files, if there are several ways.
    """

    name: str
    zero_stage: int | None = None
    partitions: int | None = None
    updates: int | None = None
    master_weights: str | None = None
    loss_scale: float | None = None
    layout: str | None = None


@dataclass(frozen=True)
class LargestDrift:
    """The largest difference among the tensors that every rank has a copy of.

    Attributes:
        largest: the largest difference between two ranks.
        typical: the root mean square of the tensor itself.
    """

    largest: float
    typical: float
    tensor: str | None  # null where no copy differs
    layer: int | None
    differing: int  # tensors of which the copies differ
    copied: int  # tensors that every rank has a copy of


@dataclass(frozen=True)
class Use:
    """A command of this project for the checkpoint, or the reason why it cannot be used.

    The user chooses `DST`, `OUT` and `OTHER`. `after` is the command that has to be run first.
    """

    command: str
    what: str
    possible: bool = True
    reason: str | None = None
    after: str | None = None


@dataclass
class Facts:
    """The facts about one checkpoint.

    Attributes:
        path: the folder of the checkpoint.
        layout: the way in which the program laid out the files.
        generation: the version of the program that wrote it, as far as the files tell.
        steps: all steps in its run's folder, including its own.
        parallel: the number of ranks by `tp`, `pp`, `dp`, as the files have them; null if
            nothing tells. `vpp` is there if stages have several parts. Empty for files without
            ranks.
        dtypes: how many of the parameters have each dtype.
        not_finite: tensors that hold NaN or infinity, with the count of such numbers.
        bytes: sizes on disk, by `weights`, `optimizer` and `rest`.
        notes: what a user should know.
        problems: what is missing, damaged or cannot be read here; empty if all is well.
    """

    path: Path
    kind: Kind
    layout: str
    generation: str | None = None
    step: int | None = None
    steps: list[int] = field(default_factory=list)
    parallel: dict[str, int | None] = field(default_factory=dict)
    architecture: Architecture | None = None
    parameters: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    optimizer: Optimizer | None = None
    drift: LargestDrift | None = None
    not_finite: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self) | {"path": str(self.path)}
        if self.drift and not isfinite(self.drift.largest):
            fields["drift"] |= {"largest": None, "typical": None}  # JSON has no other word for it
        return fields
