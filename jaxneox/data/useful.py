"""Which documents a whole text is made of, and one line for those that are cut or left out."""
# N documents

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jaxneox.console.say import tell
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.label_datasets import check_in_step, prompt_lengths
from jaxneox.errors import UserError


class Side:
    """Texts and their labels: one side of pairs, or all there is of texts with a reward.

    Attributes:
        texts: the tokens.
        labels: the tokens again, with -100 where there is no loss; or None.
        prompts: int64 [N], the tokens before the first label that is not -100; 0 without labels.

    Raises:
        UserError: the labels are not those of the texts.
    """

    def __init__(self, texts: IndexedDataset, labels: IndexedDataset | None) -> None:
        self.texts, self.labels = texts, labels
        if labels is None:
            self.prompts = np.zeros(len(texts), np.int64)
            return
        check_in_step(texts, labels)
        self.prompts = prompt_lengths(labels)


def useful_documents(
    sides: Sequence[Side],
    *,
    seq_length: int,
    pack: str,
    allow_chopped: bool,
    split: str,
    as_neox: bool = False,
) -> NDArray[np.bool_]:
    """Tell of each document whether it is trained on, in pairs both of its sides.

    It must have a label to learn from and, with `allow_chopped: false`, not be cut. The first token
    is no label, since nothing comes before it; `as_neox` takes it for one. In `pack_until_overflow`
    NeoX leaves out the shorter ones instead. What is cut and what is left out is printed.

    Raises:
        UserError: there is none.
    """
    width, what = seq_length + 1, "pairs" if len(sides) > 1 else "texts"
    long = np.any([side.texts.sizes > width for side in sides], axis=0)
    overflow = pack == "pack_until_overflow"
    reach = width if overflow else seq_length  # of the labels that NeoX looks at
    least = 0 if overflow else 2
    blank = np.any([_blank(side, reach, least, as_neox) for side in sides], axis=0)
    wrong_size = np.zeros(len(long), bool)
    if not allow_chopped:
        short = np.any([side.texts.sizes < width for side in sides], axis=0)
        wrong_size = short if overflow else long
    useful = ~wrong_size & ~blank
    reasons = {
        f"without a label that counts among the first {reach} tokens of a text": blank
        & ~wrong_size,
        f"{'shorter' if overflow else 'longer'} than seq-length + 1 = {width} tokens with "
        "allow-chopped: false": wrong_size,
    }
    left_out = [f"{np.sum(which)} {why}" for why, which in reasons.items() if which.any()]
    if not useful.any():
        raise UserError(
            f"{sides[0].texts.bin_path}: none of {len(useful)} {what} can be used with pack-impl: "
            f"{pack}: {' and '.join(left_out)}"
        )
    name = f"note: {split}: {sides[0].texts.prefix.name}"
    cut = int(np.sum(long & useful))
    if cut:
        verb = "is" if cut == 1 else "are"
        tell(
            f"{name}: {cut} of {len(useful)} {what} {verb} longer than seq-length + 1 = {width} "
            f"tokens and {verb} cut"
        )
    if left_out:
        tell(f"{name}: {np.sum(~useful)} of {len(useful)} {what} left out: {', '.join(left_out)}")
    return useful


def _blank(side: Side, reach: int, least: int, as_neox: bool) -> NDArray[np.bool_]:
    """Mark the documents without a label, or with fewer than `least` tokens."""
    if side.labels is None:
        return side.texts.sizes < least
    first = side.prompts
    if not as_neox and not first.all():
        first = prompt_lengths(side.labels, after=1)
    return first >= np.minimum(side.texts.sizes, reach)
