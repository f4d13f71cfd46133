"""What is asked of the data, in any order."""

from typing import Literal, NamedTuple

Split = Literal["train", "valid", "test"]


class Wanted(NamedTuple):
    """All that an order depends on besides the files and their weights.

    Attributes:
        num_samples: of `samples_needed`; decides the number of epochs, and so the order.
        seed: of all shuffles.
    """

    split: Split
    num_samples: int
    seq_length: int
    seed: int


def samples_needed(
    split: Split, *, train_iters: int, eval_interval: int, eval_iters: int, global_batch: int
) -> int:
    """The samples that NeoX and Megatron build a split for.

    (gpt-neox `data_utils.py`, `build_train_valid_test_data_loaders`.)
    """
    steps = {
        "train": train_iters,
        "valid": (train_iters // eval_interval + 1) * eval_iters,
        "test": eval_iters,
    }
    return steps[split] * global_batch
