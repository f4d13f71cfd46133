"""The tensors of a selective state space, which GPT-NeoX and transformers name alike.

Sources: megatron/model/mamba/mamba.py of GPT-NeoX ea7aefd8; transformers' modeling_mamba.py. Each
of NeoX's ranks has `[x | z]` of its own channels in in_proj, and a selection of its own from these.
"""

from convert.rules.rule import Role, Rule, rule
from jaxneox.config.mamba_schema import MambaConfig

OURS = "layers.mamba"


def mixer(cfg: MambaConfig) -> list[Rule]:
    """Return the rules of `mixer.*`."""
    named = {
        "A_log": [("a_log", "C N -> N C")],
        "D": [("skip", "C -> C")],
        "in_proj.weight": [("input", "C D -> D C"), ("gate", "C D -> D C")],
        "conv1d.weight": [("conv", "C 1 W -> W C")],
        "x_proj.weight": [("selection", "Z C -> C Z")],
        "dt_proj.weight": [("step", "C Q -> Q C")],
        "dt_proj.bias": [("step_bias", "C -> C")],
        "out_proj.weight": [("out", "D C -> C D")],
    }
    if cfg.conv_bias:
        named["conv1d.bias"] = [("conv_bias", "C -> C")]
    if cfg.bias:
        named["in_proj.bias"] = [("input_bias", "C -> C"), ("gate_bias", "C -> C")]
        named["x_proj.bias"] = [("selection_bias", "(M Z) -> M Z")]
    rules = [
        rule(f"mixer.{theirs}", Role.SPLIT, *((f"{OURS}.{leaf}", pattern) for leaf, pattern in own))
        for theirs, own in named.items()
    ]
    if cfg.bias:  # added once, after the sum over ranks
        rules.append(rule("mixer.out_proj.bias", Role.COPY, (f"{OURS}.out_bias", "D -> D")))
    return rules
