"""Reads Adam's state in a GPT-NeoX checkpoint, in either of DeepSpeed's two layouts."""

from collections.abc import Mapping

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_adam import read_whole
from convert.readers.neox_files import missing_files, rank_file
from convert.readers.neox_state import ALONE, NeoxOptimizer, Quantity
from convert.readers.neox_zero import partitions, read_partitions
from jaxneox.config import Settings
from jaxneox.errors import UserError

__all__ = ["NeoxOptimizer", "Quantity", "open_optimizer"]


def open_optimizer(source: NeoxCheckpoint) -> NeoxOptimizer:
    """Open the optimizer's state of all ranks and stages."""
    folder = source.files.folder
    if source.files.merged:
        raise UserError(
            f"{folder}: holds what zero_to_fp32.py wrote: weights alone, and no optimizer; convert "
            "the global_stepN folder, or leave --optimizer out"
        )
    if not source.files.ranks:
        raise missing_files(folder, [rank_file(0)])
    files = partitions(folder)
    optimizer = read_partitions(source, files) if files else read_whole(source)
    first = source.states[0]
    schedule = first.get("lr_scheduler")
    position = schedule.get("num_iters") if isinstance(schedule, Mapping) else None
    optimizer.position = position if isinstance(position, int) else source.step
    optimizer.count = _count(source, optimizer)
    ds_config = first.get("ds_config")
    clipping = ds_config.get("gradient_clipping", 0.0) if isinstance(ds_config, Mapping) else None
    if clipping is None:
        clipping = Settings(source.given)["gradient_clipping"]
    optimizer.clipping = float(clipping)
    return optimizer


def _count(source: NeoxCheckpoint, optimizer: NeoxOptimizer) -> int:
    """Count Adam's updates, which correct the bias of its moments; all files must agree on them."""
    folder, counts = source.files.folder, optimizer.counts
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise UserError(
            f"{folder}: the files disagree on how many updates Adam has made ({listed}): they "
            f"are of different steps; copy the whole checkpoint, or {ALONE}"
        )
    count = max(counts.values(), default=0)
    if count <= 0 < optimizer.position:
        raise UserError(
            f"{folder}: its optimizer's files do not say how many updates Adam has made (`step`, "
            f"by parameter or by group), and the schedule is at {optimizer.position}; {ALONE}"
        )
    if count != optimizer.position:
        optimizer.warnings.append(
            f"Adam has made {count} updates and the schedule is at {optimizer.position}: both are "
            "taken as they are, as for a run that began again with a new optimizer"
        )
    return count
