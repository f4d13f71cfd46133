"""The reference's own tables, against numbers and code that others published."""

import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
t5 = pytest.importorskip(
    "transformers.models.t5.modeling_t5", reason="needs the torch extra"
).T5Attention

from jaxneox.config.schema import PositionConfig  # noqa: E402
from tests.reference.neox_torch import alibi_slopes, rpe_buckets  # noqa: E402


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 16), (16, 100)])
def test_rpe_buckets_are_those_of_t5(buckets: int, max_distance: int) -> None:
    distance = torch.arange(-5, 300)
    expected = t5._relative_position_bucket(
        -distance, bidirectional=False, num_buckets=buckets, max_distance=max_distance
    )
    cfg = PositionConfig("rpe", rpe_buckets=buckets, rpe_max_distance=max_distance)
    assert torch.equal(rpe_buckets(distance, cfg), expected)


def test_alibi_slopes() -> None:
    """Press et al. 2021, section 3 and their code for heads that are no power of two."""
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6) == [2.0**-i for i in (2, 4, 6, 8, 1, 3)]
