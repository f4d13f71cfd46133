"""Adam's state, tensor by tensor, by NeoX's names of the weights."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from convert.fate import differ
from convert.readers.torch_file import LazyTensor, TorchFile
from convert.rules.neox import BUFFERS
from jaxneox.errors import UserError

Quantity = Literal["master", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("master", "exp_avg", "exp_avg_sq")
ALONE = "the weights alone convert without --optimizer"


class Numbers(Protocol):
    """Numbers that become an array when they are read."""

    def numpy(self) -> np.ndarray: ...


class Param(NamedTuple):
    """A parameter by the Sequential index of its module and its HEAD name there."""

    module: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """A part of a flat array that lies in several files."""

    parts: list[LazyTensor]
    start: int
    shape: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        pieces, at = [], 0
        end = self.start + int(np.prod(self.shape))
        for part in self.parts:
            first, last = max(self.start - at, 0), min(end - at, part.size)
            if first < last:
                pieces.append(part.numpy()[first:last])
            at += part.size
        flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return flat.reshape(self.shape)


@dataclass
class NeoxOptimizer:
    """The state of a NeoX run's Adam.

    Attributes:
        tensors: by (quantity, rank, index, name); there is no master if weights are float32.
        files: the files that were read besides the weights' files.
        count: the number of updates that Adam has made.
        counts: the same number as each file gives it, by file name.
        position: the position in the learning rate schedule.
        scale: the dynamic loss scale: DeepSpeed's `cur_scale` and its like.
        partitions: the number of data-parallel partitions; 0 without ZeRO.
        stages: the modules of each pipeline stage; none with ZeRO.
        clipping: DeepSpeed's threshold for the global gradient norm; 0 means no clipping.
        lr: the learning rate of the next step; None if the files do not say.
        one_rate: whether all parameters have the same; EleutherAI's mup records the widths by
            which it divides them, and with microsoft's NeoX divides by none.
        constants: Adam's `betas`, `eps`, `weight_decay` and others.

    Raises:
        UserError: files are missing, damaged, or of another step than the weights.
    """

    tensors: dict[tuple[Quantity, int, int, str], Numbers]
    files: list[TorchFile]
    count: int
    position: int
    partitions: int
    clipping: float
    lr: float | None = None
    one_rate: bool = True
    stages: list[list[int]] = field(default_factory=list)
    scale: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def has_master(self) -> bool:
        return any(quantity == "master" for quantity, *_ in self.tensors)

    def ranks(self, quantity: Quantity, shards: Mapping[str, Any], index: int, mp: int) -> Any:
        """Return a module's tensors of a quantity by rank; those without gradients are zero."""
        return [
            {
                name: self._array(quantity, rank, index, name, tensor)
                for name, tensor in shards.items()
                if name not in BUFFERS
            }
            for rank in range(mp)
        ]

    def _array(
        self, quantity: Quantity, rank: int, index: int, name: str, tensor: LazyTensor
    ) -> np.ndarray:
        numbers = self.tensors.get((quantity, rank, index, name))
        return np.zeros(tensor.shape, np.float32) if numbers is None else numbers.numpy()


def put(
    optimizer: NeoxOptimizer,
    quantity: Quantity,
    rank: int,
    param: Param,
    value: Numbers,
    path: Path,
) -> None:
    """Record a tensor; a tied embedding comes twice, from the first stage and from the last."""
    key = (quantity, rank, param.module, param.name)
    other = optimizer.tensors.setdefault(key, value)
    if other is not value and differ([other.numpy(), value.numpy()]):
        optimizer.warnings.append(
            f"{path.name}: {quantity} of the tied {param.name} differs from the first "
            "stage's, which is taken"
        )


def updates_of(states: Iterable[Any], groups: Iterable[Any]) -> int:
    """Return the updates that Adam has made according to one file.

    DeepSpeed's FusedAdam and torch's Adam count by parameter, the former without ZeRO only in the
    last parameter of a group. Apex's, which NeoX takes if it is installed, counts by group.
    """
    return max((integer(one.get("step")) for one in (*states, *groups)), default=0)


def take_constants(optimizer: NeoxOptimizer, groups: list[Any]) -> None:
    """Record Adam's constants for parameters that decay; others differ only in `weight_decay`.

    With muP, hidden matrices have a rate and a decay of their own; their groups come first.

    Raises:
        ValueError: an earlier file had other constants.
    """
    decays = ([group for group in groups if group.get("weight_decay")] or groups)[-1]
    optimizer.one_rate = not any("width_mult" in group for group in groups)
    lr = None if decays.get("lr") is None else number(decays["lr"])
    constants: dict[str, Any] = {
        name: number(decays[name]) for name in ("eps", "weight_decay") if name in decays
    }
    if "betas" in decays:
        first, second = decays["betas"]
        constants["betas"] = [number(first), number(second)]
    if optimizer.constants and (optimizer.lr, optimizer.constants) != (lr, constants):
        raise ValueError("its Adam has another learning rate or constant than the files before")
    optimizer.lr, optimizer.constants = lr, constants


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of unpacking into a UserError that names the file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: its optimizer has an unknown form ({what}); copy the file again, or {ALONE}"
        ) from error


def integer(value: Any) -> int:
    return 0 if value is None else int(number(value))


def number(value: Any) -> float:
    """Return a value as a number.

    Raises:
        TypeError: it is not a number.
        ValueError: it is a tensor of several numbers.
    """
    if isinstance(value, LazyTensor):
        value = value.numpy().item()
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return value
