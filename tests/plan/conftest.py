"""One plan for all tests."""

import pytest

from jaxneox.plan.planned import Planned
from tests.parallel.meshes import Mesh
from tests.plan.small import compiled


@pytest.fixture(scope="session")
def planned() -> Planned:
    return compiled(Mesh(dp=2, tp=2, zero=1, accumulation=2), "none")
