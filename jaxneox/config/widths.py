"""How much wider a model is than muP's base, and what follows for each of its parameters.

muP (maximal update parametrization) scales initial values and learning rates by the width, so that
hyperparameters of a narrow base are right for a wide model. A parameter's rule follows from its
logical axes alone. Source: Yang et al. 2022, "Tensor Programs V" (arXiv:2203.03466), table 8; what
NeoX does instead is measured at its HEAD (ea7aefd8) with EleutherAI's fork of mup.
"""

import math
from dataclasses import dataclass

ATTENTION = ("kv_heads", "group", "head")
"""The logical axes that together are as wide as all heads of attention."""

OUTPUTS = ("vocab", "one")
"""The logical axes that a model's head writes, whose matrix has a multiplier instead of a rate."""

MATRICES_OF_NEOX = {("vocab", "embed"), ("embed", "vocab")}
"""The matrices outside the layers that `mup_init_scale` reaches in NeoX."""


@dataclass(frozen=True)
class Multipliers:
    """Constants by which activations are multiplied; muP and other families have them.

    Attributes:
        embedding: of the embedded tokens.
        positions: of learned and sinusoidal positions, before these are added.
        output: of the last hidden states, before the head.
    """

    embedding: float = 1.0
    positions: float = 1.0
    output: float = 1.0


@dataclass(frozen=True)
class Widths:
    """By how many times each width of a model is that of its base.

    Attributes:
        hidden: of the residual stream.
        attention: of all heads together; None if it is the same in models of every width.
        mlp: of the MLP; None if it is the same in models of every width.
        as_neox: whether the rules are those of NeoX HEAD.
    """

    hidden: float
    attention: float | None = None
    mlp: float | None = None
    as_neox: bool = False

    def reads(self, axes: tuple[str, ...]) -> float:
        """Return how many times more numbers a hidden matrix reads than in the base.

        It is 1 for every other parameter: embeddings and norms read nothing that grows, and the
        head's multiplier stands for its rule. A hidden matrix that writes to an axis of fixed size
        counts too, but not in NeoX, where both of its axes must grow.

        Args:
            axes: the logical axes of the parameter.
        """
        ratio = self._ratio(sides(axes)[0]) if self.grows(axes) else None
        return 1.0 if ratio is None else ratio

    def grows(self, axes: tuple[str, ...]) -> bool:
        """Tell whether a parameter is a hidden matrix, which reads more in a wider model."""
        ratios = [self._ratio(axis) for axis in sides(axes)]
        if len(ratios) < 2 or axes[-1] in OUTPUTS or ratios[0] is None:
            return False
        return not self.as_neox or ratios[1] is not None

    def initial(self, axes: tuple[str, ...], scale: float) -> float:
        """Return by what a parameter is multiplied when it is drawn as it is without muP.

        Args:
            axes: the logical axes of the parameter.
            scale: `mup_init_scale`.
        """
        if not self._is_scaled(axes):
            return 1.0
        return scale / math.sqrt(self.reads(axes))

    def _is_scaled(self, axes: tuple[str, ...]) -> bool:
        if len(sides(axes)) < 2 or "rank" in axes:  # LoRA's first values have a rule of their own
            return False
        return not self.as_neox or axes[0] == "layers" or axes in MATRICES_OF_NEOX

    def _ratio(self, side: str) -> float | None:
        return {"embed": self.hidden, "attention": self.attention, "mlp": self.mlp}.get(side)


def sides(axes: tuple[str, ...]) -> list[str]:
    """Return what a parameter reads and what it writes, or one entry for a vector.

    Those of attention count as one, and the stack of layers does not count.
    """
    merged = ("attention" if axis in ATTENTION else axis for axis in axes if axis != "layers")
    return list(dict.fromkeys(merged))
