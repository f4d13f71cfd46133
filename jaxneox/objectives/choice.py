"""The objective of a configuration."""

from jaxneox.config.schema import Config
from jaxneox.objectives.next_token import NextToken
from jaxneox.objectives.objective import Objective


def build_objective(cfg: Config) -> Objective:
    """Choose what a run is trained for."""
    return NextToken(cfg.model.seq_length, cfg.data.separate_documents)
