"""NeoX's own runs of post-training: five steps from its weights on its batches, by its YAML.

Everything that it logged is compared, and its gradients and logits. All runs are taken on one
device, and here one of each kind on four; `make matrix` takes all of them on four.
"""

import pytest

from tests.objectives.golden import FOUR, ONE, check
from tests.objectives.golden_cases import SHARED, GoldenCase, cases

pytestmark = pytest.mark.slow

WITHOUT_TEXTS = [case for case in cases() if not case.complete]
COMPLETE = [case for case in cases() if case.complete]
ON_FOUR = (
    *("dpo_gas2_pythia_mp2", "kto_mp2", "rm_mp2", "sft_mp2", "reinforce_full_mp2"),
    *("key_adam_l2", "key_train_epochs", "key_curriculum_pp0"),
    *("mup_untied_mp2", "mup_tied_pp1_mp1"),
)


@pytest.mark.parametrize("case", WITHOUT_TEXTS, ids=str)
def test_a_run_of_each_kind(case: GoldenCase) -> None:
    hold(check(case, ONE))


@pytest.mark.parametrize("case", COMPLETE or [None], ids=str)
def test_every_run(case: GoldenCase | None) -> None:
    hold(check(here(case), ONE))


@pytest.mark.parametrize("name", ON_FOUR)
def test_a_run_of_each_kind_on_four_devices(name: str) -> None:
    found = [case for case in COMPLETE if str(case) == name]
    hold(check(here(*found or [None]), FOUR))


def here(case: GoldenCase | None) -> GoldenCase:
    if case is None:
        pytest.skip(f"no runs of post-training at {SHARED}: set JAXNEOX_SHARED")
    return case


def hold(parts: dict[str, float]) -> None:
    assert max(parts.values()) <= 1, parts
