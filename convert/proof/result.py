"""What a comparison of two checkpoints has found."""

from dataclasses import dataclass, field

from convert.proof.logits import Comparison


@dataclass(frozen=True)
class LayerError:
    """Relative L2 distances of one layer.

    These are the distance of what the layer adds to random states, and of the text's stream after
    it.
    """

    name: str
    random: float
    stream: float


@dataclass
class Proof:
    """The result of a comparison; `failures` is empty if both compute the same within `tolerance`.

    Attributes:
        different: a line for each parameter whose numbers differ.
        how_run: how the program was run, if not as a user would.
        not_computed: titles of older merges that nobody asked for.
        unexplained: failures that a merge which loses the function does not account for.
    """

    tolerance: float
    perplexity: float | None = float("nan")  # the source's; None of a reward model
    tokens: int = 0
    elements: int = 0
    different: list[str] = field(default_factory=list)
    layers: list[LayerError] = field(default_factory=list)
    logits: list[Comparison] = field(default_factory=list)
    program: float | str = "not run"  # the running program's logits: relative L2 distance
    how_run: str = ""
    not_computed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.failures
