"""The optimizer's state as DeepSpeed without ZeRO keeps it, and where NeoX cuts its pipeline.

Read from DeeperSpeed 0.16.5 (`runtime/engine.py`, `runtime/pipe/module.py`, `ops/adam`) and NeoX
HEAD ea7aefd8 (`megatron/learning_rates.py`, `megatron/model/utils.py`).
"""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.readers.neox_adam import is_group_of
from jaxneox.errors import UserError

REGISTERED = (
    "word_embeddings", "position_embeddings", "input_layernorm", "attention.qk_layernorm",
    "attention.query_key_value", "attention.rpe", "attention.dense", "post_attention_layernorm",
    "mlp.linear1", "mlp.linear2", "norm", "mixer.A_log", "mixer.D", "mixer.in_proj",
    "mixer.conv1d", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj", "final_linear",
)  # fmt: skip
"""The order in which torch numbers the parameters of a module: modules, or single parameters."""


class Counters(NamedTuple):
    """The numbers beside the moments: updates, position in the schedule, rate and constants."""

    updates: int
    position: int
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: dict[str, Any]
    bias_correction: bool = True


@dataclass
class AdamState:
    """A collector of all ranks' moments, on the disk, module by module in any order."""

    folder: Path
    counters: Counters
    _kept: dict[tuple[int, int, str, str], np.ndarray] = field(default_factory=dict)
    _unused: set[tuple[int, str]] = field(default_factory=set)

    def add(self, rank: int, index: int, name: str, **values: np.ndarray) -> None:
        """Add `exp_avg` and `exp_avg_sq` of a rank's tensor, and `master` if it is wanted."""
        for kind, value in values.items():
            path = self.folder / f"{rank}.{index}.{name}.{kind}.npy"
            kept = np.memmap(path, np.float32, "w+", shape=value.shape)
            kept[...] = value
            kept.flush()
            self._kept[rank, index, name, kind] = kept

    def leave_out(self, index: int, name: str) -> None:
        """Leave out a parameter without a gradient, which has a number and no state."""
        self._unused.add((index, name))

    def state(self, rank: int, modules: Sequence[int]) -> dict[str, Any]:
        """Return the state in a rank's mp_rank file, for the stage of these modules in order."""
        return {"optimizer": self._numbered(rank, modules)}

    def files(self, number: int, rank: int, modules: Sequence[int]) -> dict[str, Any]:
        """Return the content of further files by name; `number` is that of the mp_rank file."""
        return {}

    def _numbered(self, rank: int, modules: Sequence[int]) -> dict[str, Any]:
        """Return torch's own state."""
        state: dict[int, Any] = {}
        described, number = [], 0
        for k, group in enumerate(self.groups(rank, modules)):
            described.append(self._group(k, range(number, number + len(group))))
            for index, param in group:
                if (index, param) not in self._unused:
                    state[number] = {"step": self.counters.updates} | {
                        kind: self._kept[rank, index, param, kind]
                        for kind in ("exp_avg", "exp_avg_sq")
                    }
                number += 1
        return {"state": state, "param_groups": described}

    def groups(self, rank: int, modules: Sequence[int]) -> list[list[tuple[int, str]]]:
        """Group parameters by decay, in the modules' order; without decay there is one group."""
        order = [(index, name) for index in modules for name in self._names(rank, index)]
        if not self.counters.weight_decay:
            return [order]
        return [[p for p in order if is_group_of(p[1]) == kind] for kind in (0, 1)]

    def remove(self) -> None:
        """Remove the collected files."""
        shutil.rmtree(self.folder)

    def _names(self, rank: int, index: int) -> list[str]:
        named = {n for r, i, n, _ in self._kept if (r, i) == (rank, index)}
        named |= {n for i, n in self._unused if i == index}

        def place(name: str) -> tuple[int, bool]:
            module, _, kind = name.rpartition(".")
            return REGISTERED.index(name if name in REGISTERED else module), kind == "bias"

        return sorted(named, key=place)

    def _group(self, k: int, numbers: range) -> dict[str, Any]:
        c = self.counters
        return {
            "name": ("weight_decay_params", "no_weight_decay_params")[k],
            "lr": c.lr,
            "bias_correction": c.bias_correction,
            "betas": list(c.betas),
            "eps": c.eps,
            "weight_decay": 0.0 if k else c.weight_decay,
            "step": c.updates,  # Apex's Adam counts here, DeepSpeed's by parameter
            "params": list(numbers),
        }


def stage_modules(layers: int, stages: int, method: str) -> list[range]:
    """List the modules of each stage, out of the Sequential's L + 5."""
    if method == "uniform":
        size, more = divmod(layers + 5, stages)
        bounds = [stage * size + min(stage, more) for stage in range(stages + 1)]
    elif method == "type:transformer|mlp":
        bounds = balanced([0, 0, *[1] * layers, 0, 0, 0], stages)
    else:
        raise UserError(
            f"pipe_partition_method: {method}: its stages are not known here; with --optimizer "
            "and --pp above 1 expected type:transformer|mlp or uniform"
        )
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


def balanced(weights: Sequence[int], parts: int) -> list[int]:
    """Return the bounds of consecutive parts whose largest and smallest sums differ least.

    Ties are broken towards the latest bounds, like DeepSpeed's `partition_balanced`: part by part
    it keeps, for every number of first items, the largest and the smallest sum of its choice.
    """
    sums = np.concatenate([[0], np.cumsum(weights)])

    @cache
    def best(items: int, count: int) -> tuple[float, float, float, int]:
        """Return (difference, largest, smallest, begin of the last part)."""
        if count == 0:
            return (0.0, 0.0, np.inf, 0) if items == 0 else (np.inf, np.inf, np.inf, 0)
        least = (np.inf, np.inf, np.inf, 0)
        if count > items:
            return least
        for begin in range(items):
            _, largest, smallest, _ = best(begin, count - 1)
            own = float(sums[items] - sums[begin])
            largest, smallest = max(largest, own), min(smallest, own)
            if least[0] >= largest - smallest:
                least = (largest - smallest, largest, smallest, begin)
        return least

    bounds = [len(weights)]
    for count in range(parts, 0, -1):
        bounds.append(best(bounds[-1], count)[3])
    return bounds[::-1]
