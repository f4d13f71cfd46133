"""Build the settings of layers with experts from the keys.

Source: megatron/model/moe/ and megatron/model/transformer.py of GPT-NeoX ea7aefd8.
"""

from jaxneox.config.check import CheckedKeys
from jaxneox.config.keys.experts import MOE, OTHERS_NAMES, OUR_MOE
from jaxneox.config.layer_schema import ExpertsConfig, LayerKind, MlpConfig
from jaxneox.errors import UserError

MULTIPLE = 256  # to which NeoX rounds the width of an expert that the YAML does not give
MICRO = "train_micro_batch_size_per_gpu"


def with_experts(settings: CheckedKeys, kinds: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    """Give experts to every `moe_expert_interval`-th layer with attention, from the first on."""
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
        kinds: of all layers.
        mlp: that of dense layers, whose activation and gate experts have too.

    Raises:
        UserError: a key is another program's, or the keys contradict each other.
    """
    if "experts" not in kinds:
        given = [name for name in (*MOE, *OUR_MOE) if settings.given(name)]
        if given and (settings["moe_num_experts"] > 1 or given != ["moe_num_experts"]):
            settings.note(f"{given[0]}: changes nothing in a model without layers of experts")
        return None
    for name, advice in OTHERS_NAMES.items():
        if settings.given(name):
            raise UserError(f"{name}: is not supported with moe_num_experts: {advice}")
    if settings.given("expansion_factor") or settings.given("mlp_multiple_of"):
        settings.note("expansion_factor and mlp_multiple_of do not count for experts, as in NeoX")
    return settings.fill(
        ExpertsConfig,
        "model.experts",
        count=settings["moe_num_experts"],
        size=_size(settings),
        activation=mlp.activation,
        gated=_unless_given(
            settings, "moe_gated_experts", mlp.gated and not settings["neox_compat"]
        ),
        jitter=settings["moe_jitter_eps"] or 0.0,
        sinkhorn_rows=_sinkhorn_rows(settings),
        exact=_unless_given(settings, "moe_router_fp32", not settings["neox_compat"]),
        residual_quirk=_residual_quirk(settings),
    )


def _size(settings: CheckedKeys) -> int:
    """Return the inner width of an expert, NeoX's unless it is given."""
    given = settings["moe_expert_size"] or settings["intermediate_size"]
    return int(given or -(-4 * settings["hidden_size"] // MULTIPLE) * MULTIPLE)


def _sinkhorn_rows(settings: CheckedKeys) -> int:
    """Return how many sequences Sinkhorn's algorithm balances together, in NeoX a micro-batch."""
    given, alone = settings["moe_sinkhorn_rows"], settings["moe_router_type"] != "sinkhorn"
    if given is not None or alone or not settings["neox_compat"]:
        return int(given or 1)
    micro = settings[MICRO]
    if micro is None:
        settings.note(
            f"moe_sinkhorn_rows: taken to be 1, since {MICRO} does not say how NeoX cuts its batch"
        )
    return int(micro or 1)


def _residual_quirk(settings: CheckedKeys) -> int:
    """Return how often the experts' output counts where attention is dropped; 0 if it is not."""
    parallel = settings["gpt_j_residual"]
    as_neox = max(1, settings["model_parallel_size"]) if settings["neox_compat"] and parallel else 0
    times = int(_unless_given(settings, "moe_attention_dropped", as_neox))
    if times and not parallel:
        raise UserError(
            "moe_attention_dropped needs gpt_j_residual: NeoX drops the attention of layers with a "
            "parallel residual only; set gpt_j_residual to true or moe_attention_dropped to 0"
        )
    return times


def _unless_given(settings: CheckedKeys, name: str, default: int | bool) -> int | bool:
    value: int | bool | None = settings[name]
    return default if value is None else value
