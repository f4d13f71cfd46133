"""How many steps `train_epochs` passes over the training data take."""

from functools import partial

from jaxneox.config import Settings
from jaxneox.data.batches import BatchSizes
from jaxneox.data.build import open_dataset
from jaxneox.data.epochs import train_sources
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.errors import UserError


def with_steps(settings: Settings, dp: int, tokenizer: Tokenizer | None) -> Settings:
    """Return settings whose `train_iters` is that of `train_epochs`; the same without that key.

    The steps are as many whole ones as E passes have samples for. With `neox_compat` they are
    NeoX's: a pass is without the last sample of each dataset, and without those that fill no
    micro-batch of all replicas (megatron/training.py, update_iterations).

    Args:
        settings: of a run.
        dp: the data parallel size of its mesh.
        tokenizer: the run's, for data that is text.

    Raises:
        UserError: the data is not there, or less than a batch.
    """
    epochs = settings["train_epochs"]
    if epochs is None:
        return settings
    batch, compat = settings.batch(dp), settings["neox_compat"]
    sources = train_sources(settings.data, partial(open_dataset, tokenizer=tokenizer))
    each = [source.samples(settings.needed("seq_length")) for source in sources]
    one = sum(max(0, n - 1) for n in each) if compat else sum(each)
    samples = epochs * (one // batch.drop_last * batch.drop_last if compat else one)
    steps = _whole_steps(BatchSizes(batch.global_size, batch.ramp), samples)
    passes = f"train_epochs: {epochs} of {one} samples"
    if not steps:
        raise UserError(
            f"{passes} of seq_length {settings['seq_length']} are fewer than a step takes "
            f"(train_batch_size {batch.global_size}): take more epochs, a smaller batch or more "
            "data"
        )
    counted = Settings(settings.keys | {"train_iters": steps})
    if settings["train_iters"] not in (None, steps):  # a run that goes on has the number of before
        counted.note(f"{passes} are {steps} steps: train_iters {settings['train_iters']} gives way")
    return counted


def _whole_steps(sizes: BatchSizes, samples: int) -> int:
    """Return the most steps that take no more than so many samples."""
    low, high = 0, samples  # a step takes at least one
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sizes.first(middle) <= samples else (low, middle - 1)
    return low
