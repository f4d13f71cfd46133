"""Packed documents by cuDNN: the segments, the program for a GPU, and values by an emulation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config.schema import AttentionConfig
from jaxneox.model.kernels import Extra, choose, cudnn, mix
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.bench import packed
from tests.model.adapter import one_device
from tests.model.cudnn_on_cpu import emulated, traced_for_hopper
from tests.model.test_documents import BOTH, loss_and_grads
from tests.model.test_documents import packed as packed_rows
from tests.model.test_kernels import Case, run
from tests.model.variants import configure
from tests.reference.compare import relative_l2
from tests.reference.parameters import random_params

LENGTH, MOST = 12, 5


@given(hypothesis.extra.numpy.arrays(bool, (3, LENGTH), elements=st.booleans()))
def test_segments_are_the_documents_mask(marks: np.ndarray) -> None:
    """What each query sees, by the segments and by the numbers of the documents."""
    documents = np.cumsum(marks, axis=1, dtype=np.int32)
    offsets, lengths = map(np.asarray, cudnn.segments(jnp.asarray(documents), MOST))
    assert offsets.dtype == lengths.dtype == np.int32
    counts = np.asarray(cudnn.begins(jnp.asarray(documents))).sum(1)
    for row, begin, length, count in zip(documents, offsets, lengths, counts, strict=True):
        if count > MOST:  # another kernel's
            continue
        seen = np.zeros((LENGTH, LENGTH), bool)
        for first, size in zip(begin[:count], length[:count], strict=True):
            seen[first : first + size, first : first + size] = np.tril(np.ones((size, size)))
        expected = np.tril(row[:, None] == row[None])
        np.testing.assert_array_equal(seen, expected)
        assert (begin[count:] == -1).all() and (length[count:] == -1).all()


def test_room_for_documents_and_rows() -> None:
    assert cudnn.most_documents(2048, 1024) == 16  # one for 128 tokens
    assert cudnn.most_documents(100, 64) == 2  # what jax takes for packed, at least
    assert cudnn.most_documents(32768, 4096) == 4  # of the workspace
    assert cudnn.rows_at_once(8, 2**20) == 8
    assert cudnn.rows_at_once(6, 2**29) == 3  # a divisor, as near to four as there is
    assert cudnn.rows_at_once(5, 2**40) == 1


def rounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Arguments that bfloat16 can tell; the formula's output and gradients in float64."""
    arrays = [np.asarray(jnp.asarray(x, "bfloat16"), np.float64) for x in case.arrays()]
    monkeypatch.setattr(Case, "arrays", lambda _: arrays)
    with jax.enable_x64(True):
        return run(case, "einsum", {"dp": 1}, "float64")


def nothing(kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A kernel that computes NaN: its result is not to be used."""
    return lambda *args: kernel(*args) * jnp.nan


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"dp": 1}, {"dp": 2, "tp": 2}], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(48, documents=3),
        Case(60, group=2, documents=5),
        Case(51, group=2, window=7, documents=4),  # and a token that makes it even
        Case(40, documents=1),
        Case(44, group=3, documents=9),  # more than there is room for
    ],
    ids=str,
)
def test_values_and_gradients(
    case: Case, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As near to float64 as the formula in bfloat16, by a factor: see `test_kernels`."""
    exact = rounded(case, monkeypatch)
    formula = run(case, "einsum", {"dp": 1}, "bfloat16")
    monkeypatch.setattr(cudnn, "TOKENS_PER_DOCUMENT", 8)
    fits = case.documents <= cudnn.most_documents(case.length, 1)
    unused = "blocked" if fits else "_call"
    monkeypatch.setattr(cudnn, unused, nothing(getattr(cudnn, unused)))
    with emulated(monkeypatch):
        found = run(case, "cudnn", sizes, "bfloat16")
    for mine, other, expected in zip(found, formula, exact, strict=True):
        assert relative_l2(mine, expected) < 2 * relative_l2(other, expected)


def test_rows_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the workspace holds no more than two rows of the four: the same numbers."""
    case = Case(40, group=2, documents=4)
    monkeypatch.setattr(cudnn, "TOKENS_PER_DOCUMENT", 8)
    with emulated(monkeypatch):
        together = run(case, "cudnn", {"dp": 1}, "bfloat16")
        monkeypatch.setattr(cudnn, "WORKSPACE", 2 * 4 * 5 * 40 * 32)
        apart = run(case, "cudnn", {"dp": 1}, "bfloat16")
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)


def program(case: Case, sizes: dict[str, int]) -> str:
    """The StableHLO text for a GPU of output and gradients."""
    sizes = whole(sizes)
    rules = rules_for(sizes, 0, False)
    cfg = dataclasses.replace(case.cfg, kernel="cudnn")
    q, k, v, d = (jnp.asarray(x, "bfloat16") for x in case.arrays())
    spec = rules.activation("batch", "length", "kv_heads", None, None)
    ids_spec = rules.activation("batch", "length")

    def each(q: Any, k: Any, v: Any, d: Any) -> Any:
        q, d = (jax.reshard(x, spec) for x in (q, d))
        k, v = (jax.reshard(x, rules.activation("batch", None, "kv_heads", None)) for x in (k, v))
        positions, extra = jnp.arange(case.length), case.extra
        if extra.documents_BT is not None:
            extra = Extra(documents_BT=jax.reshard(extra.documents_BT, ids_spec))
        _, pull = jax.vjp(lambda q, k, v: mix(q, k, v, positions, extra, None, cfg, rules), q, k, v)
        return pull(d)

    with jax.set_mesh(make_mesh(sizes)):
        return jax.jit(each).trace(q, k, v, d).lower(lowering_platforms=("cuda",)).as_text()


def test_the_program_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of cuDNN with the packed layout's operands, forward and backward, of one device's."""
    case = Case(256, group=2, head=64, window=30, documents=3)
    with traced_for_hopper(monkeypatch):
        text = program(case, {"dp": 2, "tp": 2})
    calls = [line for line in text.splitlines() if "custom_call @__cudnn$fmha" in line]
    forward, backward = (
        next(line for line in calls if f"@{name}(" in line)
        for name in ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
    )
    for line in (forward, backward):
        for said in ("max_seg_per_batch", "PADDING_CAUSAL", "sliding_window_length"):
            assert said in line
        assert "\\22max_seg_per_batch\\22: 2" in line  # of 256 tokens
        assert "\\22sliding_window_length\\22: 31" in line
        assert line.count("tensor<2x2xi32>") == 2  # lengths: two rows, two segments each
        assert line.count("tensor<2x3xi32>") == 2  # offsets
    # queries, keys and values [B, T, N, H] alike: heads of a group have copies of their own
    assert forward.count("tensor<2x256x2x64xbf16>") == 3
    assert "tensor<4x2x256xf32>" in forward  # statistics of every segment


def test_the_program_for_an_odd_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax refuses it in training: there is one token more inside the kernel."""
    with traced_for_hopper(monkeypatch):
        text = program(Case(129, head=64), {"dp": 1})
    assert "custom_call @__cudnn$fmhaSoftmaxBackward(" in text and "tensor<4x130x2x64xbf16>" in text


def attention(**changes: Any) -> AttentionConfig:
    return AttentionConfig(4, 4, 64, **changes)


def test_the_choice_of_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for by name, until it has been compared on a GPU."""
    several, rules = (
        Extra(documents_BT=jnp.zeros((1, 256), jnp.int32)),
        rules_for(whole({}), 0, False),
    )
    half = jnp.dtype("bfloat16")
    with traced_for_hopper(monkeypatch):
        assert choose(attention(), 256, half, several, None, rules) == "blocked"
        assert choose(attention(kernel="cudnn"), 256, half, several, None, rules) == "cudnn"


@pytest.mark.parametrize("kind", ["absent", "ampere", "hopper", "blackwell"])
def test_the_compute_capability(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        compute_capability = {"ampere": "8.0", "hopper": "9.0", "blackwell": "10.0"}.get(kind)

    if kind != "absent":
        monkeypatch.setattr(jax, "local_devices", lambda backend: [Device()])
    refused = cudnn.unsupported(attention(), 256, packed=True)
    assert (refused is None) == (kind in ("hopper", "blackwell"))
    assert cudnn.unsupported(attention(), 256, packed=False) is None


@pytest.mark.slow
def test_the_comparison_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m tests.bench.packed` would say right; and wrong, where cuDNN's output is."""
    rows = packed.PackedRows(2, 256, 2, heads=2, group=2, head=16)
    with emulated(monkeypatch), jax.set_mesh(make_mesh(whole({"dp": 1}))):
        assert packed.compare(rows)
        right = cudnn._call
        monkeypatch.setattr(cudnn, "_call", lambda *args: right(*args) * 1.1)
        assert not packed.compare(rows)
    assert "WRONG: PackedRows" in capsys.readouterr().out


@pytest.mark.slow
def test_in_a_model_whose_layers_are_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients as by the plain kernel, within bfloat16's rounding."""
    cfg = configure("gqa")
    params, rows = random_params(cfg, 0), packed_rows(cfg.vocab_size)
    found = []
    for kernel in ("blocked", "cudnn"):
        attention = dataclasses.replace(cfg.attention, kernel=kernel)
        changed = dataclasses.replace(cfg, attention=attention)
        monkeypatch.setattr(cudnn, "TOKENS_PER_DOCUMENT", 2)
        monkeypatch.setattr(cudnn, "blocked", nothing(cudnn.blocked))
        with emulated(monkeypatch), one_device(changed) as model:
            model = dataclasses.replace(model, documents=BOTH, compute=jnp.dtype("bfloat16"))
            found.append(loss_and_grads(model, params, rows))
    (loss, grads), (other, others) = found
    assert loss == pytest.approx(other, rel=1e-2)
    for name, gradient in grads.items():
        assert relative_l2(others[name], gradient) < 5e-2, name
