"""Adam's state in a GPT-NeoX checkpoint, in whichever of DeepSpeed's two ways it is kept."""

from collections.abc import Mapping

from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_adam import read_whole
from convert.readers.neox_files import missing_files
from convert.readers.neox_state import NeoxOptimizer, Quantity
from convert.readers.neox_zero import partitions, read_partitions

__all__ = ["NeoxOptimizer", "Quantity", "open_optimizer"]


def open_optimizer(source: NeoxCheckpoint) -> NeoxOptimizer:
    """The state of all ranks and stages."""
    folder = source.files.folder
    if not source.files.ranks:
        raise missing_files(folder, ["mp_rank_00_model_states.pt"])
    there = partitions(folder)
    found = read_partitions(source, there) if there else read_whole(source)
    first = source.states[0]
    schedule = first.get("lr_scheduler")
    position = schedule.get("num_iters") if isinstance(schedule, Mapping) else None
    found.position = position if isinstance(position, int) else source.step
    told = first.get("ds_config")
    clipping = told.get("gradient_clipping", 0.0) if isinstance(told, Mapping) else None
    if clipping is None:
        clipping = float(source.given.get("gradient_clipping", 1.0))
    found.clipping = float(clipping)
    return found
