"""Build the batch: how many sequences a step takes, where global = micro * accumulation * dp."""

import math
from collections.abc import Mapping
from typing import Any

from jaxneox.config.check import CheckedKeys
from jaxneox.config.divisors import divisors
from jaxneox.config.keys import ALIASES
from jaxneox.config.schema import BatchConfig
from jaxneox.errors import UserError

GLOBAL = "train_batch_size"
MICRO = "train_micro_batch_size_per_gpu"
ACCUMULATION = "gradient_accumulation_steps"
LARGEST_MICRO = "max_micro_batch_size"
RAMP = "rampup_batch_size"
DROP_LAST = "drop_last_samples"


def uncut(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys without those that say how a global batch is cut for the devices."""
    cut = {MICRO, ACCUMULATION}
    return {name: value for name, value in keys.items() if ALIASES.get(name, name) not in cut}


def batch_config(settings: CheckedKeys, dp: int) -> BatchConfig:
    """Build the batch for `dp` data parallel devices, deriving what is not given as DeepSpeed does.

    An accumulation that is not given is derived only where the global size is given; otherwise it
    is 1.

    Raises:
        UserError: the sizes are missing, do not divide each other or contradict each other.
    """
    total, micro, steps = _cut(settings, dp)
    ramp = _ramp(settings[RAMP], total, micro * dp)
    return BatchConfig(total, micro, steps, settings[DROP_LAST] or micro * dp, ramp)


def _ramp(given: list[int] | None, total: int, together: int) -> tuple[int, int, int] | None:
    """Return start, increment and samples of a batch that grows by equal steps."""
    if given is None:
        return None
    expected = "[start, increment, samples], such as [32, 32, 100000]"
    if len(given) != 3 or min(given) < 1:
        raise UserError(f"{RAMP}: found {given}, expected {expected}")
    start, increment, samples = given
    if start > total or (total - start) % increment:
        raise UserError(
            f"{RAMP}: {increment} at a time from {start} on does not come to {GLOBAL} {total}"
        )
    if start % together or increment % together:
        raise UserError(
            f"{RAMP}: start {start} and increment {increment} must be multiples of {MICRO} x dp = "
            f"{together}"
        )
    return start, increment, samples


def _cut(settings: CheckedKeys, dp: int) -> tuple[int, int, int]:
    """Return the global batch, the micro-batch and the accumulation steps."""
    total = settings[GLOBAL]
    micro = settings[MICRO]
    steps = settings[ACCUMULATION] if settings.given(ACCUMULATION) else None
    if total is None and micro is None:
        raise UserError(
            f"{GLOBAL} and {MICRO} are both missing: set the sequences in a step, or in a device's "
            "micro-batch"
        )
    if total is None:
        steps = steps or 1
        return micro * steps * dp, micro, steps
    if micro is None and steps is None:
        every = math.gcd(total, *(settings[RAMP] or ())[:2])  # divides all sizes of a ramp
        micro = _largest_micro(every, settings[LARGEST_MICRO] or every, dp)
    known = (micro or 1) * (steps or 1) * dp
    if total % known or (micro and steps and total != known):
        raise _contradiction(total, micro, steps, dp)
    return total, micro or total // known, steps or total // known


def _largest_micro(total: int, limit: int, dp: int) -> int:
    if total % dp:
        raise UserError(
            f"{GLOBAL} {total} is not a multiple of dp {dp}: "
            f"the nearest that fits is {_nearest(total, dp)}"
        )
    return max(size for size in divisors(total // dp) if size <= limit)


def _contradiction(total: int, micro: int | None, steps: int | None, dp: int) -> UserError:
    known = (micro or 1) * (steps or 1) * dp
    factors = [f"{MICRO} {micro}"] if micro else []
    factors += [f"{ACCUMULATION} {steps}"] if steps else []
    product = " x ".join([*factors, f"dp {dp}"])
    if micro and steps:
        advice = f"set {GLOBAL} to {known}"
        if total % (micro * dp) == 0:
            advice += f" or {ACCUMULATION} to {total // (micro * dp)}"
        return UserError(f"{GLOBAL} is {total}, but {product} is {known}: {advice}")
    return UserError(
        f"{GLOBAL} {total} is not a multiple of {product} = {known}: "
        f"the nearest that fits is {_nearest(total, known)}"
    )


def _nearest(total: int, factor: int) -> str:
    below = total - total % factor
    return f"{below} or {below + factor}" if below else f"{factor}"
