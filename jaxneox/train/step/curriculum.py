"""The first positions of each row, of more and more length: DeepSpeed's curriculum learning.

A step trains on the first d positions of its rows, and its loss is the mean over them. What it
computes on is cut, so that short lengths cost less; but each length that is cut to is a program of
its own to be compiled. So rows are cut to the whole length or to a half, a quarter or an eighth of
it, whichever is the shortest that holds d, and the positions beyond d have no weight. As attention
looks back only, they change nothing before them.
"""
# R rows, S tokens of a sample

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.data_schema import CurriculumConfig
from jaxneox.config.schema import Config
from jaxneox.errors import UserError
from jaxneox.objectives import DOCUMENTS, WEIGHTS
from jaxneox.parallel.divides import check_divides
from jaxneox.parallel.mesh import Sizes

PARTS = (1, 2, 4, 8)
"""Of the whole length, one program each."""

LANES = 128
"""Some kernels take only lengths that are multiples of it."""

Fields = dict[str, NDArray[Any]]


def difficulty(cfg: CurriculumConfig, step: int) -> int:
    """Return d, the number of first positions that a step trains on.

    With s steps of a total of n: fixed_linear takes the share r = s / n, fixed_root r = (s /
    n)^(1/root), and d is floor(r (most - least) + least), rounded down to a multiple and at most
    `most`. fixed_discrete takes the first of its lengths whose last step is not before s. A length
    that has reached `most` stays (DeepSpeed's CurriculumScheduler).

    Args:
        cfg: the schedule.
        step: s, counted from 1.
    """
    if cfg.schedule == "fixed_discrete":
        stage = next((i for i, last in enumerate(cfg.until) if step <= last), len(cfg.until))
        reached = (i for i, length in enumerate(cfg.lengths) if length >= cfg.most)
        return cfg.lengths[min(stage, next(reached, stage))]
    share = (step / cfg.total) ** (1 / cfg.root)
    length = math.floor(share * (cfg.most - cfg.least) + cfg.least)
    return min(length - length % cfg.multiple, cfg.most)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A curriculum for rows of one length, on one mesh.

    Attributes:
        cfg: the schedule.
        lengths: to which rows are cut, the whole length first.
    """

    cfg: CurriculumConfig
    lengths: tuple[int, ...]

    def positions(self, step: int) -> int:
        """Return the number of positions of a row that a step trains on, counted from 0."""
        return min(difficulty(self.cfg, step + 1), self.lengths[0])

    def length(self, step: int) -> int:
        """Return the length to which a step's rows are cut."""
        return min(length for length in self.lengths if length >= self.positions(step))

    def cut(self, fields: Fields, step: int) -> Fields:
        """Cut a step's rows of tokens [R, S + 1], weights [R, S] and perhaps documents [R, S]."""
        length, counted = self.length(step), self.positions(step)
        weights = fields[WEIGHTS][:, :length] * (np.arange(length) < counted)
        cut = {"tokens": fields["tokens"][:, : length + 1], WEIGHTS: weights.astype(np.float32)}
        if DOCUMENTS in fields:
            cut[DOCUMENTS] = fields[DOCUMENTS][:, :length]
        return fields | cut


def curriculum_on(cfg: Config, sizes: Sizes, ring: bool) -> Curriculum | None:
    """Choose the lengths to which rows are cut on a mesh; None without a curriculum.

    Args:
        cfg: the whole configuration.
        sizes: devices by mesh axis.
        ring: whether attention passes keys around a ring.
    """
    if cfg.train.curriculum is None:
        return None
    whole = cfg.model.seq_length
    lengths = [whole // part for part in PARTS if whole % part == 0]
    fitting = [n for n in lengths if n == whole or _fits(cfg, n, sizes, ring)]
    return Curriculum(cfg.train.curriculum, tuple(fitting))


def _fits(cfg: Config, length: int, sizes: Sizes, ring: bool) -> bool:
    """Tell whether a mesh and the kernel take rows of a length, and compute the same of them.

    Masks of attention's dropout are drawn for whole rows, so that they would depend on the length.
    """
    attention = cfg.model.attention
    if attention.dropout or (attention.kernel == "splash" and length % LANES):
        return False
    try:
        check_divides(sizes, dataclasses.replace(cfg.model, seq_length=length), cfg.parallel, ring)
    except UserError:
        return False
    return True
