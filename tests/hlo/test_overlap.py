"""What is under way while a device computes, in small programs of every form there is."""

import pytest

from jaxneox.hlo.collectives import Collective, collectives
from jaxneox.hlo.overlap import Sending, Share, in_layers, sendings, share
from jaxneox.hlo.work import Work

# Of a GPU's program, cut down: a gather beside a product, one that the compiler has marked as
# synchronous, a reduction that ends at once, and a wrapped scatter that is updated on its way.
GPU = """HloModule step, is_scheduled=true

%add (a: bf16[], b: bf16[]) -> bf16[] {
  ROOT %s = bf16[] add(%a, %b)
}

%wrapped (q: bf16[1024]) -> bf16[512] {
  ROOT %rs = bf16[512]{0} reduce-scatter(%q), replica_groups={{0,1}}, dimensions={0}, to_apply=%add
}

%body (b: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %x = bf16[64,32]{1,0} get-tuple-element(%b), index=1
  %w = bf16[32,16]{1,0} get-tuple-element(%b), index=2
  %g = (bf16[16,32], bf16[32,32]) all-gather-start(%w), replica_groups={{0,1}}, backend_config={"is_sync":false}
  %dot = bf16[64,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gd = bf16[32,32]{1,0} all-gather-done(%g)
  %h = (bf16[16,32], bf16[32,32]) all-gather-start(%w), replica_groups={{0,1}}, backend_config={"is_sync":true}
  %hd = bf16[32,32]{1,0} all-gather-done(%h)
  %r = bf16[64,32]{1,0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add
  %n = bf16[64,32]{1,0} negate(%x)
  %rd = bf16[64,32]{1,0} all-reduce-done(%r)
  %s = ((bf16[1024]), bf16[512], u32[]) async-start(%x), calls=%wrapped
  %u = ((bf16[1024]), bf16[512], u32[]) async-update(%s)
  %d = bf16[512]{0} async-done(%u)
  ROOT %t = (s32[], bf16[64,32]{1,0}) tuple(%i, %rd)
}

%cond (c: (s32[], bf16[64,32])) -> pred[] {
  ROOT %lt = pred[] compare(%c, %c), direction=LT
}

ENTRY %main (p: (s32[], bf16[64,32])) -> (s32[], bf16[64,32]) {
  %p = (s32[], bf16[64,32]{1,0}) parameter(0)
  ROOT %l = (s32[], bf16[64,32]{1,0}) while(%p), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501
PRODUCT = 2 * 64 * 32 * 16


def part(name: str, chain: str, call: str, more: str = "") -> str:
    """A fusion's computation with a part of a chain, as a TPU's program has it."""
    ends = f'  ROOT %c = f32[16] custom-call(%g), custom_call_target="{call}"' if call else ""
    return f"""%{name} (p: f32[8]) -> f32[16] {{
  %p = f32[8] parameter(0)
  %g = f32[16] all-gather(%p), replica_groups={{{{0,1}}}}, chain_id="{chain}"
{more}{ends}
}}

"""


PRODUCTS = """  %a = f32[4,4] parameter(1)
  %d = f32[4,4] dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
"""
TPU = (
    "HloModule step\n\n"
    + part("begin", "0", "AsyncCollectiveStart")
    + part("middle", "0", "", PRODUCTS)
    + part("end", "0", "AsyncCollectiveDone")
    + """%scatter (q: f32[8]) -> f32[4] {
  %q = f32[8] parameter(0)
  %r = f32[8] all-reduce(%q), replica_groups={{0,1}}
  ROOT %s = f32[4] slice(%r)
}

%round (b: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  ROOT %y = f32[16] fusion(%x), kind=kOutput, calls=%middle
}

ENTRY %main (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8] parameter(0)
  %a.0 = f32[4,4] parameter(1)
  %f.0 = f32[16] fusion(%p.1), kind=kCustom, calls=%begin
  %plain = f32[4,4] dot(%a.0, %a.0), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %w = f32[8] while(%p.1), condition=%none, body=%round, known_trip_count={"n":"3"}
  %f.1 = f32[16] fusion(%p.1), kind=kOutput, calls=%middle
  %f.2 = f32[16] fusion(%p.1), kind=kCustom, calls=%end
  ROOT %z = f32[4] fusion(%p.1), kind=kCustom, calls=%scatter
}
"""
)


def gone_through(
    text: str, seconds: float, rate: float = 1.0, links: dict[str, str] | None = None
) -> list[Sending]:
    """Each collective takes so many seconds; products `rate` FLOP/s, and nothing else any time."""

    def through(one: Collective) -> tuple[str, float]:
        return (links or {}).get(one.kind, "links"), seconds

    def computes(done: Work) -> float:
        return done.flops / rate

    return sendings(text, through, computes)


def test_what_a_gpu_sends_meanwhile() -> None:
    found = gone_through(GPU, 3.0, PRODUCT)  # the product takes a second
    said = [(one.collective.kind, one.asynchronous, one.products, one.exposed) for one in found]
    assert said == [
        ("all-gather", True, True, 2.0),
        ("all-gather", False, False, 3.0),
        ("all-reduce", True, False, 3.0),
        ("reduce-scatter", True, False, 3.0),
    ]
    assert {one.collective.count for one in found} == {5}


def test_what_arrives_before_it_is_needed_is_not_waited_for() -> None:
    assert gone_through(GPU, 3.0, PRODUCT / 4)[0].exposed == 0


@pytest.mark.parametrize("text", [GPU, TPU])
def test_no_collective_is_lost(text: str) -> None:
    expected = [(one.kind, one.bytes, one.count) for one in collectives(text)]
    found = [one.collective for one in gone_through(text, 1.0)]
    assert sorted((one.kind, one.bytes, one.count) for one in found) == sorted(expected)


def test_what_sends_nothing_is_left_out() -> None:
    assert sendings(GPU, lambda one: None, lambda done: 1.0) == []


TOGETHER = """HloModule step

ENTRY %main (x: bf16[64,32], w: bf16[32,16]) -> bf16[64,32] {
  %x = bf16[64,32]{1,0} parameter(0)
  %w = bf16[32,16]{1,0} parameter(1)
  %g = (bf16[16,32], bf16[32,32]) all-gather-start(%w), replica_groups={{0,1}}
  %r = bf16[64,32]{1,0} all-reduce-start(%x), replica_groups={{0,1}}
  %dot = bf16[64,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %rd = bf16[64,32]{1,0} all-reduce-done(%r)
  ROOT %gd = bf16[32,32]{1,0} all-gather-done(%g)
}
"""


def test_the_same_links_send_one_after_the_other() -> None:
    """Two of 3 s beside a product of 4 s: 2 s are exposed, and none if each has its own links."""
    waits = [one.exposed for one in gone_through(TOGETHER, 3.0, PRODUCT / 4)]
    assert sum(waits) == 2.0
    apart = gone_through(TOGETHER, 3.0, PRODUCT / 4, {"all-reduce": "network"})
    assert sum(one.exposed for one in apart) == 0.0


def test_a_tpu_moves_a_chain_on_in_its_fusions_alone() -> None:
    """Four fusions of a second each, three of them in a loop; the product between is another's."""
    chain, scatter = gone_through(TPU, 5.0, 2 * 4**3)
    assert (chain.asynchronous, chain.products, chain.exposed) == (True, True, 1.0)
    assert (scatter.asynchronous, scatter.exposed) == (False, 5.0)
    assert gone_through(TPU, 4.0, 2 * 4**3)[0].exposed == 0.0


def test_shares_of_a_layers_bytes() -> None:
    gather, reduction, scatter = 2048, 4096, 2048
    found = gone_through(GPU, 1.0)
    of_one = Share(2 * gather + reduction + scatter, gather + reduction + scatter, gather)
    assert share(in_layers(found, 5)) == of_one
    assert share(found).bytes == 5 * of_one.bytes
    assert in_layers(found, 6) == []
