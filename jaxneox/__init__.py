"""EleutherAI's GPT-NeoX in JAX: one function on any mesh."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxneox.config.schema import Dtype
    from jaxneox.loaded import LoadedModel

__version__ = "0.2.0"


def load(
    path: str,
    *,
    step: int | None = None,
    mesh: str | None = None,
    compute: "Dtype" = "float32",
) -> "LoadedModel":
    """Load a checkpoint as a model: a function from tokens to logits.

    Args:
        path: a run (its newest checkpoint, or `step`), or one checkpoint's folder.
        step: which of a run's checkpoints; the newest unless given.
        mesh: devices by axis, as `dp=2,tp=4`; one device unless given.
        compute: float32, which is nearest to the function that the weights are, or bfloat16 or
            float16, whatever the run was trained in.

    Returns:
        A function from tokens to logits that also generates and scores text.

    Raises:
        UserError: there is no such checkpoint, or it cannot be read here.
    """
    from jaxneox.loading import load_model

    return load_model(path, step=step, mesh=mesh, compute=compute)


__all__ = ["load"]
