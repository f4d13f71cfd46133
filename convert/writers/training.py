"""Writes the optimizer's part of our checkpoints: Adam's moments and the counters."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from convert.checkpoint import Moment
from convert.parts import Leaves, Part, place_in
from convert.writers.jaxneox import JaxneoxWriter
from jaxneox.config.schema import Config, LogConfig
from jaxneox.errors import UserError
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import new_state


class TrainingWriter:
    """A writer of `training` for the step of `writer`: every moment once, and the counters.

    Raises:
        UserError: the configuration's optimizer is not Adam, whose moments these are.
    """

    def __init__(self, writer: JaxneoxWriter, config: Config) -> None:
        if config.optimizer.kind not in ("adam", "adamw"):
            raise UserError(
                f"optimizer.type: {config.optimizer.kind}, expected Adam, whose moments the files "
                "have"
            )
        self._config = config
        shapes = _abstract(config)
        self._named = {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        }
        scalars = jax.tree.map(lambda leaf: np.zeros((), leaf.dtype), shapes)
        leaves = {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in self._named.items()}
        self._item = writer.training(scalars, leaves)
        named = next(name for name in self._named if ".mu." in name)
        self._adam = named.partition(".mu.")[0]

    def moments(self, moment: Moment, part: Part, values: Leaves) -> None:
        """Write float32 moments of the parameters of a part."""
        for name, value in values.items():
            place = place_in(part, name, self._config.model)
            self._item.write(f"{self._adam}.{moment}.{name}", place, value)

    def counters(
        self,
        *,
        step: int,
        updates: int,
        position: int,
        skipped: int = 0,
        scale: tuple[float, int, int] | None = None,
    ) -> None:
        """Write the counters.

        Args:
            step: the number of batches seen.
            updates: the number of updates that Adam has made.
            position: the position in the learning rate schedule.
            skipped: the number of steps without an update.
            scale: the loss scale: factor, steps without overflow, overflows still forgiven; by
                default that of a fresh run.
        """
        values: dict[str, Any] = {"step": step, "skipped": skipped, "streak": 0}
        loss = self._config.precision.loss_scale
        fresh = (loss.static or loss.initial, 0, loss.hysteresis) if loss else (1.0, 0, 1)
        names = ("scale.factor", "scale.calm", "scale.patience")
        values |= dict(zip(names, scale if scale and loss else fresh, strict=True))
        for name in self._named:
            if name.endswith(".count"):
                values[name] = updates if name == f"{self._adam}.count" else position
        for name, value in values.items():
            self._item.write(name, None, np.asarray(value, self._named[name].dtype))


def _abstract(config: Config) -> dict[str, Any]:
    """Return the tree of `training` as shapes, the same for every mesh."""
    config = replace(config, log=LogConfig())  # figures that only a run has are not in the files
    plan = build_plan(config, {}, eod=0)  # whatever the token is, it changes no shape
    state = jax.eval_shape(partial(new_state, plan))
    return {name: value for name, value in state._asdict().items() if name != "params"}
