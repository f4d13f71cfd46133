"""The part of the schema that says what a run is trained for, as frozen values."""

from dataclasses import dataclass
from typing import Literal

ObjectiveKind = Literal["normal", "dpo", "rm", "kto", "reinforce"]
DpoLoss = Literal["sigmoid", "ipo", "hinge"]
KlForm = Literal["abs", "mse", "kl", "full"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a run is trained for, and the settings of each kind.

    Attributes:
        kind: the next token, or by preferences: DPO, a reward model, KTO, REINFORCE.
        dpo_loss: of a pair's margin; DPO's own is the sigmoid.
        dpo_beta: by how much a margin counts.
        dpo_label_smoothing: the share of pairs that are taken to be the wrong way round.
        dpo_reference_free: compare with no reference model.
        kto_beta: by how much a reward counts.
        kto_desirable_weight: of completions whose reward is above 0.
        kto_undesirable_weight: of those whose reward is below 0.
        kl_form: how REINFORCE measures the distance from the reference model.
        kl_weight: of that distance in REINFORCE's loss; without it there is no reference model.
        leave_one_out: a completion's baseline is the mean reward of the others of its prompt.
        reference: the name of the reference model whose log-probabilities lie beside the data;
            None computes them while training.
        as_neox: reproduce what NeoX HEAD computes, where it is another function.
    """

    kind: ObjectiveKind = "normal"
    dpo_loss: DpoLoss = "sigmoid"
    dpo_beta: float = 0.1
    dpo_label_smoothing: float = 0.0
    dpo_reference_free: bool = False
    kto_beta: float = 0.1
    kto_desirable_weight: float = 1.0
    kto_undesirable_weight: float = 1.0
    kl_form: KlForm = "mse"
    kl_weight: float = 0.1
    leave_one_out: bool = False
    reference: str | None = None
    as_neox: bool = False

    @property
    def paired(self) -> bool:
        """Whether an example is a pair of a chosen and a rejected text."""
        return self.kind in ("dpo", "rm")

    @property
    def rewarded(self) -> bool:
        """Whether an example is a text with a reward."""
        return self.kind in ("kto", "reinforce")

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the model with a reference model."""
        wanted = {
            "dpo": not self.dpo_reference_free,
            "kto": True,
            "reinforce": self.kl_weight > 0,
        }
        return wanted.get(self.kind, False)
