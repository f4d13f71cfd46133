"""The model beside which an adapter stands."""

import numpy as np

from convert.cached import in_our_form
from convert.readers.adapter import AdapterCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint, parameter_shapes
from jaxneox import base_model, checkpoint
from jaxneox.checksums import Sums, checksums
from jaxneox.errors import UserError, listed
from jaxneox.model.parameters import REWARD, UNEMBEDDING


def open_base(where: str) -> JaxneoxCheckpoint:
    """Open the model beside which an adapter stands, whichever program wrote it.

    Args:
        where: a run or step of ours, a folder of another program, or a name of the hub.

    Raises:
        UserError: it is not there, cannot be read, or is an adapter itself.
    """
    return JaxneoxCheckpoint(checkpoint.find(in_our_form(where)))


def sums_of(base: JaxneoxCheckpoint) -> Sums:
    """Return the checksums of a base's parameters in float32, of which one at a time is read."""
    sums: Sums = {}
    for name in base.shapes:
        sums |= checksums({name: base.leaf(name).astype(np.float32)})
    return sums


def check_base(adapter: AdapterCheckpoint, base: JaxneoxCheckpoint, where: str) -> None:
    """Refuse another model than that beside which the adapter was trained.

    Args:
        adapter: the adapter.
        base: the model.
        where: where it was found.

    Raises:
        UserError: its parameters are others.
    """
    whole = parameter_shapes(adapter.whole)
    unused = UNEMBEDDING if adapter.whole.head == "reward" else ()
    there = {name: shape for name, shape in base.shapes.items() if name not in unused}
    own = {REWARD} & {*adapter.others}  # a language model has none
    expected = {name: shape for name, shape in whole.items() if name in there or name not in own}
    wrong = {name for name, _ in there.items() ^ expected.items()}
    if wrong:
        raise UserError(
            f"{adapter.location.folder}: was trained beside another model than {where} is now, "
            f"which has other parameters: {listed(sorted(wrong))}"
        )
    sums = sums_of(base)
    if "checksums" not in checkpoint.read_meta(base.location):  # the run had to compute its own
        sums = {name: one for name, one in sums.items() if name in there}
    base_model.check(adapter.base, where, sums, adapter.location.folder)
