"""What is known of a checkpoint. `--json` prints these fields by these names; unknown is null."""

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
    """As far as the files tell. `vocabulary` is the rows of the embedding, padded ones included;
    `positions` and `mlp` are words, such as `rotary 25%` and `gated silu`."""

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


@dataclass(frozen=True)
class Optimizer:
    """
    Attributes:
        zero_stage, partitions: DeepSpeed's ZeRO and its data-parallel parts; 0 is without.
        updates: that were made; null where no file says so or it could not be read.
        master_weights: their dtype, where they are kept besides the weights.
        loss_scale: where there is one.
        layout: how the states lie in the files, where there are several ways.
    """

    name: str
    zero_stage: int | None = None
    partitions: int | None = None
    updates: int | None = None
    master_weights: str | None = None
    loss_scale: float | None = None
    layout: str | None = None


@dataclass(frozen=True)
class Drift:
    """How far apart the ranks' copies of one tensor are, where most: `largest` between two ranks,
    `typical` the root mean square of the tensor itself."""

    largest: float
    typical: float
    tensor: str | None  # null where no copy differs
    layer: int | None
    differing: int  # tensors of which the copies differ
    copied: int  # tensors that every rank has a copy of


@dataclass(frozen=True)
class Use:
    """Something this project does with the checkpoint, or why it cannot; `DST`, `OUT` and `OTHER`
    are the user's to name. `after` is what has to be done first."""

    command: str
    what: str
    possible: bool = True
    reason: str | None = None
    after: str | None = None


@dataclass
class Facts:
    """
    Attributes:
        path: the folder of the one checkpoint that was looked at.
        layout: which of the kind's ways to lay out files.
        generation: of the program that wrote it, as far as the files tell.
        steps: all that lie beside it, itself included.
        parallel: ranks by `tp`, `pp`, `dp`, as the files have them, null where nothing tells;
            `vpp` where stages have several parts. Empty for files of no ranks.
        dtypes: how many of the parameters have each.
        not_finite: tensors that hold NaN or infinity, with how many of their numbers.
        bytes: on disk, by `weights`, `optimizer` and `rest`.
        notes: what a user should know.
        problems: what is missing, damaged or not to be read here; empty where all is well.
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
    drift: Drift | None = None
    not_finite: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self) | {"path": str(self.path)}
        if self.drift and not isfinite(self.drift.largest):
            found["drift"] |= {"largest": None, "typical": None}  # JSON has no other word for it
        return found
