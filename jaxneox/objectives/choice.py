"""The objective of a configuration."""

from jaxneox.config.schema import Config, DataConfig
from jaxneox.objectives.dpo import Dpo
from jaxneox.objectives.kto import Kto
from jaxneox.objectives.neox_kto import NeoxKto
from jaxneox.objectives.next_token import NeoxMasked, NextToken
from jaxneox.objectives.objective import Objective
from jaxneox.objectives.reinforce import Reinforce
from jaxneox.objectives.reward_pairs import RewardPairs


def build_objective(cfg: Config) -> Objective:
    """Choose what a run is trained for.

    Raises:
        UserError: the objective cannot be had with the sizes of the batch.
    """
    settings, length, micro = cfg.objective, cfg.model.seq_length, cfg.batch.micro
    match settings.kind:
        case "dpo":
            return Dpo(settings, length)
        case "rm":
            return RewardPairs(length, cfg.train.z_loss)
        case "kto" if settings.as_neox:
            return NeoxKto(settings, length, micro)
        case "kto":
            return Kto(settings, length)
        case "reinforce":
            return Reinforce(settings, length, micro if settings.as_neox else None)
        case "normal" if settings.as_neox and masks(cfg.data):
            return NeoxMasked(length, cfg.data.separate_documents, micro=micro)
        case "normal":
            return NextToken(length, cfg.data.separate_documents)


def masks(data: DataConfig) -> bool:
    """Tell whether some labels do not count, so that micro-batches have different numbers."""
    return data.eod_mask_loss or bool(data.source("train").labels)
