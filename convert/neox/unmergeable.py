"""Ranks of which no single model has the function, among them those of drifted mixtures.

NeoX's sinkhorn router runs on the first rank, for all (megatron/model/moe/router.py). The others'
routers have no gradient, and their residual streams lack the gradient through the router's weights:
so norms and biases drift apart, and then the streams. The router to keep is the first rank's. An
expert reads its own rank's norm of its own rank's stream, and the router reads the first's, so that
no fold of a norm can be right for both.
"""

from dataclasses import replace

from convert.fate import differ
from convert.neox.plan import MergeChoices
from convert.readers.neox import NeoxCheckpoint
from convert.rules import neox
from convert.rules.rule import Role
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, listed


def refuse_unmergeable(source: NeoxCheckpoint) -> None:
    """Refuse norms over each rank's own heads, and tables that the stages trained apart.

    Raises:
        UserError: no merge of any kind has the ranks' function.
    """
    model, folder = source.model, source.files.folder
    joint = model.norm.kind in ("layernorm", "non_parametric_layernorm")
    if model.attention.qk_norm and source.mp > 1 and joint:
        raise UserError(
            f"{folder}: use_qk_layernorm with {model.norm.kind} takes its statistics over the "
            f"heads of each of {source.mp} ranks; no model that is not split has that function"
        )
    for rule in neox.shared(model):  # saved with every block; each pipeline stage trains its own
        first = [rank[rule.theirs] for rank in source.ranks(neox.FIRST_BLOCK)]
        for index in range(neox.FIRST_BLOCK, neox.FIRST_BLOCK + model.num_layers):
            copies = [rank[rule.theirs] for rank in source.ranks(index)]
            if any(map(differ, zip(first, copies, strict=True))):
                raise UserError(
                    f"{folder}: {rule.theirs} of module {index} differs from the first "
                    "block's: the pipeline's stages trained tables of their own, and here all "
                    "layers share one"
                )


def without_drift(source: NeoxCheckpoint, choices: MergeChoices) -> MergeChoices:
    """Return the choices with which a model with experts is merged.

    Raises:
        UserError: the ranks drifted apart, and it was not asked for the first rank's copies.
    """
    names = sorted(_drifted(source, source.model))
    if not names:
        return choices
    if choices.drift == "refuse":
        raise UserError(
            f"{source.files.folder}: the {source.mp} ranks' copies of {listed(names, 4)} have "
            "drifted apart, as they do around NeoX's experts, and no single model has the ranks' "
            "function; --drift rank0 takes rank 0's copies, and the certificate says how far that "
            "is from what NeoX computed"
        )
    return replace(choices, norms="first")


def _drifted(source: NeoxCheckpoint, model: ModelConfig) -> set[str]:
    """Name the tensors whose copies differ where they should be one, if there are experts."""
    if model.experts is None or source.mp == 1:
        return set()
    names = set()
    for index, rules in neox.modules(model).items():
        for rule in rules:
            first_alone = rule.role is Role.ROUTER and model.experts.router == "sinkhorn"
            if rule.role is Role.SPLIT or first_alone:
                continue
            if differ([rank[rule.theirs] for rank in source.ranks(index)]):
                names.add(rule.theirs)
    return names
