"""The optimizer's state as DeepSpeed keeps it for bfloat16: flat float32 arrays in partitions.

Read from DeeperSpeed 0.16.5 (`runtime/bf16_optimizer.py`, `_load_legacy_checkpoint`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.rules.neox import EMBEDDING
from convert.writers.neox_adam import AdamState

Flat = dict[str, np.ndarray]  # by exp_avg, exp_avg_sq and master

VERSION = "0.16.5"  # of DeepSpeed; it reads no file without one
ALIGNED = 2  # every part begins on a multiple of so many numbers


@dataclass
class ZeroState(AdamState):
    """A collector of moments and master weights.

    Attributes:
        parts: the number of data-parallel ranks, each with an equal part.
        tied: whether the embedding has the name of a tied module.
        sequential: whether names begin as in the Sequential engine.
    """

    parts: int = 1
    tied: bool = False
    sequential: bool = False
    clipping: float = 0.0

    def state(self, rank: int, modules: Sequence[int]) -> dict[str, Any]:
        """Return the fields of an mp_rank file.

        `param_shapes` describes the flat arrays of each group.
        """
        shapes = [
            OrderedDict(
                (self._full(index, name), self._kept[rank, index, name, "master"].shape)
                for index, name in group
            )
            for group in self.groups(rank, modules)
        ]
        return {"optimizer": None, "param_shapes": shapes, "dp_world_size": self.parts}

    def files(self, number: int, rank: int, modules: Sequence[int]) -> dict[str, Any]:
        return {
            f"bf16_zero_pp_rank_{part}_mp_rank_{number:02d}_optim_states.pt": content
            for part, content in enumerate(self._partitions(rank, modules))
        }

    def _partitions(self, rank: int, modules: Sequence[int]) -> list[dict[str, Any]]:
        """Return the content of each data-parallel rank's file."""
        flat = [
            {
                kind: np.concatenate(
                    [self._kept[rank, index, name, kind].reshape(-1) for index, name in group]
                )
                for kind in ("master", "exp_avg", "exp_avg_sq")
            }
            for group in self.groups(rank, modules)
        ]
        padded = [{kind: self._padded(values) for kind, values in g.items()} for g in flat]
        described = [self._group(k, range(k, k + 1)) for k in range(len(flat))]
        return [self._part(part, padded, flat, described) for part in range(self.parts)]

    def _part(
        self, part: int, padded: list[Flat], flat: list[Flat], described: list[dict[str, Any]]
    ) -> dict[str, Any]:
        last = part == self.parts - 1
        state = {
            k: {
                "step": self.counters.updates,
                "exp_avg": group["exp_avg"][part],
                "exp_avg_sq": group["exp_avg_sq"][part],
            }
            for k, group in enumerate(padded)
        }
        saved = {
            "clip_grad": self.clipping,
            "base_optimizer_state": {"state": state, "param_groups": described},
            "single_partition_of_fp32_groups": [group["master"][part] for group in padded],
            "group_paddings": [
                (group["master"].size - values["master"].size) * last
                for group, values in zip(padded, flat, strict=True)
            ],
            "partition_count": [self.parts] * len(padded),
            "ds_version": VERSION,
        }
        return {"optimizer_state_dict": saved, "ds_config": {}, "ds_version": VERSION}

    def _padded(self, values: np.ndarray) -> np.ndarray:
        """Pad a flat array and divide it: [parts, each]."""
        multiple = ALIGNED * self.parts
        return np.pad(values, (0, -values.size % multiple)).reshape(self.parts, -1)

    def _full(self, index: int, name: str) -> str:
        if self.tied and index == EMBEDDING:
            return f"tied_modules.embed.{name}"
        return f"sequential.{index}.{name}" if self.sequential else f"{index}.{name}"
