"""Ten steps of TRL's trainers, each step's loss and gradients here (`pip install trl`)."""

import pytest

pytest.importorskip("trl", reason="pip install trl compares with TRL's trainers")

from tests.objectives.torch_side import BOUND
from tests.objectives.trl_apart import OBJECTIVES, measure


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries among themselves
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ten_steps(name: str) -> None:
    apart = measure(name)
    assert max(apart.loss, apart.gradient) <= BOUND, apart
    # the same, after the differences of up to nine steps by Adam
    assert apart.trained <= BOUND, apart
