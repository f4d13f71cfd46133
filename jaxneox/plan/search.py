"""The meshes and settings with which a run could be made, the likely best first."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxneox.config.schema import Config
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import Sizes, show
from jaxneox.plan.topology import Topology
from jaxneox.train.flops import flops_per_token
from jaxneox.train.run import Plan

REMAT = ("none", "dots", "full")
EFFICIENCY = 0.6
"""Of the peak, that arithmetic reaches: it weighs arithmetic against what is sent, and is the same
for all candidates."""

ROOM = 0.92
"""Of a chip's memory, that a program should fill at most."""


@dataclass(frozen=True)
class Candidate:
    sizes: tuple[tuple[str, int], ...]
    zero: int
    remat: str
    sequence_parallel: bool
    micro: int

    def keys(self, keys: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
        """The user's keys with this candidate's settings, at the same global batch."""
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

    def __str__(self) -> str:
        extra = " sequence-parallel" * self.sequence_parallel
        mesh = show(self.mesh).replace(" ", "")
        return f"{mesh} ZeRO {self.zero} remat {self.remat} micro-batch {self.micro}{extra}"


@dataclass(frozen=True)
class Estimate:
    """By formulas: bytes of a device, seconds of a step."""

    candidate: Candidate
    memory: float
    seconds: float


def candidates(cfg: Config, count: int) -> Iterator[Candidate]:
    """All that divide. ZeRO is 1 or 3: 0 and 2 save nothing that these do not."""
    heads, layers = cfg.model.attention.kv_heads, cfg.model.num_layers
    for tp, pp in itertools.product(divisors(count), repeat=2):
        if count % (tp * pp) or heads % tp or cfg.model.vocab_size % tp or cfg.model.mlp.size % tp:
            continue
        dp = count // (tp * pp)
        if layers % (pp * cfg.parallel.chunks) or cfg.batch.global_size % dp or tp > 16:
            continue
        sizes = (("pp", pp), ("dp", dp), ("cp", 1), ("tp", tp))
        each = cfg.batch.global_size // dp
        micros = [m for m in divisors(each) if m & (m - 1) == 0 and each // m >= pp]
        stages = (1, 3) if dp > 1 and pp == 1 else (1,) if dp > 1 else (0,)
        for zero, remat, micro in itertools.product(stages, REMAT, micros):
            yield Candidate(sizes, zero, remat, tp > 1, micro)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def ranked(cfg: Config, plan: Plan, topology: Topology) -> list[Estimate]:
    """Those that should fit, the fastest first. Raises UserError where none does."""
    assert topology.chip is not None
    found = [estimate(one, cfg, plan, topology) for one in candidates(cfg, topology.count)]
    fitting = [one for one in found if one.memory <= ROOM * topology.chip.memory]
    if not fitting:
        least = min((one.memory for one in found), default=math.inf)
        raise UserError(
            f"no mesh of {topology.count} devices should fit: the least needs about "
            f"{least / 2**30:,.1f} GiB of {topology.chip.memory / 2**30:,.1f}; take more or larger "
            "chips, or a smaller train-batch-size"
        )
    return sorted(fitting, key=lambda one: one.seconds)


def estimate(one: Candidate, cfg: Config, plan: Plan, topology: Topology) -> Estimate:
    return Estimate(one, memory(one, cfg, plan), seconds(one, cfg, plan, topology))


def memory(one: Candidate, cfg: Config, plan: Plan) -> float:
    """Float32 parameters, two moments and gradients; what a policy keeps of a layer; a layer's
    gathered weights with their gradient; scores; a chunk of logits."""
    sizes, total = one.mesh, plan.parameters
    held = total / (sizes["tp"] * sizes["pp"])
    dp = sizes["dp"]
    state = held * 4 * (1 / dp if one.zero == 3 else 1)  # parameters
    state += held * 8 / (dp if one.zero >= 1 else 1)  # moments
    state += held * 4 / (dp if one.zero >= 2 else 1)  # gradients
    m, width = cfg.model, 2 if cfg.precision.compute != "float32" else 4
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
    flying = 1 if sizes["pp"] == 1 else cfg.batch.global_size // dp // one.micro + sizes["pp"] - 1
    gathered = 3 * width * held * sizes["pp"] / m.num_layers
    return state + deep * flying * layer + scores + 4 * stream + gathered + 2**29


def seconds(one: Candidate, cfg: Config, plan: Plan, topology: Topology) -> float:
    """Arithmetic with what is computed again and the pipeline's bubble, then what is sent over the
    links: for tp an all-reduce each way and layer, for dp the gradients, with ZeRO the weights."""
    chip, sizes, m = topology.chip, one.mesh, cfg.model
    assert chip is not None
    tokens = cfg.batch.global_size * m.seq_length
    again = {"none": 1.0, "dots": 1.05, "full": 1 + 7 / 36}[one.remat]
    flops = flops_per_token(plan.model.shapes, m) * tokens / topology.count * again
    steps = cfg.batch.global_size // sizes["dp"] // one.micro
    bubble = 1 + (sizes["pp"] - 1) / steps
    small = 1 + 0.15 / one.micro  # the less a product has of a batch, the less of the peak
    arithmetic = flops / (EFFICIENCY * chip.flops) * bubble * small
    rate = chip.link * (2 if topology.wraps else 1)
    width = 2 if cfg.precision.compute != "float32" else 4
    layers = m.num_layers / sizes["pp"]
    stream = one.micro * m.seq_length * m.hidden_size * width
    times = 3 if one.remat == "full" else 2
    tp, dp = sizes["tp"], sizes["dp"]
    over_tp = times * layers * steps * 2 * stream * (tp - 1) / tp / rate
    weights = plan.parameters / (tp * sizes["pp"]) * width * (dp - 1) / dp
    passes = 3 * steps if one.zero == 3 else 2 * steps + 2
    return arithmetic + over_tp + passes * weights / rate
