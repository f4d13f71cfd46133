"""Megatron-LM's golden checkpoints, and files of it changed as its other versions would have them.

Golden cases are only where $JAXNEOX_SHARED is. What no golden case has is made by torch alone, of
our exports, whose files are the golden ones number by number (test_to_megatron).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convert.readers.jaxneox import open_jaxneox

State = dict[str, Any]
Model = dict[str, torch.Tensor]


def states(run: Path) -> Iterator[Path]:
    """The files of a run in the `torch` format."""
    yield from sorted(run.glob("*/mp_rank_*/model_optim_rng.pt"))


def load(path: Path) -> State:
    return torch.load(path, weights_only=False)


def rewrite(run: Path, change: Callable[[State], None]) -> None:
    """Every file of a run, after `change` of what it holds."""
    for path in states(run):
        state = load(path)
        change(state)
        torch.save(state, path)


def each(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[State], None]:
    """A change of every tensor by its name."""

    def of_state(state: State) -> None:
        state["model"] = {name: change(name, tensor) for name, tensor in state["model"].items()}

    return of_state


def say(**said: Any) -> Callable[[State], None]:
    """A change of the arguments; None takes one away."""

    def of_state(state: State) -> None:
        for name, value in said.items():
            if value is None:
                vars(state["args"]).pop(name, None)
            else:
                setattr(state["args"], name, value)

    return of_state


def leaves(run: Path) -> dict[str, np.ndarray]:
    """Of one of our checkpoints."""
    opened = open_jaxneox(run)
    return {name: opened.leaf(name) for name in opened.shapes}


def differing(one: Path, other: Path) -> list[str]:
    """Names of the leaves of two of our checkpoints that are not the same bits."""
    a, b = leaves(one), leaves(other)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return [n for n in a if a[n].dtype != b[n].dtype or a[n].tobytes() != b[n].tobytes()]
