"""The meshes and settings with which a run could be made, the likely best first."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jaxneox.config.schema import Config
from jaxneox.errors import UserError
from jaxneox.hlo.sent import Row
from jaxneox.parallel.mesh import Sizes, show, whole
from jaxneox.parallel.schedule import Schedule
from jaxneox.plan.times import Network
from jaxneox.plan.topology import Topology
from jaxneox.train.plan import TrainPlan
from jaxneox.train.step.flops import flops_per_token

REMAT = ("none", "dots", "full")
EFFICIENCY = 0.6
"""The share of the peak that arithmetic is taken to reach.

It weighs arithmetic against what is sent, and is the same for all candidates.
"""

ROOM = 0.92
"""The share of what a program can use of a chip's memory that it should fill at most."""


@dataclass(frozen=True)
class Candidate:
    """A mesh and settings with which a run could be made."""

    sizes: tuple[tuple[str, int], ...]
    zero: int
    remat: str
    sequence_parallel: bool
    micro: int

    def keys(self, keys: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
        """Return the user's keys with this candidate's settings, at the same global batch."""
        cut = ("gradient_accumulation_steps", "gas", "batch_size", "checkpoint_activations")
        zero = dict(keys.get("zero_optimization") or {}) | {"stage": self.zero}
        kept = {name: value for name, value in keys.items() if name not in cut}
        return kept | {
            "zero_optimization": zero,
            "remat_policy": self.remat,
            "checkpoint_activations": self.remat != "none",
            "sequence_parallel": self.sequence_parallel,
            "train_batch_size": cfg.batch.global_size,
            "train_micro_batch_size_per_gpu": self.micro,
        }

    @property
    def mesh(self) -> Sizes:
        return dict(self.sizes)

    def steps(self, cfg: Config) -> int:
        """Count the micro-batches of a step."""
        return cfg.batch.global_size // self.mesh["dp"] // self.micro

    def rounds(self, cfg: Config) -> float:
        """Count how often a stage computes all its layers.

        It does so for each micro-batch, and in a pipeline in ticks without one as well.
        """
        chunks = cfg.parallel.chunks if self.mesh["pp"] > 1 else 1
        return Schedule(self.mesh["pp"], chunks, self.steps(cfg)).ticks / chunks

    def __str__(self) -> str:
        extra = " sequence-parallel" * self.sequence_parallel
        mesh = show(self.mesh).replace(" ", "")
        return f"{mesh} ZeRO {self.zero} remat {self.remat} micro-batch {self.micro}{extra}"


@dataclass(frozen=True)
class Estimate:
    """A candidate's bytes on a device and seconds of a step, by formulas."""

    candidate: Candidate
    memory: float
    seconds: float


MOST_TP = 16
"""The most devices that a search splits a layer over."""


def candidates(cfg: Config, count: int, most_tp: int = MOST_TP) -> Iterator[Candidate]:
    """List all settings that divide. ZeRO is 1 or 3: 0 and 2 save nothing that these do not."""
    heads, layers = cfg.model.attention.kv_heads, cfg.model.num_layers
    for tp, pp in itertools.product(divisors(count), repeat=2):
        if count % (tp * pp) or heads % tp or cfg.model.mlp.size % tp:
            continue
        dp = count // (tp * pp)
        if layers % (pp * cfg.parallel.chunks) or cfg.batch.global_size % dp or tp > most_tp:
            continue
        sizes = tuple(whole({"pp": pp, "dp": dp, "tp": tp}).items())
        each = cfg.batch.global_size // dp
        micros = [m for m in divisors(each) if m & (m - 1) == 0 and each // m >= pp]
        stages = (1, 3) if dp > 1 and pp == 1 else (1,) if dp > 1 else (0,)
        for zero, remat, micro in itertools.product(stages, REMAT, micros):
            yield Candidate(sizes, zero, remat, tp > 1, micro)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def ranked(
    cfg: Config, plan: TrainPlan, topology: Topology, links: Callable[[Sizes], Network]
) -> list[Estimate]:
    """Rank the candidates that should fit, the fastest first; `links` puts a mesh on the topology.

    Raises:
        UserError: none should fit.
    """
    assert topology.chip is not None
    # no further than a host, as the formulas have no latency: Narayanan et al. 2021, Takeaway 1
    most_tp = min(MOST_TP, topology.shape[-1]) if topology.is_gpu else MOST_TP
    on = cache(lambda sizes: links(dict(sizes)))
    estimates = [
        Estimate(
            one,
            estimated_bytes(one, cfg, plan),
            estimated_seconds(one, cfg, plan, on(one.sizes)),
        )
        for one in candidates(cfg, topology.count, most_tp)
    ]
    fitting = [one for one in estimates if one.memory <= ROOM * topology.usable]
    if not fitting:
        least = min((one.memory for one in estimates), default=math.inf)
        raise UserError(
            f"no mesh of {topology.count} devices should fit: the least needs about "
            f"{least / 2**30:,.1f} GiB of {topology.usable / 2**30:,.1f}; take more or larger "
            "chips, or a smaller train-batch-size"
        )
    return sorted(fitting, key=lambda one: one.seconds)


def estimated_bytes(one: Candidate, cfg: Config, plan: TrainPlan) -> float:
    """Estimate the bytes on a device.

    They are float32 parameters, two moments and gradients; what a policy keeps of a layer; a
    layer's gathered weights with their gradient; scores; a chunk of logits.
    """
    sizes, total = one.mesh, plan.parameters
    held = total / (sizes["tp"] * sizes["pp"])
    dp = sizes["dp"]
    state = held * 4 * (1 / dp if one.zero == 3 else 1)  # parameters
    state += held * 8 / (dp if one.zero >= 1 else 1)  # moments
    state += held * 4 / (dp if one.zero >= 2 else 1)  # gradients
    m, width = cfg.model, _width(cfg)
    stream = one.micro * m.seq_length * m.hidden_size * width
    tp = sizes["tp"]
    residual = stream / (tp if one.sequence_parallel else 1)
    inner = stream * (3 + 2 * m.mlp.size / m.hidden_size) / tp
    scores = one.micro * m.attention.num_heads * m.seq_length**2 * (4 + width) / tp
    layer = {
        "full": residual,
        "dots": residual + inner + 2 * stream,
        "none": 6 * residual + 2 * inner + scores,
    }[one.remat]
    deep = m.num_layers // sizes["pp"]
    flying = 1 if sizes["pp"] == 1 else one.rounds(cfg)
    gathered = 3 * width * held * sizes["pp"] / m.num_layers
    return state + deep * flying * layer + scores + 4 * stream + gathered + 2**29


def estimated_seconds(one: Candidate, cfg: Config, plan: TrainPlan, links: Network) -> float:
    """Estimate the seconds of a step.

    They are arithmetic with recomputation and the pipeline's bubble, then what is sent.
    """
    chip = links.topology.chip
    assert chip is not None
    tokens = cfg.batch.global_size * cfg.model.seq_length
    again = {"none": 1.0, "dots": 1.01, "full": 1 + 7 / 36}[one.remat]  # scores; all
    each = flops_per_token(plan.model.shapes, cfg.model, plan.trained)
    flops = each * tokens / links.topology.count * again
    bubble = one.rounds(cfg) / one.steps(cfg)
    small = 1 + 0.15 / one.micro  # the less a product has of a batch, the less of the peak
    arithmetic = flops / (EFFICIENCY * chip.flops) * bubble * small
    return arithmetic + over_tp(one, cfg, links) + over_dp(one, cfg, plan, links)


def over_tp(one: Candidate, cfg: Config, links: Network) -> float:
    """Estimate the seconds in which tp gathers and sums the residual stream.

    It does so once for a layer, or for each branch of a sequential one, forward and backward. If
    the inputs of products are not kept the stream is gathered once more, and if their sums are not
    either the second branch needs that of the first again.
    """
    m = cfg.model
    stream = one.micro * m.seq_length * m.hidden_size * _width(cfg)
    branches = 1 if m.parallel_residual else 2
    times = (4 if one.remat == "none" else 5) * branches + (one.remat == "full") * (branches - 1)
    layers = m.num_layers / one.mesh["pp"]
    return layers * one.rounds(cfg) * times * _gathers(links, "tp", stream)


def over_dp(one: Candidate, cfg: Config, plan: TrainPlan, links: Network) -> float:
    """Estimate the seconds in which dp gathers weights and sums gradients.

    With ZeRO 3 these are the weights forward and backward, and their gradients, in each
    micro-batch. Else the parameters return to all once a step, in float32, and so do the gradients
    of several micro-batches to where they are updated; those of one, and in every tick of a
    pipeline, are summed on all.
    """
    held = plan.parameters / (one.mesh["tp"] * one.mesh["pp"])
    each, whole = (_gathers(links, "dp", held * width) for width in (_width(cfg), 4))
    if one.zero == 3:
        return 3 * one.steps(cfg) * each
    once = one.mesh["pp"] == 1 and one.steps(cfg) > 1
    return whole + (whole if once else 2 * one.rounds(cfg) * each)


def _gathers(links: Network, axis: str, size: float) -> float:
    """Estimate the seconds in which `size` bytes are gathered or, as many, summed to parts."""
    return links.seconds(Row("all-gather", axis, 1, int(size), "known"))


def _width(cfg: Config) -> int:
    """Return the bytes of a number that layers compute with."""
    return 4 if cfg.precision.compute == "float32" else 2
