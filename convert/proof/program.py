"""The program that a user will run, from end to end: the last test of what was written."""

import os
from pathlib import Path

from convert.checkpoint import Checkpoint, UserProgram
from jaxneox.config.schema import ModelConfig

SHARE = 0.5
"""The share of free memory that the program may take."""


def program_of(target: Checkpoint) -> UserProgram | str:
    """Return what a user runs on the target, in float32, or the reason why it is not run here."""
    program = target.program()
    if isinstance(program, UserProgram) and program.nbytes > SHARE * free_memory():
        return f"not run: {program.nbytes / 1e9:.1f} GB of weights in float32 are too many here"
    return program


def free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no such file on this system: a part of all there is
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def limit(model: ModelConfig) -> float:
    """Bound the relative L2 distance between a float32 and a float64 forward pass.

    A float32 rounding is 1.2e-7 at most, and layers' errors add up like a random walk; 5e-7 was
    measured on 4 layers, and 20 times a rounding for each leaves room for ill-conditioned ones.
    """
    return 20 * 1.2e-7 * max(4.0, model.num_layers**0.5)
