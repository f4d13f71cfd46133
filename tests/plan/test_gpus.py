"""GPUs that are not here: their description, their links on two levels, and their memory."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from jaxneox.errors import UserError
from jaxneox.hlo.sent import Row
from jaxneox.model.kernels.absent_gpu import capability, described
from jaxneox.parallel.mesh import make_mesh
from jaxneox.plan import plugins
from jaxneox.plan.gpu_memory import FRACTION, GpuMemory, attention_workspace, gpu_memory
from jaxneox.plan.gpus import GPUS
from jaxneox.plan.page import write_page
from jaxneox.plan.planned import Planned, compile_for
from jaxneox.plan.plugins import has_cuda_plugin, without_word_of_a_driver
from jaxneox.plan.report import head, memory, sent
from jaxneox.plan.search import Candidate, over_tp, ranked
from jaxneox.plan.switched import SwitchedLinks
from jaxneox.plan.times import links_of
from jaxneox.plan.topology import Topology, parse_topology
from jaxneox.train.plan import build_plan
from tests.parallel.meshes import MODEL, Mesh, config
from tests.plan.small import KEYS
from tests.plan.test_plan import command

HOSTS = Topology("h100", (4, 8))
NVLINK, NETWORK = 450e9, 50e9
GIB = 2**30


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [("h100:8", 8, "h100:8"), ("a100:4x8", 32, "a100:4x8"), ("b200:2x4", 8, "b200:2x4")],
)
def test_hosts_of_gpus(text: str, count: int, name: str) -> None:
    found = parse_topology(text)
    assert (found.count, found.name, found.is_gpu) == (count, name, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "h100:16",
            "at most 8 GPUs; several hosts are given as hosts x GPUs of each, as in h100:2x8",
        ),
        ("h100:9", "at most 8 GPUs"),
        ("h200:2x2x2", "expected the GPUs of one host"),
        ("h100:2000x8", "at most 1,024 hosts"),
        ("h100", "expected the GPUs of one host"),
        ("h100pcie:8", "is not known"),
    ],
)
def test_shapes_that_no_hosts_have(text: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        parse_topology(text)


def test_a_network_of_ones_own() -> None:
    links = cast(Any, parse_topology("h100:2x8", 12.5).chip).links
    assert (links.network, links.nvlink) == (12.5e9, NVLINK)
    with pytest.raises(UserError, match="v5p:2x2x1 has no network between hosts"):
        parse_topology("v5p:2x2x1", 50)


def fields(text: str) -> dict[str, str]:
    """The scalar fields of a message in text format by name; the last of a name."""
    return dict(re.findall(r"(\w+): (\"[^\"]*\"|[\w.]+)", text))


@pytest.mark.parametrize("kind", ["h100", "a100"])
def test_a_description_has_what_a_device_reported(kind: str, shared: Path) -> None:
    """Every field of XLA's own that is a number of the kind of GPU, whatever the versions."""
    path = shared / "perf" / f"{kind}.txtpb"
    if not path.is_file():
        pytest.skip(f"no {path}")
    ours, theirs = fields(GPUS[kind].target()), fields(path.read_text())
    versions = {"dnn_version", "patch", "minor"}
    for name in ours.keys() & theirs.keys() - versions:
        assert ours[name] == theirs[name], name
    assert theirs.keys() - ours.keys() <= {
        *("device_vendor", "platform_version", "device_address_bits", "pcie_bandwidth"),
        "ecc_enabled",
    }


def on_hosts(sizes: dict[str, int]) -> SwitchedLinks:
    """The mesh that jaxneox makes of 4 x 8 GPUs, which the system lists by process."""

    @dataclasses.dataclass(frozen=True)
    class Device:
        id: int
        platform: str = "gpu"
        device_kind: str = "NVIDIA H100 80GB HBM3"

        @property
        def process_index(self) -> int:
            return self.id // 8

    devices = [Device(i) for i in range(32)]
    links = links_of(make_mesh(sizes, devices), HOSTS)
    assert isinstance(links, SwitchedLinks)
    return links


def row(kind: str, axes: str, size: float) -> Row:
    return Row(kind, axes, 1, int(size), "known")


def test_which_axes_of_a_mesh_lie_within_a_host() -> None:
    """tp is the last axis: neighbours along it are neighbours on a host."""
    links = on_hosts({"pp": 2, "dp": 4, "tp": 4})
    found = {axes: links.level(row("all-gather", axes, 1)) for axes in ("tp", "dp", "pp", "dp+tp")}
    assert found == {"tp": "NVLink", "dp": "network", "pp": "network", "dp+tp": "network"}
    assert on_hosts({"dp": 16, "tp": 2}).level(row("all-gather", "tp", 1)) == "NVLink"
    assert on_hosts({"dp": 2, "tp": 16}).level(row("all-gather", "tp", 1)) == "network"
    half = on_hosts({"pp": 8, "dp": 2, "tp": 2})  # dp has both halves of a half of a host
    assert half.level(row("all-reduce", "dp", 1)) == "NVLink"


def test_rings_on_two_levels_by_hand() -> None:
    links, size = on_hosts({"dp": 4, "tp": 8}), 8e9
    inside = 7 / 8 * size / NVLINK
    assert links.seconds(row("all-gather", "tp", size)) == pytest.approx(inside)
    assert links.seconds(row("all-reduce", "tp", size)) == pytest.approx(2 * inside)
    assert links.seconds(row("all-to-all", "tp", size)) == pytest.approx(inside)
    assert links.seconds(row("collective-permute", "tp", size)) == pytest.approx(size / NVLINK)
    one_of_each_host = 3 / 4 * size / NETWORK
    assert links.seconds(row("reduce-scatter", "dp", size)) == pytest.approx(one_of_each_host)
    assert links.seconds(row("collective-permute", "dp", size)) == pytest.approx(size / NETWORK)
    to_others = 24 / 32 * size / NETWORK
    assert links.seconds(row("all-to-all", "dp+tp", size)) == pytest.approx(to_others)
    everybody = row("all-gather", "dp+tp", size)  # the slower level counts: here NVLink
    assert links.seconds(everybody) == pytest.approx(inside)
    slow = dataclasses.replace(links, topology=dataclasses.replace(HOSTS, network=NETWORK / 4))
    all_adapters = 3 / 4 * size / (8 * NETWORK / 4)  # each of a host's eight has its share
    assert slow.seconds(everybody) == pytest.approx(all_adapters)


def test_cudnn_is_asked_of_a_gpu_that_is_not_there() -> None:
    """Fused attention is lowered for CUDA here, where no cuDNN could say its version."""
    q = jnp.zeros((1, 128, 2, 64), jnp.bfloat16)

    def attend(q: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, q, q, is_causal=True, implementation="cudnn")

    with described((9, 0), (9, 10, 1)):
        assert capability() == (9, 0)
        lowered = jax.jit(attend).trace(q).lower(lowering_platforms=("cuda",))
    assert "__cudnn$fmhaSoftmax" in lowered.as_text()
    assert capability() == (0,)
    with pytest.raises(RuntimeError, match="cuDNN is not detected"):
        jax.jit(lambda q: attend(q) + 1).trace(q)


CALL = """HloModule step

ENTRY %main (q: bf16[2,64,4,32]) -> bf16[2,4,64,32] {
  %q = bf16[2,64,4,32]{3,2,1,0} parameter(0)
  %a = (bf16[9,9,9,9], u8[0]) custom-call(%q), custom_call_target="__cudnn$fmhaSoftmax"
  %b = (bf16[2,4,64,32], u8[0]) custom-call(%q), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  ROOT %r = bf16[2,4,64,32]{3,1,2,0} get-tuple-element(%b), index=0
}
"""


def test_memory_that_no_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("all-gather", "tp", 1), row("all-reduce", "tp", 1), row("all-reduce", "dp", 1)]
    assert attention_workspace(CALL) == 4 * 2 * 4 * 64 * 32
    monkeypatch.delenv(FRACTION, raising=False)
    found = gpu_memory(CALL, rows, 80 * GIB, (9, 0))
    assert found.taken == 60 * GIB and found.communicators == 2
    assert found.workspace == attention_workspace(CALL) + 32 * 2**20
    assert gpu_memory(CALL, rows, GIB, (8, 0)).workspace < found.workspace
    monkeypatch.setenv(FRACTION, "0.9")
    assert gpu_memory(CALL, rows, 80 * GIB, (9, 0)).taken == 72 * GIB
    for wrong in ("2", "0", "most"):
        monkeypatch.setenv(FRACTION, wrong)
        with pytest.raises(UserError, match="expected a share of the memory"):
            gpu_memory(CALL, rows, GIB, (9, 0))


def test_moments_in_a_hosts_memory_are_not_planned() -> None:
    mesh = Mesh(dp=2, tp=2)
    cfg = config(MODEL, mesh)
    cfg = dataclasses.replace(
        cfg, parallel=dataclasses.replace(cfg.parallel, offload_optimizer=True)
    )
    with pytest.raises(UserError, match="offload_optimizer: JAX knows no host's memory"):
        compile_for(build_plan(cfg, mesh.sizes), Topology("h100", (4,)))


def on_gpus(planned: Planned, total: int) -> Planned:
    """The plan as if it were one for four GPUs, that needs so many bytes."""
    taken = int(0.75 * GPUS["h100"].memory)
    one = dataclasses.replace(planned, topology=Topology("h100", (4,)))
    links = SwitchedLinks(one.topology, planned.plan.sizes, np.zeros((1, 2, 1, 2), int))
    one.__dict__.update(gpu=GpuMemory(taken, GIB, 2, GIB), total=total, links=links)
    return one


def test_what_is_said_of_a_gpus_memory(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FRACTION, raising=False)
    fits = memory(on_gpus(planned, 50 * GIB))
    assert "51.00 GiB of 59.3: fits" in fits and "JAX takes 59.3 beforehand" in fits
    assert "NCCL takes at most 1.00 for 2 groups" in fits and FRACTION + "=" not in fits
    larger = memory(on_gpus(planned, 59 * GIB))
    assert "60.00 GiB of 59.3: DOES NOT FIT" in larger
    assert f"it fits with {FRACTION}=0.76" in larger
    assert "it fits with" not in memory(on_gpus(planned, 79 * GIB))


def test_one_gpu_has_no_groups(planned: Planned) -> None:
    one = on_gpus(planned, GIB)
    one.__dict__.update(gpu=GpuMemory(60 * GIB, GIB, 0, 0), topology=Topology("h100", (1,)))
    assert "CUDA takes what its context needs" in memory(one) and "NCCL" not in memory(one)
    assert "(1 device):" in head(one)


def test_a_wrong_share_of_memory_is_said_before_jax_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAX_PLATFORMS", "TF_CPP_MIN_LOG_LEVEL", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.setenv(name, os.environ.get(name, "cpu"))
    monkeypatch.setenv(FRACTION, "80%")
    monkeypatch.setattr(plugins, "has_cuda_plugin", lambda: True)
    with pytest.raises(UserError, match=r"=80%: expected a share of the memory"):
        plugins.prepare(Topology("h100", (8,)))


def test_the_table_names_the_level(planned: Planned) -> None:
    lines = sent(on_gpus(planned, GIB)).splitlines()
    assert "through" in lines[1]
    assert all("NVLink" in line for line in lines[2:] if re.search(r"\d$", line))


@pytest.mark.slow
@pytest.mark.skipif(not has_cuda_plugin(), reason="needs jax's plugin for CUDA")
def test_gpus_that_are_not_there(tmp_path: Path) -> None:
    keys = KEYS | {"precision": "bfloat16", "hidden_size": 512, "seq_length": 128}
    keys |= {"max_position_embeddings": 128, "train_batch_size": 16}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(keys))
    done = command(Path.cwd(), tmp_path / "a.yml", "--topology", "h100:2x2", "--mesh", "dp=2,tp=2")
    assert done.returncode == 0, done.stderr
    assert "of 59.3: fits" in done.stdout and "network" in done.stdout
    assert "cuda drivers" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(has_cuda_plugin(), reason="jax's plugin for CUDA is here")
def test_without_the_plugin_the_line_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(yaml.safe_dump(KEYS))
    done = command(Path.cwd(), tmp_path / "a.yml", "--topology", "h100:8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'jaxneox[plan-gpu]'" in done.stderr


def test_a_page_of_gpus(planned: Planned, tmp_path: Path) -> None:
    """The bar ends at what JAX takes of the memory, and has the libraries' workspaces in it."""
    write_page(on_gpus(planned, 50 * GIB), tmp_path / "plan.html")
    page = (tmp_path / "plan.html").read_text()
    assert "workspace: 1.000 GiB" in page and "A layer" in page
    assert "51.00 GiB of 59.3: fits" in page
    assert f'width="{900 * GIB / int(0.75 * GPUS["h100"].memory):.2f}"' in page


def test_a_plugins_word_of_a_driver_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with without_word_of_a_driver():
        os.write(2, b"I0 cudart_stub.cc:31] Could not find cuda drivers\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"


def test_a_search_knows_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over two hosts tp takes the network's time, within one NVLink's; what fits is JAX's share."""
    mesh = Mesh(dp=4, tp=8)
    cfg = config(dataclasses.replace(MODEL, num_layers=16), mesh, batch=32)

    def seconds(dp: int, tp: int) -> float:
        links = on_hosts({"pp": 1, "dp": dp, "cp": 1, "tp": tp})
        one = Candidate(tuple(links.sizes.items()), 3, "full", True, 2)
        return over_tp(one, cfg, links) / one.rounds(cfg)

    within, across = 7 / 8 / NVLINK, 1 / 2 / 8 / NETWORK
    assert seconds(2, 16) / seconds(4, 8) == pytest.approx(max(across, within) / within)
    slow = dataclasses.replace(HOSTS, network=NETWORK / 10)
    monkeypatch.setattr("tests.plan.test_gpus.HOSTS", slow)
    assert seconds(2, 16) / seconds(4, 8) == pytest.approx(10 * across / within)
    wide = dataclasses.replace(
        MODEL,
        attention=dataclasses.replace(MODEL.attention, num_heads=32, kv_heads=32),
        hidden_size=128,
    )
    cfg = config(wide, Mesh(dp=2, tp=16), batch=32)
    plan = build_plan(cfg, Mesh(dp=2, tp=16).sizes)
    tried = {one.candidate.mesh["tp"] for one in ranked(cfg, plan, HOSTS, on_hosts)}
    assert tried == {1, 2, 4, 8}  # no further than a host
    monkeypatch.setenv(FRACTION, "0.000001")
    with pytest.raises(UserError, match="no mesh of 32 devices should fit"):
        ranked(cfg, plan, HOSTS, on_hosts)
