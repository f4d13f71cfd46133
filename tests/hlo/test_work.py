"""FLOPs and bytes of compiled programs, against what is known of the computation."""

import jax
import jax.numpy as jnp
import pytest

from jaxneox.hlo.text import main_memory_bytes
from jaxneox.hlo.work import work


def compiled(f, *shapes: tuple[int, ...]) -> str:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(f).lower(*arrays).compile().as_text() or ""


def test_products_in_loops_are_counted_as_often_as_they_run() -> None:
    def layers(x, w_LDF, v_LFD):
        def layer(x, weights):
            w, v = weights
            return jnp.tanh(x @ w) @ v, None

        return jax.lax.scan(layer, x, (w_LDF, v_LFD))[0]

    text = compiled(layers, (6, 16), (5, 16, 40), (5, 40, 16))
    assert work(text).flops == 5 * 2 * (2 * 6 * 16 * 40)


def test_batched_products() -> None:
    text = compiled(lambda a, b: jnp.einsum("BTKH,BSKH->BKTS", a, b), (2, 7, 3, 4), (2, 5, 3, 4))
    assert work(text).flops == 2 * 2 * 3 * 7 * 5 * 4


def test_of_branches_the_one_with_most_work() -> None:
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert work(compiled(either, (8, 8))).flops == 2 * (2 * 8**3)


def test_a_loop_over_slices_moves_each_slice_once() -> None:
    """The stacked weights are 2 MB, read from the stack, written, and read by the product; all of
    them in each of the 128 turns would be 256 MB."""

    def layers(x, w_LDD):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w_LDD)[0]

    moved = work(compiled(layers, (4, 64), (128, 64, 64))).bytes
    assert 3 * 2**21 <= moved <= 5 * 2**21


B, T, K, H, D = 4, 2048, 16, 96, 6144
# Of a TPU's program of a 20B model: two operands, result and attributes of a convolution, and the
# FLOPs of the einsum that it is. Batch and head axes are spatial ones there.
PRODUCTS = {
    "BTD,DF->BTF": (
        ("bf16[4,2048,6144]", "bf16[6144,6144,1]", "bf16[4,2048,6144]"),
        "window={size=1}, dim_labels=0bf_io0->0bf",
        2 * B * T * D * D,
    ),
    "BTD,DKRH->BTKRH": (
        ("bf16[4,2048,6144,1,1]", "bf16[6144,16,3,96,1]", "bf16[4,2048,16,3,96]"),
        "window={size=1x16x3 pad=0_0x15_15x2_2 rhs_reversal=0x1x1}, dim_labels=0bf12_i12o0->0b12f",
        2 * B * T * D * 3 * K * H,
    ),
    "BTKH,BSKH->BKTS": (
        ("bf16[4,2048,16,96]", "bf16[4,2048,16,96]", "f32[4,16,2048,2048]"),
        "window={size=4x16 stride=3x15 lhs_dilate=4x16}, dim_labels=0b1f_0o1i->01bf",
        2 * B * K * T * T * H,
    ),
    "BTKH,KHD->BTD": (
        ("bf16[4,2048,16,96]", "bf16[16,96,6144,1]", "bf16[4,2048,6144,1]"),
        "window={size=1x16}, dim_labels=0b1f_1io0->0bf1",
        2 * B * T * K * H * D,
    ),
    "BTD,BTKH->DKH": (
        ("bf16[4,2048,6144,1]", "bf16[4,2048,16,96]", "bf16[6144,16,96,1]"),
        "window={size=16x4 pad=15_15x0_0 rhs_reversal=1x0}, dim_labels=1fb0_1i0o->b0f1",
        2 * B * T * K * H * D,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_tpus_products_are_convolutions(name: str) -> None:
    (left, right, result), attributes, flops = PRODUCTS[name]
    text = f"""HloModule x

ENTRY %main (a: f32[]) -> f32[] {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {result}{{1,0}} convolution(%a, %b), {attributes}, metadata={{op_name="{name}"}}
}}
"""
    assert work(text).flops == flops


def test_what_lies_in_a_tpus_own_fast_memory_is_not_moved() -> None:
    assert main_memory_bytes("(f32[4]{0:T(128)}, f32[8]{0:T(128)S(1)})") == 16


SLICED = """
HloModule layers

%slice (stack: bf16[44,64,64], number: s32[]) -> bf16[64,64] {
  %stack = bf16[44,64,64]{2,1,0} parameter(0)
  %number = s32[] parameter(1)
  %zero = s32[] constant(0)
  %part = bf16[1,64,64]{2,1,0} dynamic-slice(%stack, %number, %zero, %zero)
  ROOT %matrix = bf16[64,64]{1,0} bitcast(%part)
}

%fused (x: bf16[8,64], all: bf16[44,64,64], at: s32[]) -> bf16[8,64] {
  %x = bf16[8,64]{1,0} parameter(0)
  %all = bf16[44,64,64]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  %own = bf16[64,64]{1,0} fusion(%all, %at), kind=kLoop, calls=%slice
  ROOT %y = bf16[8,64]{1,0} convolution(%x, %own), dim_labels=bf_io->bf
}

ENTRY %main (given: bf16[8,64], weights: bf16[44,64,64], layer: s32[]) -> bf16[8,64] {
  %given = bf16[8,64]{1,0} parameter(0)
  %weights = bf16[44,64,64]{2,1,0} parameter(1)
  %layer = s32[] parameter(2)
  ROOT %out = bf16[8,64]{1,0} fusion(%given, %weights, %layer), kind=kOutput, calls=%fused
}
"""


@pytest.mark.parametrize("kind", ["dynamic-slice", "slice"])
def test_a_slice_in_a_fusion_of_a_fusion_is_the_part_alone(kind: str) -> None:
    """A TPU's product takes its layer's matrix from the stack by itself."""
    rows, matrix, index = 2 * 8 * 64, 2 * 64 * 64, 4
    text = SLICED.replace("dynamic-slice", kind)
    assert work(text).bytes == 2 * rows + matrix + index
