"""Rewards of a file's texts: their figures, and each line with its own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from jaxneox.data.atomic import atomic_file
from jaxneox.evaluate.report import plain
from jaxneox.evaluate.texts import CHOSEN, REJECTED, RewardRow

SHOWN = {
    "texts": "texts",
    "reward": "mean reward",
    "pairs": "pairs",
    "chosen_reward": "mean reward, chosen",
    "rejected_reward": "mean reward, rejected",
    "accuracy": "accuracy (chosen above rejected)",
    "margin": "mean margin",
}
"""Figures by their names, as they are shown."""


@dataclass(frozen=True)
class Rewarded:
    """The lines of a file with their rewards.

    Attributes:
        name: the file's.
        rows: its lines.
        rewards: of all their texts, in their order.
    """

    name: str
    rows: Sequence[RewardRow]
    rewards: NDArray[np.float32]

    @property
    def of_rows(self) -> Iterator[tuple[RewardRow, list[float]]]:
        """Each line with the reward of its text, or those of the chosen and the rejected one."""
        rest = iter(self.rewards.tolist())
        for row in self.rows:
            yield row, [next(rest) for _ in row.tokens]

    def figures(self) -> dict[str, float]:
        """Collect the figures, by their names.

        A pair is right if its chosen text has the greater reward; equal ones are wrong.
        """
        every = [found for _, found in self.of_rows]
        singles = np.array([found[0] for found in every if len(found) == 1])
        pairs = np.array([found for found in every if len(found) == 2]).reshape(-1, 2)
        margins = pairs[:, 0] - pairs[:, 1]
        figures: dict[str, float] = {}
        if len(singles):
            figures |= {"texts": len(singles), "reward": float(singles.mean())}
        if len(pairs):
            figures |= {
                "pairs": len(pairs),
                "chosen_reward": float(pairs[:, 0].mean()),
                "rejected_reward": float(pairs[:, 1].mean()),
                "accuracy": float((margins > 0).mean()),
                "margin": float(margins.mean()),
            }
        return figures

    def table(self) -> Table:
        table = plain(f"{Path(self.name).name}: rewards")
        table.add_column("figure")
        table.add_column("value", justify="right", no_wrap=True)
        for name, value in self.figures().items():
            table.add_row(SHOWN[name], f"{value:.6f}" if isinstance(value, float) else f"{value:,}")
        return table

    def write(self, name: str) -> None:
        """Write each line with its reward, or with those of the chosen and the rejected text."""
        with atomic_file(Path(name)) as file:
            for row, found in self.of_rows:
                keys = (f"{CHOSEN}_reward", f"{REJECTED}_reward") if row.is_pair else ("reward",)
                line: dict[str, Any] = row.document | dict(zip(keys, found, strict=True))
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
