"""Build the settings of mixtures of experts from the keys.

Source: megatron/model/{transformer,moe}.py and megatron/model/moe_mlp.py of GPT-NeoX ea7aefd8.
"""

from typing import Any

from jaxneox.config.check import CheckedKeys
from jaxneox.config.layer_schema import ExpertsConfig, LayerKind, MlpConfig
from jaxneox.errors import UserError

MULTIPLE = 256
"""The width of an expert that is not given is rounded up to a multiple of this, as in NeoX."""

OF_EXPERTS = ("moe_top_k", "moe_jitter_eps", "moe_aux_loss_coeff", "moe_z_loss_coeff")


def with_experts(settings: CheckedKeys, kinds: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    """Give every `moe_expert_interval`-th layer, from the first on, a mixture for its MLP."""
    if settings["moe_num_experts"] == 1:
        return kinds
    interval = settings["moe_expert_interval"]
    return tuple(
        "experts" if kind == "dense" and number % interval == 0 else kind
        for number, kind in enumerate(kinds)
    )


def experts_config(
    settings: CheckedKeys, kinds: tuple[LayerKind, ...], mlp: MlpConfig
) -> ExpertsConfig | None:
    """Build the settings of the layers of kind `experts`; None if there are none.

    Args:
        settings: the checked keys.
        kinds: those of all layers.
        mlp: the MLP of the dense layers, whose activation the experts have too.

    Raises:
        UserError: the keys contradict each other.
    """
    if "experts" not in kinds:
        _note_without_effect(settings)
        return None
    compat = settings["neox_compat"]
    gated = settings["moe_gated_experts"]
    exact = settings["moe_router_in_fp32"]
    return settings.fill(
        ExpertsConfig,
        "model.experts",
        count=settings["moe_num_experts"],
        size=_size(settings),
        top_k=settings["moe_top_k"],
        activation=mlp.activation,
        gated=(mlp.gated and not compat) if gated is None else gated,
        jitter=settings["moe_jitter_eps"] or 0.0,
        sinkhorn_rows=_rows(settings),
        exact=not compat if exact is None else exact,
        residual_quirk=_quirk(settings),
    )


def _size(settings: CheckedKeys) -> int:
    given = settings["moe_expert_size"] or settings["intermediate_size"]
    if given is not None:
        return int(given)
    return -(-4 * settings["hidden_size"] // MULTIPLE) * MULTIPLE


def _rows(settings: CheckedKeys) -> int:
    """Return how many sequences a sinkhorn router balances together."""
    given: Any = settings["moe_sinkhorn_rows"]
    if settings["moe_router_type"] != "sinkhorn":
        return 1
    if given is None and settings["neox_compat"]:
        given = settings["train_micro_batch_size_per_gpu"]
        if given is None:
            raise UserError(
                "moe_router_type: sinkhorn balances NeoX's micro-batches with neox_compat, and "
                "nothing says how large they are: set train_micro_batch_size_per_gpu, or "
                "moe_sinkhorn_rows"
            )
    return 1 if given is None else int(given)


def _quirk(settings: CheckedKeys) -> int:
    given = settings["moe_residual_quirk"]
    parallel = settings["gpt_j_residual"]
    if given and not parallel:
        raise UserError(
            f"moe_residual_quirk: {given} is how NeoX computes gpt_j_residual, which is false: "
            "leave it out"
        )
    if given is None:
        given = settings["model_parallel_size"] if parallel and settings["neox_compat"] else 0
    return int(given)


def _note_without_effect(settings: CheckedKeys) -> None:
    asked = [name for name in OF_EXPERTS if settings.given(name) and settings[name]]
    asked = [name for name in asked if (name, settings[name]) != ("moe_top_k", 1)]
    if asked:
        settings.note(f"{', '.join(asked)}: nothing reads it without experts (moe_num_experts)")
