"""Law 1 for the objectives: one function, any mesh, however the batch is cut.

Here is each kind of them on two meshes; `make matrix` takes all of them on all meshes.
"""

import pytest

from tests.objectives.meshes import LORA, MESHES, check
from tests.parallel.meshes import Mesh

PIPELINE, RING = MESHES[3], MESHES[5]
KINDS = ("dpo", LORA, "rm", "kto", "reinforce mse", "reinforce full")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [PIPELINE, RING], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_every_mesh_as_one_device(name: str, mesh: Mesh) -> None:
    parts = check(name, mesh)
    assert max(parts.values()) <= 1, parts
