"""A reward model that starts from a language model's weights, which have no head for it.

As in GPT-NeoX, whose loading is not strict, the head is then drawn from the seed, and the
unembedding is left out.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax

from jaxneox import checkpoint
from jaxneox.checkpoint import Location
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError
from jaxneox.model import Params
from jaxneox.model.parameters import REWARD, UNEMBEDDING
from jaxneox.train.plan import TrainPlan

FIELDS = {"head", "tied_embedding", "logit_bias"}
"""Fields of the configuration that describe what comes after the last norm."""


def without_unembedding(cfg: ModelConfig) -> tuple[str, ...]:
    """Return the parameters that a checkpoint may have and this model leaves out."""
    return UNEMBEDDING if cfg.head == "reward" else ()


def there(location: Location, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is expected of a checkpoint, without a head that it lacks."""
    saved = checkpoint.read_shapes(location)
    return {name: leaf for name, leaf in expected.items() if name != REWARD or name in saved}


def with_new_head(params: Params, plan: TrainPlan) -> Params:
    """Draw the head from the run's seed, if it was not read."""
    if plan.model.cfg.head != "reward" or REWARD in params:
        return params
    drawn = plan.model.init(jax.random.key(plan.cfg.train.seed))
    return params | {REWARD: drawn[REWARD]}


def changed_head(folder: object, saved: ModelConfig, cfg: ModelConfig) -> str | None:
    """Say in a note how a checkpoint's weights get another head; None if they keep theirs.

    Raises:
        UserError: it is a reward model, and a language model is to be trained.
    """
    if saved.head == cfg.head:
        return None
    if cfg.head == "tokens":
        raise UserError(
            f"{folder}: is a reward model, which has no unembedding to train on: start from a "
            "language model, or set train_impl to rm"
        )
    return (
        f"{folder}: is a language model: the reward head is drawn from the seed, and the "
        "unembedding is left out"
    )


def check_trained(where: str, saved: Collection[str], plan: TrainPlan) -> None:
    """Refuse LoRA beside a language model if the new head is not trained.

    Raises:
        UserError: no checkpoint would ever have that head.
    """
    if plan.model.cfg.head == "reward" and REWARD not in saved and REWARD not in plan.trained:
        raise UserError(
            f"trainable: leaves out {REWARD}, which {where} lacks: its random numbers would stay "
            f"as they are; add {REWARD} to the patterns, or leave trainable out"
        )
