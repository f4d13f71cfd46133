"""The commands for a GPT-NeoX checkpoint, with the reasons that prevent a conversion."""

from convert.inspection import finite
from convert.inspection.facts import Facts, Use
from convert.inspection.uses import after_conversion, refused, verified
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices, MergePlan
from convert.ours.next_command import go_on
from convert.readers.neox import NeoxCheckpoint
from jaxneox.console.hints import command
from jaxneox.errors import UserError

NO_YAML = "needs the YAML: --config X.yml"


def uses(
    facts: Facts, source: NeoxCheckpoint | None, why_not: str | None, typed: tuple[str, str]
) -> list[Use]:
    """List what can be done with a GPT-NeoX checkpoint.

    Args:
        facts: the facts collected so far.
        source: the opened checkpoint, or None if it cannot be opened.
        why_not: why the optimizer cannot be carried over.
        typed: the checkpoint and the options that go with it, as one types them in a shell.
    """
    where, options = typed
    convert = f"{command('convert', 'from-neox')} {where} DST{options}"
    weights, training = "the weights, certified", "with the optimizer: the run goes on"
    plan, why = _planned(facts, source)
    if plan is None:
        return [refused(convert, weights, why), refused(f"{convert} --optimizer", training, why)]
    facts.notes += plan.warnings
    return [
        finite.conversion_use(facts, convert, weights),
        finite.conversion_use(facts, f"{convert} --optimizer", training, why_not),
        verified(str(facts.path), options),
        Use(go_on("DST", plan.keys), "goes on with training", why_not is None, why_not,
            "from-neox --optimizer"),
        *after_conversion("from-neox", plan.model, plan.keys),
    ]  # fmt: skip


def _planned(facts: Facts, source: NeoxCheckpoint | None) -> tuple[MergePlan | None, str]:
    """Plan the merge of the ranks without making it, or return why there is none."""
    if source is None:
        return None, facts.problems[0]
    if not source.yamls:
        return None, NO_YAML
    try:
        return make_plan(source, MergeChoices()), ""
    except UserError as error:
        return None, str(error)
