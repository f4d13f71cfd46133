"""Programs compiled for an H100, a v5p and a v5e slice that are not here, and what they must be.

Skipped where the compilers are absent; `make programs` brings them and takes some minutes. What is
asserted is what a change must not lose without being noticed: the kernel that attention became, the
dtype of products, what is sent and how often, what of it is asynchronous, and the memory.
"""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.limits import PATIENCE
from tests.programs.cases import COMPILED, MODEL
from tests.programs.compilers import FOLDERS, folder_of

pytestmark = pytest.mark.slow

MIB = 2**20
EACH = [(where, program) for where, programs in COMPILED.items() for program in programs]
LAYERS, HIDDEN, LENGTH = (MODEL[name] for name in ("num_layers", "hidden_size", "seq_length"))
STREAM = 2 * LENGTH * HIDDEN
"""Bytes of one sequence between layers, in bfloat16."""


@functools.cache
def compiled_for(topology: str) -> dict[str, dict[str, Any]]:
    """The facts of each program, compiled one after the other in a process of its own."""
    compiler = "cuda" if topology.startswith("h100") else "tpu"
    lines = child(compiler, "-m", "tests.programs", topology, *COMPILED[topology])
    return {said["program"]: said for said in map(json.loads, lines)}


def child(compiler: str, *words: str) -> list[str]:
    """The lines that Python prints in a process that has the compiler."""
    folder = folder_of(compiler)
    if folder is None:
        pytest.skip(f"no {compiler} compiler in ${FOLDERS}: make programs")
    path = os.pathsep.join([str(folder.resolve()), os.environ.get("PYTHONPATH", "")])
    own = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_DISABLE_MOST_OPTIMIZATIONS")  # of the tests' programs
    clean = {k: v for k, v in os.environ.items() if k not in own}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=clean | {"PYTHONPATH": path.rstrip(os.pathsep)},
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


DESCRIBE = """
from jaxneox.plan.plugins import prepare
from jaxneox.plan.topology import parse_topology
for kind in ("a100", "h100", "h200", "b200"):
    topology = parse_topology(f"{kind}:2x4")
    prepare(topology)
    last = topology.devices[-1]
    print(len(topology.devices), last.process_index, last.compute_capability, last.device_kind)
"""


def test_every_kind_of_gpu_is_understood_by_the_compiler() -> None:
    assert child("cuda", "-c", DESCRIBE) == [
        "8 1 8.0 NVIDIA A100-SXM4-80GB",
        "8 1 9.0 NVIDIA H100 80GB HBM3",
        "8 1 9.0 NVIDIA H200 141GB HBM3e",
        "8 1 10.0 NVIDIA B200",
    ]


def sent(facts: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Count and bytes of what a run sends, by kind and axes."""
    return {(kind, axes): (count, size) for kind, axes, count, size in facts["sent"]}


def layer(facts: dict[str, Any], kind: str, axes: str, least: int = 64 * 1024) -> list[list[Any]]:
    """What a round of the loops over layers sends, without what is small."""
    return [one for one in facts["layers"] if one[:2] == [kind, axes] and one[2] >= least]


@pytest.mark.parametrize(("topology", "program"), EACH)
def test_every_product_is_in_bfloat16(topology: str, program: str) -> None:
    products = compiled_for(topology)[program]["products"]
    assert products.keys() == {"bf16"}, products


@pytest.mark.parametrize(("topology", "program"), EACH)
def test_the_kernel_of_attention(topology: str, program: str) -> None:
    """cuDNN's on a GPU, forward, again for the backward pass, and backward; XLA's own elsewhere."""
    calls = compiled_for(topology)[program]["calls"]
    found = {name: calls.get(name, 0) for name in ("__cudnn$fmhaSoftmax", BACKWARD)}
    fused = topology.startswith("h100") and program in FUSED
    assert tuple(found.values()) == (FUSED[program] if fused else (0, 0))


BACKWARD = "__cudnn$fmhaSoftmaxBackward"
FUSED = {"dense": (2, 1), "lora": (2, 1), "prefill": (LAYERS, 0)}
"""Not in a pipeline, nor around a ring; one new token needs no blocks."""


@pytest.mark.parametrize("topology", COMPILED)
def test_a_layer_sends_over_tp_once_forward_and_once_backward(topology: str) -> None:
    """Scattered sums of the stream: one a pass. Gathers of it: one forward, and backward one of the
    input and one of the gradient, which a GPU's compiler puts together."""
    facts = compiled_for(topology)["dense"]
    each = 16 // 4 * STREAM
    scattered = layer(facts, "reduce-scatter", "tp")
    assert [one[2] for one in scattered] == [each] * 2
    assert sum(one[2] for one in layer(facts, "all-gather", "tp")) == 3 * each
    assert not layer(facts, "all-reduce", "tp")


@pytest.mark.parametrize("topology", COMPILED)
def test_zero_3_gathers_weights_and_scatters_their_gradients(topology: str) -> None:
    """A layer's matrices, 12 D^2 numbers of which a device has a half, in bfloat16: gathered twice,
    and their gradients scattered once; no gradient of a matrix is summed whole."""
    facts = compiled_for(topology)["dense"]
    matrices = 2 * 12 * HIDDEN**2 // 2
    gathered = sum(one[2] for one in layer(facts, "all-gather", "dp"))
    assert gathered == pytest.approx(2 * matrices, rel=0.01)
    scattered = sum(one[2] for one in layer(facts, "reduce-scatter", "dp"))
    assert scattered == pytest.approx(matrices, rel=0.01)
    assert not layer(facts, "all-reduce", "dp")


def asynchronous(facts: dict[str, Any]) -> float:
    total = sum(one[2] for one in facts["layers"])
    return sum(one[2] for one in facts["layers"] if one[3]) / total


def test_a_gpu_sends_asynchronously() -> None:
    """All that a layer sends but the first gather of its weights, which nothing comes before."""
    facts = compiled_for("h100:8")["dense"]
    assert asynchronous(facts) >= 0.8
    assert [one[3] for one in layer(facts, "reduce-scatter", "tp")] == [True, True]


@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2"])
def test_a_tpu_gathers_weights_asynchronously(topology: str) -> None:
    """A third of a layer's bytes: on a v5e by libtpu's own choice, on a v5p by our options."""
    facts = compiled_for(topology)["dense"]
    assert asynchronous(facts) >= 0.33
    over_dp = layer(facts, "all-gather", "dp")
    assert sum(one[3] and one[4] for one in over_dp) >= 5


SUMS = ("all-reduce", "reduce-scatter")


def test_lora_sums_only_its_own_gradients() -> None:
    facts = compiled_for("h100:8")["lora"]
    over_dp = [one for one in facts["sent"] if one[1] == "dp" and one[0] in SUMS]
    matrices = 2 * 12 * HIDDEN**2 // 2
    assert sum(size for _, _, _, size in over_dp) < 0.1 * LAYERS * matrices


@pytest.mark.parametrize("topology", [t for t, names in COMPILED.items() if "ring" in names])
def test_a_ring_sends_keys_and_values_on_while_it_computes(topology: str) -> None:
    """Asynchronously, and no more than it has to: forward keys and values, backward these and their
    gradients in float32."""
    facts = compiled_for(topology)["ring"]
    permutes = layer(facts, "collective-permute", "cp", 1)
    assert permutes and all(one[3] for one in permutes)
    assert sent(facts)["collective-permute", "cp"][1] == 128 * MIB
    assert not [one for one in facts["sent"] if one[0] == "all-gather" and one[1] == "cp"]


@pytest.mark.parametrize("topology", [t for t, names in COMPILED.items() if "pipeline" in names])
def test_stages_of_a_pipeline_pass_the_stream_on(topology: str) -> None:
    facts = compiled_for(topology)["pipeline"]
    count, size = sent(facts)["collective-permute", "pp"]
    assert size == count * 2 * STREAM  # of a device's two sequences


@pytest.mark.parametrize("topology", [t for t, names in COMPILED.items() if "decode" in names])
def test_a_new_token_sums_once_a_layer(topology: str) -> None:
    """And once for the embedding; a device has eight of the 16 rows."""
    facts = compiled_for(topology)["decode"]
    count, size = sent(facts)["all-reduce", "tp"]
    assert count == LAYERS + 1
    assert size <= (LAYERS + 1) * 8 * HIDDEN * 4
    assert "dp" not in {axes for _, axes in sent(facts)}  # rows have nothing to do with each other


@pytest.mark.parametrize(("topology", "program"), EACH)
def test_memory(topology: str, program: str) -> None:
    """Not 5 % more than it was when this was written, in MiB: a copy of an array goes red."""
    found = compiled_for(topology)[program]["memory"] / MIB
    assert found <= 1.05 * MEMORY[topology][program], found


MEMORY: dict[str, dict[str, float]] = {
    "h100:8": {
        "dense": 97.4,
        "lora": 50.3,
        "pipeline": 201.8,
        "ring": 363.6,
        "prefill": 30.8,
        "decode": 22.0,
    },
    "v5p:2x2x2": {"dense": 77.6, "ring": 399.4, "decode": 28.9},
    "v5e:2x4": {"dense": 41.9, "pipeline": 162.0, "prefill": 27.1},
}
