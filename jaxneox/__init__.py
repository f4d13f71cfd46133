"""EleutherAI's GPT-NeoX in JAX: one function on any mesh."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from jaxneox.config.schema import Dtype
    from jaxneox.loading import LoadedModel

__version__ = "0.2.0"


def load(
    where: "str | PathLike[str]",
    *,
    step: int | None = None,
    mesh: str | None = None,
    compute: "Dtype" = "float32",
) -> "LoadedModel":
    """Load a checkpoint as a model: a function from tokens to logits.

    A checkpoint of another program is converted into the cache, with a certificate, and found there
    the next time; one whose files have changed is converted again.

    Args:
        where: a run of ours (its newest checkpoint, or `step`) or one step's folder; a folder of
            Hugging Face's, NeoX's or Megatron's; or a repository of the Hugging Face hub,
            `owner/name[@revision]`.
        step: which of a run's checkpoints; the newest unless given.
        mesh: devices by axis, as `dp=2,tp=4`; one device unless given.
        compute: float32, which is nearest to the function that the weights are, or bfloat16 or
            float16, whatever the run was trained in.

    Returns:
        A function from tokens to logits that also generates and scores text.

    Raises:
        UserError: there is no such checkpoint, it cannot be read here, or its function cannot be
            kept.
    """
    from jaxneox.loading import load_model

    return load_model(os.fspath(where), step=step, mesh=mesh, compute=compute)


__all__ = ["load"]
