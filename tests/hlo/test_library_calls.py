"""FLOPs of the calls of cuBLAS and cuDNN, in the form in which a GPU's program has them."""

import pytest

from jaxneox.hlo.work import work

GEMM = (
    'backend_config={{"gemm_backend_config":{{"alpha_real":1,"beta":0,"dot_dimension_numbers":'
    '{{"lhs_contracting_dimensions":["{summed}"],"rhs_contracting_dimensions":["0"],'
    '"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}},"precision_config":{{}}}}}}'
)


def program(shape: str, call: str) -> str:
    return f"""HloModule x

ENTRY %main (a: bf16[64,32]) -> bf16[64,16] {{
  %a = bf16[64,32]{{1,0}} parameter(0)
  %b = bf16[32,16]{{1,0}} parameter(1)
  ROOT %c = {shape} custom-call(%a, %b), {call}
}}
"""


@pytest.mark.parametrize("target", ["__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"])
def test_a_product_by_cublas(target: str) -> None:
    call = f'custom_call_target="{target}", {GEMM.format(summed=1)}'
    found = work(program("(bf16[64,16]{1,0}, s8[33554432]{0})", call))
    assert found.flops == 2 * 64 * 32 * 16
    assert found.bytes == 2 * (64 * 32 + 32 * 16 + 64 * 16)  # its workspace is not read or written
    assert work(program("bf16[64,16]{1,0}", call)) == found


B, N, T, H = 2, 4, 128, 64


def attention(target: str, mask: str, window: int = 0) -> str:
    config = (
        f'backend_config={{"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": '
        f'{{"element_type": "BF16", "dimensions": ["{B}", "{N}", "{T}", "{T}"]}}, '
        f'"mask_type": "{mask}", "bmm1_dot_dimension_numbers": '
        f'{{"lhs_contracting_dimensions": ["3"]}}, "sliding_window_length": {window}}}}}'
    )
    output = f"bf16[{B},{N},{T},{H}]{{3,1,2,0}}"
    results = [output] * (3 if "Backward" in target else 1) + ["u8[0]{0}"]
    return program(f"({', '.join(results)})", f'custom_call_target="{target}", {config}')


@pytest.mark.parametrize(
    ("mask", "window", "pairs"),
    [
        ("NO_MASK", 0, T * T),
        ("CAUSAL", 0, T * (T + 1) // 2),
        ("PADDING_CAUSAL", 0, T * (T + 1) // 2),
        ("CAUSAL", 1, T),
        ("CAUSAL", 10, 55 + 10 * (T - 10)),
    ],
)
def test_attention_by_cudnn(mask: str, window: int, pairs: int) -> None:
    """Two products of what is seen, and five backward."""
    product = 2 * B * N * pairs * H
    assert work(attention("__cudnn$fmhaSoftmax", mask, window)).flops == 2 * product
    assert work(attention("__cudnn$fmhaSoftmaxBackward", mask, window)).flops == 5 * product


def test_other_calls_compute_nothing_that_is_known() -> None:
    call = 'custom_call_target="Sharding"'
    assert work(program("bf16[64,16]{1,0}", call)).flops == 0
