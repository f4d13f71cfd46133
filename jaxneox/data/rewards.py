"""Datasets of one number for each document: rewards and prompts, and REINFORCE's advantages.

NeoX's preprocessing writes rewards as int32; float32 keeps fractions.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.say import tell
from jaxneox.data.indexed import IndexedDataset, dataset_prefix
from jaxneox.data.storage import is_url
from jaxneox.errors import UserError

REWARD, PROMPT = "_reward_document", "_prompt_document"
RECENT = 100  # prompts whose rewards are a baseline, in NeoX's OnlineDataset


class Rewards:
    """The reward of each document, and of which prompt each is a completion.

    Args:
        path: a dataset of float32 or integers, one for each document of `texts`.
        texts: the tokens.

    Attributes:
        values: float64 [N], as the file has them.
        dataset: the file.

    Raises:
        UserError: the numbers are of another type, not one for each document, or not finite.
    """

    def __init__(self, path: str, texts: IndexedDataset) -> None:
        self.dataset = IndexedDataset(path)
        if self.dataset.dtype.kind == "f" and self.dataset.dtype.itemsize != 4:
            raise UserError(
                f"{self.dataset.idx_path}: holds {self.dataset.dtype} numbers, expected rewards as "
                "float32 or integers"
            )
        self.values = one_each(self.dataset, texts, "reward").astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(self.values))
        if len(wrong):
            raise UserError(
                f"{self.dataset.bin_path}: the reward of document {wrong[0]} is "
                f"{self.values[wrong[0]]}, expected a finite number"
            )


class Prompts:
    """Which consecutive documents are completions of one prompt.

    Without a file each document is one of its own.

    Args:
        path: that of the rewards; the prompts lie beside it.
        texts: the tokens.
        needed: whether the file must be there.

    Attributes:
        bounds: int64 [P + 1], the first document of each prompt, and N.
        dataset: the file, or None.

    Raises:
        UserError: the file is missing though needed, or documents of a prompt lie apart.
    """

    def __init__(self, path: str, texts: IndexedDataset, needed: bool) -> None:
        beside = prompt_path(path)
        there = beside is not None and (is_url(beside) or Path(f"{beside}.idx").is_file())
        if needed and not there:
            why = "no such file" if beside else f"its name has no {REWARD}"
            raise UserError(
                f"{beside or path}: {why}, and "
                "reinforce_leave_one_out needs the number of each document's prompt: make it with "
                "`jaxneox preprocess --kind completions`, or set reinforce_leave_one_out to false"
            )
        self.dataset = IndexedDataset(str(beside)) if there else None
        if self.dataset is None:
            self.bounds = np.arange(len(texts) + 1)
            return
        if self.dataset.dtype.kind == "f":
            raise UserError(
                f"{self.dataset.idx_path}: holds {self.dataset.dtype} numbers, expected the number "
                "of each document's prompt"
            )
        numbers = one_each(self.dataset, texts, "prompt")
        begins = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        _, first = np.unique(numbers[begins], return_index=True)
        again = np.setdiff1d(np.arange(len(begins)), first)
        if len(again):
            document = begins[again[0]]
            raise UserError(
                f"{self.dataset.bin_path}: document {document} has prompt {numbers[document]}, and "
                "so has an earlier one that is not next to it: documents of one prompt must follow "
                "each other"
            )
        self.bounds = np.append(begins, len(numbers))

    @property
    def content(self) -> dict[str, Any]:
        """A fingerprint of the file, empty without one."""
        return {} if self.dataset is None else self.dataset.content


def say_alone(prompts: Prompts, leave_one_out: bool, split: str) -> None:
    """Print how many completions have no others to be compared with, where they need them."""
    alone = np.sum(np.diff(prompts.bounds) == 1)
    if leave_one_out and alone:
        assert prompts.dataset is not None
        tell(
            f"note: {split}: {prompts.dataset.prefix.name}: {alone} of {len(prompts.bounds) - 1} "
            "prompts have only one completion, which is compared with no other by "
            "reinforce_leave_one_out: its advantage is 0"
        )


def prompt_path(rewards: str) -> str | None:
    """Name the dataset of prompts that belongs to one of rewards; None if that has another name."""
    prefix = rewards if is_url(rewards) else str(dataset_prefix(rewards))
    prefix = prefix.removesuffix(".bin").removesuffix(".idx")
    return prefix.removesuffix(REWARD) + PROMPT if prefix.endswith(REWARD) else None


def advantages(
    rewards: NDArray[np.float64], bounds: NDArray[np.int64], *, leave_one_out: bool
) -> NDArray[np.float32]:
    """Subtract a baseline from each reward (gpt-neox `megatron/data/online_dataset.py`).

    With `leave_one_out` it is the mean reward of the other completions of the prompt; one that has
    no others has the advantage 0. Otherwise it is the mean of the mean rewards of the 100 prompts
    before, in the order of the file, and 0 for the first.

    Args:
        rewards: [N], of each document.
        bounds: [P + 1], the first document of each prompt, and N.
        leave_one_out: which of the two.
    """
    counts = np.diff(bounds)
    sums = np.add.reduceat(rewards, bounds[:-1])
    if leave_one_out:
        others = np.repeat(counts, counts) - 1
        baseline = (np.repeat(sums, counts) - rewards) / np.maximum(others, 1)
        return np.where(others > 0, rewards - baseline, 0).astype(np.float32)
    means = np.concatenate([np.zeros(RECENT), sums / counts])
    recent = np.lib.stride_tricks.sliding_window_view(means, RECENT)[:-1].sum(axis=1)
    before = np.minimum(np.arange(len(counts)), RECENT)
    return (rewards - np.repeat(recent / np.maximum(before, 1), counts)).astype(np.float32)


def one_each(dataset: IndexedDataset, texts: IndexedDataset, what: str) -> NDArray[np.generic]:
    """Read a dataset of one number for each document.

    Raises:
        UserError: it has another number of documents, or one of them not one number.
    """
    if len(dataset) != len(texts):
        raise UserError(
            f"{dataset.idx_path}: {len(dataset)} documents, but {texts.idx_path} has {len(texts)}: "
            f"expected one {what} for each"
        )
    wrong = np.flatnonzero(dataset.sizes != 1)
    if len(wrong):
        raise UserError(
            f"{dataset.idx_path}: document {wrong[0]} has {dataset.sizes[wrong[0]]} numbers, "
            f"expected one {what}"
        )
    (values,) = dataset.ranges([0], [dataset.total])
    return values
