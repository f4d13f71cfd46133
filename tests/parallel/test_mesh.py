import pytest
from jax.sharding import AxisType

from jaxneox.config.schema import ParallelConfig
from jaxneox.errors import UserError
from jaxneox.parallel.mesh import asked_sizes, final_sizes, make_mesh, parse_mesh, whole


def test_parse_mesh() -> None:
    assert parse_mesh("dp=2,tp=4") == {"dp": 2, "tp": 4}
    assert parse_mesh(" tp=4, dp=-1 ") == {"tp": 4, "dp": -1}


@pytest.mark.parametrize("text", ["", "dp", "dp=x", "dp=2,dp=2", "xp=2", "dp=0", "dp=-2", "dp=2,,"])
def test_a_malformed_mesh_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--mesh"):
        parse_mesh(text)


def test_only_one_axis_can_take_what_is_left() -> None:
    with pytest.raises(UserError, match="only one axis"):
        parse_mesh("dp=-1,tp=-1")


def test_the_yaml_decides_where_no_mesh_is_asked_for() -> None:
    assert asked_sizes(None, ParallelConfig(tp=2, pp=4)) == whole({"pp": 4, "dp": -1, "tp": 2})
    assert asked_sizes("dp=2", ParallelConfig(tp=2, pp=4)) == whole({"dp": 2})


def test_final_sizes_fill_in_what_is_left() -> None:
    assert final_sizes({"dp": -1, "tp": 2}, 8) == {"dp": 4, "tp": 2}
    assert final_sizes({"dp": 2, "tp": 2}, 8) == {"dp": 2, "tp": 2}
    with pytest.raises(UserError, match="needs 16 devices and there are 8"):
        final_sizes({"dp": 4, "tp": 4}, 8)


def test_the_mesh_is_explicit_and_may_use_some_of_the_devices() -> None:
    mesh = make_mesh({"dp": 2, "tp": 2})
    assert mesh.shape == {"pp": 1, "dp": 2, "cp": 1, "tp": 2}
    assert set(mesh.axis_types) == {AxisType.Explicit}
