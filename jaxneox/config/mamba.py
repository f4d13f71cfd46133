"""Build the settings of mamba layers from the keys.

Source: megatron/model/mamba/mamba.py of GPT-NeoX ea7aefd8, which has no keys for the size of the
state, the width of the convolution and the rank.
"""

from jaxneox.config.check import CheckedKeys
from jaxneox.config.layer_schema import LayerKind
from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.errors import UserError

FOR_MAMBA = ("mamba_use_bias_in_conv", "mamba_use_bias_in_linears", "mamba_groups")


def mamba_config(settings: CheckedKeys, kinds: tuple[LayerKind, ...]) -> MambaConfig | None:
    """Build the settings of the layers of kind `mamba`; None if there are none."""
    if "mamba" not in kinds:
        given = [name for name in FOR_MAMBA if settings.given(name)]
        if given:
            settings.note(f"{given[0]}: changes nothing without mamba layers in attention_config")
        return None
    _check_others(settings, kinds)
    hidden = settings["hidden_size"]
    rank = settings["mamba_step_rank"]
    return settings.fill(
        MambaConfig,
        "model.mamba",
        channels=_channels(settings, hidden),
        step_rank=-(-hidden // 16) if rank is None else rank,
        groups=_groups(settings),
    )


def _channels(settings: CheckedKeys, hidden: int) -> int:
    """Return the inner width: 2 x hidden_size unless it is given."""
    size, factor = settings["intermediate_size"], settings["expansion_factor"]
    channels = size if size is not None else int((2 if factor is None else factor) * hidden)
    if channels < 1:
        raise UserError(
            f"a mamba layer would be {channels} wide: raise expansion_factor or intermediate_size"
        )
    return int(channels)


def _groups(settings: CheckedKeys) -> int:
    groups = settings["mamba_groups"]
    if groups is None:
        groups = settings["model_parallel_size"] if settings["neox_compat"] else 1
    return max(1, int(groups))


def _check_others(settings: CheckedKeys, kinds: tuple[LayerKind, ...]) -> None:
    """Say what other features do not do in these layers."""
    if settings["lora"] is not None:
        if set(kinds) == {"mamba"}:
            raise UserError(
                "lora: all layers are mamba layers, and the matrices that LoRA trains stand beside "
                "those of attention and MLPs: leave lora out, or train the whole model"
            )
        settings.note("lora: mamba layers get no matrices of low rank, the others do")
    if settings["hidden_dropout"] > 0:
        settings.note("hidden_dropout: mamba layers drop nothing, as in NeoX")
