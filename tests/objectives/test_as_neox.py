"""What NeoX computes otherwise than the papers: as it does with neox_compat, else as they do."""

import dataclasses

import pytest

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.errors import UserError
from jaxneox.objectives.neox_kto import NeoxKto
from tests.objectives import formulas, neox_formulas
from tests.objectives.batches import OBJECTIVES, ROWS
from tests.objectives.torch_side import BOUND, Formula, check, ours, theirs
from tests.parallel.meshes import Fields, Mesh, Outcome

TWICE = Mesh(accumulation=2)
PARTS = 2
"""Micro-batches, over whose losses NeoX takes the mean."""


def figure_is(
    name: str, outcome: Outcome, settings: ObjectiveConfig, batch: Fields, of: Formula, parts: int
) -> None:
    """A figure by a formula, whose gradient is nobody's concern."""
    # of rewards and log-probabilities of both signs
    value = theirs(settings, batch, of, parts, gradients=False)[0]
    assert abs(outcome.figures[name] - value) <= BOUND * abs(value), (name, value)


@pytest.mark.slow
@pytest.mark.parametrize("as_neox", [True, False], ids=["as neox", "default"])
def test_masked_labels_are_averaged_by_micro_batch_or_over_all(as_neox: bool) -> None:
    settings = ObjectiveConfig(as_neox=as_neox)
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS, masked=True)
    labels = batch["weights"].reshape(PARTS, -1).sum(-1)
    assert labels[0] != labels[1]

    def formula(policy, _, of):
        return formulas.masked_mean(policy, of)

    check(outcome, *theirs(settings, batch, formula, PARTS if as_neox else 1))
    other = theirs(settings, batch, formula, 1 if as_neox else PARTS)[0]
    assert abs(outcome.losses[0] / other - 1) > 10 * BOUND


@pytest.mark.slow
def test_kto_as_neox_by_halves() -> None:
    settings = dataclasses.replace(OBJECTIVES["kto as neox"], kto_desirable_weight=1.5)
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    check(outcome, *theirs(settings, batch, lambda *of: neox_formulas.kto(*of, settings), PARTS))
    figure_is(
        "policy_rewards",
        outcome,
        settings,
        batch,
        lambda *of: neox_formulas.policy_rewards(*of, settings),
        PARTS,
    )


@pytest.mark.slow
def test_kto_by_the_paper_has_figures_of_rows() -> None:
    settings = OBJECTIVES["kto"]
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)

    def rewards(policy, reference, of):
        rho = formulas.text_logs(policy, of["tokens"], of["labelled"])
        rho = rho - formulas.reference_logs(reference, of)
        return (settings.kto_beta * of["reward"] * rho).mean()

    def baseline(policy, reference, of):
        logs = formulas.text_logs(policy, of["kl_tokens"], of["kl_labelled"])
        return (logs - formulas.reference_logs(reference, of, "kl_")).mean().clamp(min=0)

    figure_is("policy_rewards", outcome, settings, batch, rewards, 1)
    figure_is("kl", outcome, settings, batch, baseline, 1)


def test_kto_halves_only_even_micro_batches() -> None:
    with pytest.raises(UserError, match="halves of a micro-batch, which has 3 texts: make it even"):
        NeoxKto(OBJECTIVES["kto as neox"], 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mse", "full"])
def test_reinforce_as_neox_is_divided_by_the_rows_once_more(form: str) -> None:
    settings = dataclasses.replace(OBJECTIVES["reinforce as neox"], kl_form=form)
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    formula = neox_formulas.reinforce
    check(outcome, *theirs(settings, batch, lambda *of: formula(*of, settings), PARTS))

    def everywhere(policy, _, of):
        return neox_formulas.masked_logs(policy, of).mean()

    figure_is("logp", outcome, settings, batch, everywhere, PARTS)


@pytest.mark.slow
def test_reinforce_has_figures_of_labels() -> None:
    settings = OBJECTIVES["reinforce mse"]
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    figure_is(
        "logp", outcome, settings, batch, lambda policy, _, of: -formulas.masked_mean(policy, of), 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("as_neox", [True, False], ids=["as neox", "default"])
def test_a_model_is_not_better_than_itself(as_neox: bool) -> None:
    """Policy and reference are equal, so no pair is right: rounding is no preference."""
    settings = ObjectiveConfig("dpo", as_neox=as_neox)
    outcome, _ = ours(settings, mesh=Mesh(dp=2, tp=2), rows=ROWS, itself=True)
    assert outcome.figures["reward_acc"] == 0
    assert abs(outcome.figures["margins"]) < 1e-5 and abs(outcome.losses[0] - 0.6931472) < 1e-6
