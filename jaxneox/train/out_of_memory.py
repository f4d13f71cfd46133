"""The message of a run that does not fit into memory: what was asked for, and what would fit."""

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxneox.config import Settings
from jaxneox.config.batch import GLOBAL, MICRO, uncut
from jaxneox.console.units import memory
from jaxneox.errors import UserError
from jaxneox.objectives import build_objective
from jaxneox.parallel.mesh import make_mesh, replicas
from jaxneox.train.dry_run.memory import memory_of
from jaxneox.train.plan import TrainPlan, build_plan

WORDS = "RESOURCE_EXHAUSTED"
"""How XLA's message begins on every platform."""

USABLE = 0.9
"""The share of a device's memory that state, gradients and what is kept may take together.

The rest is for the compiler's temporaries, logits above all, which are known only to it.
"""

CGROUP = Path("/sys/fs/cgroup/memory.max")


class Change(NamedTuple):
    """Settings with which a run of the same global batch takes less memory."""

    words: list[str]  # as they are given to --set
    keys: dict[str, Any]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device, or this process, had no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and WORDS in str(error)


def out_of_memory(plan: TrainPlan, error: BaseException) -> UserError:
    """Explain an error for which `is_out_of_memory` holds, in one line.

    Args:
        plan: the run that did not fit.
        error: what XLA or Python raised.
    """
    if not plan.objective.fields:  # one's own, of whatever the data has
        plan = replace(plan, objective=build_objective(plan.cfg))
    mesh = make_mesh(plan.mesh_sizes)
    needs, has = memory_of(plan, mesh), memory_of_device(jax.local_devices()[0])
    found = re.search(r"allocat\w* ([\d,]+) bytes", str(error))
    asked = int(found[1].replace(",", "")) if found else 0
    more = f" when {memory(asked)} more were asked for" if asked else ""
    of = f"a device has {memory(has)}; " if has else ""
    state = needs.parameters + needs.optimizer + needs.gradients
    line = (
        f"out of memory{more}: {of}parameters, optimizer and gradients take {memory(state)} of it, "
        f"and a micro-batch of {plan.cfg.batch.micro} keeps {memory(needs.kept)} for its backward "
        "pass. "
    )
    return UserError(line + _advice(plan, has, max(1.0, asked / max(needs.kept, 1))))


def _advice(plan: TrainPlan, has: int | None, beyond: float) -> str:
    """Name the first change that should fit.

    Args:
        plan: the run that did not fit.
        has: the bytes of a device, if they are known.
        beyond: how many times more XLA wanted than what is kept for the backward pass.
    """
    for change in _changes(plan):
        try:
            cfg = Settings(change.keys).resolve(replicas(plan.sizes), plan.cfg.model.vocab_size)
            needs = memory_of(build_plan(cfg, plan.mesh_sizes, 0), make_mesh(plan.mesh_sizes))
        except UserError:  # of settings that do not go with the others
            continue
        whole = needs.known + (beyond - 1) * needs.kept
        if has is None or whole <= USABLE * has:
            return f"With about {memory(whole)} this should fit: --set {' '.join(change.words)}"
    return (
        "No smaller micro-batch, recomputation or ZeRO stage makes it fit: split the model over "
        "more devices with --mesh tp=… or pp=…; `jaxneox plan --search` looks for settings"
    )


def _changes(plan: TrainPlan) -> Iterator[Change]:
    """Yield what takes less and less: smaller micro-batches, then recomputation, then ZeRO 3."""
    batch = plan.cfg.batch
    of_a_device = batch.global_size // replicas(plan.sizes)
    keys = uncut(plan.cfg.keys) | {GLOBAL: batch.global_size}
    recomputing: list[tuple[list[str], dict[str, Any]]] = [([], {})]
    if plan.cfg.remat.policy != "full":
        recomputing += [(["remat-policy=full"], {"remat_policy": "full"})]
    if replicas(plan.sizes) > 1 and plan.cfg.parallel.zero_stage < 3:
        zero = {"zero_optimization": {**(keys.get("zero_optimization") or {}), "stage": 3}}
        words, more = recomputing[-1]
        recomputing += [([*words, "zero-optimization.stage=3"], more | zero)]
    for words, more in recomputing:
        micro = batch.micro if words else batch.micro // 2
        while micro:
            if of_a_device % micro == 0:
                cut = [f"{GLOBAL}={batch.global_size}", f"{MICRO}={micro}"]
                yield Change([*words, *cut], keys | more | {MICRO: micro})
            micro //= 2


def memory_of_device(device: jax.Device) -> int | None:
    """Return the bytes that a device has; virtual CPU devices share this machine's."""
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else int(limit)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [whole]
    if CGROUP.is_file() and (text := CGROUP.read_text().strip()).isdecimal():
        limits.append(int(text))  # of a container
    if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(limit)  # of `ulimit -v`
    return min(limits) // jax.local_device_count()
