"""Plans for virtual devices of this CPU, held against programs that run; for TPUs with libtpu."""

import contextlib
import dataclasses
import html.parser
import importlib.util
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
import yaml

from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.hlo.sent import Row
from jaxneox.hlo.text import parse
from jaxneox.parallel.mesh import make_mesh
from jaxneox.plan.planned import Planned, TooLarge
from jaxneox.plan.report import report
from jaxneox.plan.setup import plan_of, sizes_on
from jaxneox.plan.timeline import timelines
from jaxneox.plan.times import Links, Ways, links_of
from jaxneox.plan.topology import Topology, parse_topology
from jaxneox.train.checkpoints.restore import initial_state
from jaxneox.train.dry_run.memory import memory_of
from jaxneox.train.plan import build_plan
from tests.limits import PATIENCE
from tests.parallel.meshes import Mesh, config
from tests.plan.small import KEYS, POD, WIDE, compiled

CONDITIONALS = (
    "conditional(%p, %p, %p), true_computation=%all, false_computation=%none",
    "conditional(%p, %p, %p), branch_computations={%none, %all}",
)


@pytest.mark.slow
def test_flops_are_the_formulas(planned: Planned) -> None:
    """Attention of all positions is computed, and nothing twice without rematerialisation: what
    the model's formula has."""
    assert planned.work.flops == pytest.approx(planned.model_flops, rel=0.01)


def test_full_remat_computes_the_forward_products_of_layers_again(planned: Planned) -> None:
    again = compiled(Mesh(dp=2, tp=2, zero=1, accumulation=2), "full")
    assert 1.05 < again.work.flops / again.model_flops < 4 / 3
    assert again.memory.kept < planned.memory.kept


def test_dots_keeps_the_products_with_weights() -> None:
    """Besides the layers' inputs: queries, keys and values, and the MLP's inner width, in bfloat16,
    of the 8 x 16 tokens of two micro-batches, on four devices. What comes out of a branch is not
    needed again: it is only added."""

    def kept(remat: str) -> int:
        mesh = Mesh(dp=2, tp=2, zero=3, accumulation=2)
        cfg = config(WIDE, mesh)
        plan = build_plan(
            dataclasses.replace(
                cfg,
                remat=dataclasses.replace(cfg.remat, policy=remat),
                precision=dataclasses.replace(cfg.precision, compute="bfloat16"),
            ),
            mesh.sizes,
        )
        return memory_of(plan, make_mesh(mesh.sizes)).kept

    attention = WIDE.attention
    widths = (attention.num_heads + 2 * attention.kv_heads) * attention.head_dim + WIDE.mlp.size
    assert kept("dots") - kept("full") == WIDE.num_layers * 8 * 16 * widths * 2 // 4


def test_memory_is_what_a_device_holds(planned: Planned) -> None:
    plan, sizes = planned.plan, planned.plan.sizes
    numbers = sum(math.prod(shape) for shape in plan.model.shapes.values())
    assert numbers * 4 / (sizes["tp"]) <= planned.memory.parameters < numbers * 4
    assert planned.memory.optimizer == pytest.approx(
        2 * planned.memory.parameters / sizes["dp"], rel=0.05
    )
    assert sum(planned.parts.values()) == pytest.approx(planned.total, rel=0.01)


def test_collectives_of_a_layer_are_told_apart(planned: Planned) -> None:
    over_tp = [row for row in planned.sent if row.axes == "tp" and row.kind == "all-reduce"]
    assert sum(row.in_layer for row in over_tp) == 2  # one forward, one backward
    assert "all-reduce" in report(planned)


def row(kind: str, axes: str, size: int) -> Row:
    return Row(kind, axes, 1, size, "known")


def test_links_by_hand() -> None:
    """v5p: 100 GB/s each way, rings closed in a cube: 4 devices along one axis, 16 along two."""
    ways: dict[str, Ways] = {"pp": {}, "dp": {1: 2, 2: 2}, "cp": {}, "tp": {0: 2}}
    links = Links(POD, {"pp": 1, "dp": 16, "cp": 1, "tp": 4}, ways)
    assert links.seconds(row("all-gather", "tp", 8 * 10**9)) == pytest.approx(8 * 3 / 4 / 200)
    assert links.seconds(row("all-reduce", "tp", 8 * 10**9)) == pytest.approx(2 * 8 * 3 / 4 / 200)
    assert links.seconds(row("reduce-scatter", "dp", 10**9)) == pytest.approx(15 / 16 / 400)
    assert links.seconds(row("collective-permute", "tp", 10**9)) == pytest.approx(1 / 100)
    half = Links(POD, links.sizes, ways | {"tp": {0: 1}})
    assert half.seconds(row("all-gather", "tp", 8 * 10**9)) == pytest.approx(8 * 3 / 4 / 100)


@dataclasses.dataclass(frozen=True)
class Chip:
    coords: tuple[int, int, int]


@pytest.mark.parametrize(("tp", "expected"), [(4, {2: 2}), (2, {2: 1}), (8, {1: 1, 2: 2})])
def test_ways_of_a_mesh_on_a_cube(tp: int, expected: dict[int, int]) -> None:
    """A group that has all of an axis closes its ring, one with a part of it does not."""
    chips = np.empty(64, object)
    chips[:] = [Chip((x, y, z)) for x in range(4) for y in range(4) for z in range(4)]
    mesh = SimpleNamespace(
        devices=chips.reshape(1, 64 // tp, 1, tp),
        axis_names=("pp", "dp", "cp", "tp"),
        shape={"pp": 1, "dp": 64 // tp, "cp": 1, "tp": tp},
    )
    found = links_of(cast(Any, mesh), POD).ways
    assert found["tp"] == expected and found["pp"] == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v9:2x2", "is not known; known: v5e"),
        ("v5p:4x4", "is not known"),
        ("v5p", "is not known"),
        ("v5p:0x4x4", "is not known"),
        ("cpu:2x2", "is not known"),
        ("cuda:8", "is not known"),
    ],
)
def test_unknown_topologies(text: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        parse_topology(text)


def test_a_mesh_that_does_not_fill_the_topology() -> None:
    with pytest.raises(UserError, match="expected a mesh of 64, such as dp=16,tp=4"):
        sizes_on("dp=2,tp=4", Settings(KEYS), POD)
    with pytest.raises(UserError, match="such as dp=64"):
        sizes_on("tp=3", Settings(KEYS), POD)


def test_a_plan_needs_no_tokenizer() -> None:
    keys = {k: v for k, v in KEYS.items() if k != "padded_vocab_size"}
    keys |= {"tokenizer_type": "HFTokenizer", "vocab_file": "nowhere.json"}
    keys |= {"reset_attention_mask": True}  # by a token that is not known
    plan, notes = plan_of(
        Settings(keys), {"pp": 1, "dp": 1, "cp": 1, "tp": 1}, Topology("cpu", (1,))
    )
    assert plan.cfg.model.vocab_size >= 50277 and "50,277" in notes[0]


class Sources(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        names = dict(attrs)
        self.fetched += [names[name] for name in ("src", "href") if names.get(name)]


def command(folder: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "jaxneox.plan", *map(str, args)]
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")} | env
    return subprocess.run(
        words, capture_output=True, text=True, env=clean, cwd=folder, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "a.yml").write_text(yaml.safe_dump(KEYS))
    return folder / "a.yml"


@pytest.mark.slow
def test_the_command_and_its_page(written: Path) -> None:
    page = written.parent / "plan.html"
    done = command(
        Path.cwd(), written, "--topology", "cpu:4", "--mesh", "dp=2,tp=2", "--html", page
    )
    assert done.returncode == 0, done.stderr
    assert "memory of a device" in done.stdout and f"written: {page}" in done.stdout
    sources = Sources()
    sources.feed(page.read_text())
    assert not sources.fetched and "<svg" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--topology", "v9:1"), "is not known"),
        (("--topology", "cpu:4", "--mesh", "dp=3"), "expected a mesh of 4"),
        (("--topology", "cpu:4", "--search"), "--search N needs"),
        (("--topology", "cpu:4", "--set", "numlayers=2"), "did you mean"),
        ((), "--topology"),
    ],
)
def test_wrong_input_is_one_line(written: Path, args: tuple[str, ...], says: str) -> None:
    done = command(Path.cwd(), written, *args)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


def test_a_timeline_is_a_layer_forward_and_one_backward(planned: Planned) -> None:
    """Its products, at the peak, take as long as all layers' by their number."""
    pod = dataclasses.replace(planned, topology=POD)
    sizes = planned.plan.sizes
    pod.__dict__["links"] = Links(POD, sizes, {name: {} for name in sizes})
    found = timelines(pod)
    assert len(found) == 2
    for intervals in found:
        assert all(a.start + a.seconds == b.start for a, b in itertools.pairwise(intervals))
        assert any(interval.lane == "tp" for interval in intervals)
    shapes = planned.plan.model.shapes
    weights = sum(math.prod(s) // s[0] for n, s in shapes.items() if n.startswith("layers."))
    tokens = planned.tokens / 4 / planned.plan.cfg.batch.accumulation
    assert POD.chip is not None
    total = sum(one.seconds for intervals in found for one in intervals if one.lane != "tp")
    assert total >= 6 * weights * tokens / POD.chip.flops


@pytest.mark.parametrize("inside", ["call(%p), to_apply=%all", *CONDITIONALS])
def test_a_timeline_of_loops_in_a_branch(planned: Planned, inside: str) -> None:
    """A step whose update may be dropped is a conditional's branch on some backends."""
    around = f"""%none (x: pred[]) -> pred[] {{
}}

ENTRY %start (p: pred[]) -> pred[] {{
  %p = pred[] parameter(0)
  ROOT %r = pred[] {inside.replace("%all", "%" + parse(planned.text).entry)}
}}
"""
    pod = dataclasses.replace(planned, topology=POD)
    sizes = planned.plan.sizes
    pod.__dict__["links"] = Links(POD, sizes, {name: {} for name in sizes})
    plain = timelines(pod)
    pod.__dict__["text"] = planned.text.replace("\nENTRY ", "\n") + around
    assert len(plain) == 2 and timelines(pod) == plain


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_tpu_that_is_not_there(written: Path) -> None:
    done = command(Path.cwd(), written, "--topology", "v5e:2x2", "--mesh", "dp=2,tp=2")
    assert done.returncode == 0, done.stderr
    assert "of 14.9: fits" in done.stdout and "MFU" in done.stdout
    split = command(Path.cwd(), written, "--topology", "v5p:2x2x2", "--mesh", "dp=2,tp=4")
    assert split.returncode == 0, split.stderr  # tp takes two of the torus' axes
    unknown = command(Path.cwd(), written, "--topology", "v5p:3x3x3", "--mesh", "dp=27")
    assert unknown.returncode == 2 and "libtpu knows no such slice" in unknown.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_the_line_that_installs_it(written: Path) -> None:
    done = command(Path.cwd(), written, "--topology", "v5p:2x2x1")
    assert done.returncode == 2 and "pip install 'jaxneox[tpu]'" in done.stderr


@pytest.mark.slow
def test_what_is_planned_is_what_a_run_holds(planned: Planned) -> None:
    """The bytes of the state on a device, of arrays that are really there."""
    mesh = make_mesh(planned.plan.sizes)
    with jax.set_mesh(mesh):
        state = initial_state(planned.plan, mesh, None)
    first = mesh.devices.flat[0]
    held = sum(
        int(np.prod(shard.data.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves((state.params, state.opt_state))
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert held == planned.memory.parameters + planned.memory.optimizer


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured by Linux's account of a process")
def test_what_is_planned_is_what_the_process_takes() -> None:
    """Within the 5 % that a user is told; what a process has besides arrays is half of that."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.running", "dp=4,tp=2", "zero_optimization.stage=1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    assert taken["planned"] == pytest.approx(taken["running"], rel=0.05)


def test_a_product_without_a_kernel_is_one_line(monkeypatch) -> None:
    """XLA cannot choose tiles for tiny products where no GPU is at hand."""

    def none(*_) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: no tile sizes: %dot, metadata={}\nA stack")

    monkeypatch.setattr("jaxneox.plan.planned.compile_step", none)
    with pytest.raises(jax.errors.JaxRuntimeError):  # of another compiler it is a mistake
        compiled(Mesh(dp=2, tp=2), "none")
    monkeypatch.setattr("tests.plan.small.CPU", Gpus("cpu", (4,)))
    with pytest.raises(UserError, match=r"INTERNAL: no tile sizes: %dot\); sizes") as raised:
        compiled(Mesh(dp=2, tp=2), "none")
    assert "\n" not in str(raised.value)


class Gpus(Topology):
    """CPUs in the place of GPUs."""

    @property
    def is_gpu(self) -> bool:
        return True

    def described(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("Ran out of memory on HBM.", "does not fit on cpu:4: Ran out of memory on HBM; state"),
        ("E1001: CompileTimeScopedVmemOom:", "does not compile for cpu:4: .*needs more than"),
    ],
)
def test_a_program_that_no_compiler_can_fit_is_one_line(found, message, monkeypatch) -> None:
    def full(*_) -> None:
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {found}\nA stack")

    monkeypatch.setattr("jaxneox.plan.planned.compile_step", full)
    with pytest.raises(TooLarge, match=message) as raised:
        compiled(Mesh(dp=2, tp=2), "none")
    assert "\n" not in str(raised.value)
