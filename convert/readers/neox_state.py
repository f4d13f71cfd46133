"""Adam's state, tensor by tensor as NeoX names its weights."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from convert.readers.torch_file import LazyTensor, TorchFile
from convert.rules.neox import BUFFERS
from jaxneox.errors import UserError

Quantity = Literal["master", "exp_avg", "exp_avg_sq"]
QUANTITIES: tuple[Quantity, ...] = ("master", "exp_avg", "exp_avg_sq")
ALONE = "the weights alone convert without --optimizer"


class Numbers(Protocol):
    """Something that is an array when it is asked."""

    def numpy(self) -> np.ndarray: ...


class Param(NamedTuple):
    """A parameter by the Sequential index of its module and its name there (HEAD's)."""

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
        found, at = [], 0
        end = self.start + int(np.prod(self.shape))
        for part in self.parts:
            first, last = max(self.start - at, 0), min(end - at, part.size)
            if first < last:
                found.append(part.numpy()[first:last])
            at += part.size
        flat = found[0] if len(found) == 1 else np.concatenate(found)
        return flat.reshape(self.shape)


@dataclass
class NeoxOptimizer:
    """Raises UserError for files that are missing, damaged, or of another step than the weights.

    Attributes:
        tensors: by (quantity, rank, index, name); no master where the weights are in float32.
        files: what was read besides the weights' files.
        count: the updates that Adam has made.
        counts: the same as each file says it, by name.
        position: of the learning rate's schedule.
        scale: of the loss, where it moves: DeepSpeed's `cur_scale` and its like.
        partitions: data-parallel parts; 0 without ZeRO.
        stages: the modules of each pipeline stage; none with ZeRO.
        clipping: by global norm, as DeepSpeed was told; 0 is none.
        lr: the learning rate that the next step would have; None where the files do not say.
        constants: of Adam: `betas`, `eps`, `weight_decay` and others.
    """

    tensors: dict[tuple[Quantity, int, int, str], Numbers]
    files: list[TorchFile]
    count: int
    position: int
    partitions: int
    clipping: float
    lr: float | None = None
    stages: list[list[int]] = field(default_factory=list)
    scale: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def has_master(self) -> bool:
        return any(quantity == "master" for quantity, *_ in self.tensors)

    def ranks(self, quantity: Quantity, shards: Mapping[str, Any], index: int, mp: int) -> Any:
        """One module's tensors of a quantity, by rank; zeros for what has never had a gradient."""
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
        found = self.tensors.get((quantity, rank, index, name))
        return np.zeros(tensor.shape, np.float32) if found is None else found.numpy()


def put(
    found: NeoxOptimizer, quantity: Quantity, rank: int, param: Param, value: Numbers, path: Path
) -> None:
    """A tied embedding is there twice, in the first stage and in the last."""
    key = (quantity, rank, param.module, param.name)
    other = found.tensors.setdefault(key, value)
    if other is not value and not np.array_equal(other.numpy(), value.numpy()):
        found.warnings.append(
            f"{path.name}: {quantity} of the tied {param.name} is another one than the first "
            "stage's, which is taken"
        )


def updates_of(states: Iterable[Any], groups: Iterable[Any]) -> int:
    """That one file's Adam has made.

    DeepSpeed's FusedAdam and torch's count by parameter, the former without ZeRO in the last one of
    a group alone; Apex's, which NeoX takes where it is installed, counts by group.
    """
    return max((integer(one.get("step")) for one in (*states, *groups)), default=0)


def take_constants(found: NeoxOptimizer, groups: list[Any]) -> None:
    """Adam's of the parameters that decay; those of the others differ in `weight_decay` alone.

    Raises ValueError where a file before said otherwise.
    """
    decays = max(groups, key=lambda group: group.get("weight_decay", 0.0))
    lr = None if decays.get("lr") is None else number(decays["lr"])
    constants: dict[str, Any] = {
        name: number(decays[name]) for name in ("eps", "weight_decay") if name in decays
    }
    if "betas" in decays:
        first, second = decays["betas"]
        constants["betas"] = [number(first), number(second)]
    if found.constants and (found.lr, found.constants) != (lr, constants):
        raise ValueError("its Adam has another learning rate or constant than the files before")
    found.lr, found.constants = lr, constants


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """An error of this file's where it is not built as DeepSpeed builds them."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: its optimizer is in no form that is known here ({what}); copy the file "
            f"again, or {ALONE}"
        ) from error


def integer(value: Any) -> int:
    return 0 if value is None else int(number(value))


def number(value: Any) -> float:
    """Raises TypeError or ValueError for what is none."""
    if isinstance(value, LazyTensor):
        value = value.numpy().item()
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return value
