"""Every objective's loss and gradients against formulas of the papers, in torch and float64."""

import dataclasses

import pytest

from jaxneox.config.objective_schema import ObjectiveConfig
from tests.objectives import formulas
from tests.objectives.batches import OBJECTIVES, ROWS
from tests.objectives.torch_side import check, ours, theirs
from tests.parallel.meshes import Mesh

pytestmark = pytest.mark.slow

TWICE = Mesh(accumulation=2)  # no mean is that of a micro-batch
PAPERS = [name for name, settings in OBJECTIVES.items() if not settings.as_neox]
SIGMOID = {
    "dpo without smoothing": ObjectiveConfig("dpo", dpo_beta=0.3),
    "dpo with smoothing": ObjectiveConfig("dpo", dpo_label_smoothing=0.2),
}


@pytest.mark.parametrize("name", [name for name in PAPERS if OBJECTIVES[name].kind == "dpo"])
def test_dpo(name: str) -> None:
    hold_dpo(OBJECTIVES[name])


@pytest.mark.parametrize("name", SIGMOID)
def test_dpo_with_and_without_label_smoothing(name: str) -> None:
    hold_dpo(SIGMOID[name])


def hold_dpo(settings: ObjectiveConfig) -> None:
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    check(outcome, *theirs(settings, batch, lambda *of: formulas.dpo(*of, settings)))


@pytest.mark.parametrize("name", [name for name in PAPERS if OBJECTIVES[name].kind == "kto"])
def test_kto(name: str) -> None:
    settings = OBJECTIVES[name]
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    check(outcome, *theirs(settings, batch, lambda *of: formulas.kto(*of, settings)))


@pytest.mark.parametrize("z_loss", [0.0, 0.02])
def test_reward_pairs(z_loss: float) -> None:
    settings = OBJECTIVES["rm"]
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS, z_loss=z_loss)
    expected = theirs(
        settings, batch, lambda values, _, of: formulas.reward_pairs(values, of, z_loss)
    )
    check(outcome, *expected)


@pytest.mark.parametrize("name", [name for name in PAPERS if OBJECTIVES[name].kind == "reinforce"])
def test_reinforce(name: str) -> None:
    settings = dataclasses.replace(OBJECTIVES[name], kl_weight=2 * OBJECTIVES[name].kl_weight)
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS)
    check(outcome, *theirs(settings, batch, lambda *of: formulas.reinforce(*of, settings)))


def test_masked_fine_tuning() -> None:
    settings = ObjectiveConfig()
    outcome, batch = ours(settings, mesh=TWICE, rows=ROWS, masked=True)
    check(outcome, *theirs(settings, batch, lambda policy, _, of: formulas.masked_mean(policy, of)))
