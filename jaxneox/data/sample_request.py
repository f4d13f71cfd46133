"""The request for samples that a run makes, the same for every order of the data."""

from typing import Literal, NamedTuple

Split = Literal["train", "valid", "test"]


class SampleRequest(NamedTuple):
    """All that an order depends on besides the files and their weights.

    Attributes:
        split: train, valid or test.
        num_samples: of `samples_needed`; decides the number of epochs, and so the order.
        seq_length: S; a sample has one token more.
        seed: of all shuffles.
        epochs: as many passes over the documents, whatever `num_samples` is; None for as many as
            that needs.
    """

    split: Split
    num_samples: int
    seq_length: int
    seed: int
    epochs: int | None = None


def samples_needed(
    split: Split,
    *,
    train_iters: int,
    eval_interval: int,
    eval_iters: int,
    global_batch: int,
    eval_fixed: bool = False,
) -> int:
    """Count the samples that NeoX and Megatron build a split for.

    With `eval_fixed` all evaluations share those of one.

    Source: gpt-neox `data_utils.py`, `build_train_valid_test_data_loaders`.
    """
    steps = {
        "train": train_iters,
        "valid": (1 if eval_fixed else train_iters // eval_interval + 1) * eval_iters,
        "test": eval_iters,
    }
    return steps[split] * global_batch
