"""The compiled functions of a model; models with other weights share them."""

from dataclasses import replace

import jax
from jax.sharding import Mesh

from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import Config
from jaxneox.infer.rewards import RewardScorer
from jaxneox.infer.scoring import Scorer
from jaxneox.loading.pure import PureFunctions
from jaxneox.model import Model
from jaxneox.parallel.rules import Rules


class Functions:
    """The compiled functions of a model.

    They take the weights as an argument, so that models with other weights share them.
    """

    def __init__(self, config: Config, mesh: Mesh, rules: Rules, compute: Dtype):
        # with any kernel: training's was for its own devices, and for rows of one length
        cfg = config.model
        cfg = replace(cfg, attention=replace(cfg.attention, kernel="auto"))
        self.model = Model(cfg, rules, compute)
        self.logits = jax.jit(self.model.logits)
        self.scorer = Scorer(self.model, mesh)
        self.reward_scorer = RewardScorer(self.model, mesh)
        self.pure = PureFunctions(self.model, rules, mesh)
