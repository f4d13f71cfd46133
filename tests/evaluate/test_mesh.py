"""Without --mesh: a CPU's cores, each with a copy of the weights, as far as memory allows."""

from pathlib import Path

import jax
import pytest

from jaxneox.evaluate import mesh


@pytest.mark.parametrize(
    ("cores", "size", "platform", "expected"),
    [
        (2, 1000, "cpu", "dp=2"),
        (64, 1000, "cpu", "dp=8"),
        (8, 2**30, "cpu", "dp=4"),  # a quarter of 16 GiB holds four copies
        (8, 2**34, "cpu", "dp=1"),
        (8, 1000, "gpu", "dp=1"),
    ],
)
def test_as_many_as_cores_and_memory(
    cores: int, size: int, platform: str, expected: str, tmp_path: Path, monkeypatch
) -> None:
    for name, length in (("params", size), ("training", 2**35)):  # the optimizer is not read
        (tmp_path / name).mkdir()
        with (tmp_path / name / "array").open("wb") as file:
            file.truncate(length)  # a hole, without blocks of its own
    device = type("Device", (), {"platform": platform})
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}
    monkeypatch.setattr(mesh.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(mesh, "cores", lambda: cores)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert mesh.usual_mesh(tmp_path) == expected
