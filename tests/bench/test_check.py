"""What is compiled before a bench on a GPU: every program of ours, and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxneox.hlo.work import work
from jaxneox.plan.topology import Topology
from tests.bench import check
from tests.bench.kinds import KINDS, PRODUCT, Kind, flops
from tests.bench.sizes import Case

HERE, GPU = Topology("cpu", (1,)), Topology("h100", (1,))


def test_all_that_runs_on_a_gpu_is_compiled() -> None:
    """A new kind has to be known here, or this is red."""
    listed = list(check.all_of())
    assert [kind for kind, _ in listed if kind.host] == [k for k in KINDS.values() if k.host]
    known = {id(PRODUCT), *(id(KINDS[name]) for name in ("train", "forward", "decode"))}
    assert {id(kind) for kind, _ in listed if not kind.host} == known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "forward", "decode"])
def test_the_programs_are_those_of_the_case(name: str) -> None:
    """By their FLOPs: a step's are the formula's, a forward pass is a third of them."""
    case = replace(KINDS[name].gpu[0], size="14m", batch=2, length=128, dtype="float32")
    programs = check.compiled(KINDS[name], case, HERE)
    done = sum(work(one.as_text()).flops for one in programs)
    if name == "decode":
        assert len(programs) == 2 and done > 0
    else:
        expected = flops(case) / (1 if name == "train" else 3)
        assert done == pytest.approx(expected, rel=0.05)  # attention's masked blocks are left out


def of(compiled, monkeypatch: pytest.MonkeyPatch, kind: Kind = PRODUCT) -> tuple[str, bool]:
    monkeypatch.setattr(check, "compiled", compiled)
    return check.checked(kind, Case("", 1, 256), GPU)


def test_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    program = jax.jit(jnp.matmul).lower(*[jnp.zeros((256, 256))] * 2).compile()
    line, right = of(lambda *_: [program], monkeypatch)
    assert right and "product of 256 x 256" in line and "0.000" in line
    stats = SimpleNamespace(
        output_size_in_bytes=0,
        alias_size_in_bytes=0,
        argument_size_in_bytes=70 * 2**30,
        temp_size_in_bytes=0,
    )
    large = SimpleNamespace(as_text=program.as_text, memory_analysis=lambda: stats)
    line, right = of(lambda *_: [large], monkeypatch)
    assert not right and "TOO MUCH" in line


def test_what_does_not_compile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel\nand a stack")

    line, right = of(broken, monkeypatch)
    assert not right and "FAILED" in line and line.endswith("no such kernel")
    assert of(broken, monkeypatch, KINDS["data"]) == (line_of_host(), True)


def line_of_host() -> str:
    kind = KINDS["data"]
    many = f"{len(kind.contenders)} x {kind.rounds}"
    return check.ROW.format(kind.named(Case("", 1, 256)), many, "on the CPU", "", "", "")
