"""Collectives read from hand-written HLO, in every form in which XLA writes them."""

import pytest

from jaxneox.hlo.collectives import Collective, collectives
from jaxneox.hlo.groups import parse_groups
from jaxneox.hlo.text import type_bytes


def program(*lines: str, others: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"""HloModule jit_f, is_scheduled=true, num_partitions=8

StackFrames
1 {{file_location_id=1}}

{others}
ENTRY %main.7 (p.1: f32[8]) -> f32[8] {{
  %p.1 = f32[8]{{0}} parameter(0)
{body}
}}
"""


def one(line: str) -> Collective:
    (found,) = collectives(program(line))
    return found


def test_kinds_and_bytes() -> None:
    """Bytes of the result; of a reduce-scatter the operand's, its result times its group."""
    groups = "replica_groups={{0,1},{2,3}}"
    pairs = ((0, 1), (2, 3))
    for kind, size in {
        "all-reduce": 64,
        "all-gather": 64,
        "all-to-all": 64,
        "collective-broadcast": 64,
        "ragged-all-to-all": 64,
        "reduce-scatter": 128,
    }.items():
        line = f"%x.2 = f32[2,8]{{1,0}} {kind}(%p.1), channel_id=1, {groups}, to_apply=%add"
        assert one(line) == Collective(kind, pairs, size)
    permute = "%x = bf16[2,8]{1,0} collective-permute(%p.1), source_target_pairs={{0,1},{1,0}}"
    assert one(permute) == Collective("collective-permute", ((0, 1), (1, 0)), 32)


def test_a_tuple_is_one_collective_of_all_its_arrays() -> None:
    line = "ROOT %r = (f32[2,8]{1,0}, /*index=1*/bf16[3]{0}) all-reduce(%a, %b), replica_groups={}"
    assert one(line) == Collective("all-reduce", (), 64 + 6)


@pytest.mark.parametrize(
    ("shape", "op", "size"),
    [
        ("f32[16]{0}", "all-reduce-start", 64),
        ("(f32[16]{0}, bf16[4]{0})", "all-reduce-start", 72),
        ("((f32[16]{0}), f32[16]{0}, s32[])", "all-reduce-start", 64),
        ("(f32[4]{0:T(128)}, f32[16]{0:T(128)S(1)})", "all-gather-start", 64),
        ("((f32[4], f32[2]), (f32[16], f32[8]), u32[])", "all-gather-start", 96),
        ("(f32[16]{0}, f32[16]{0}, u32[], u32[])", "collective-permute-start", 64),
        ("((f32[16]{0}), f32[4]{0}, u32[])", "reduce-scatter-start", 64),
        ("((f32[16]{0}), f32[16]{0}, u32[])", "all-to-all-start", 64),
    ],
)
def test_asynchronous_forms_count_once(shape: str, op: str, size: int) -> None:
    kind = op.removesuffix("-start")
    groups = "source_target_pairs={{0,1}}" if "permute" in op else "replica_groups=[2,4]<=[8]"
    text = program(
        f"%s.1 = {shape} {op}(%p.1), channel_id=1, {groups}, use_global_device_ids=true",
        f"%d.1 = f32[16]{{0}} {kind}-done(%s.1)",
    )
    (found,) = collectives(text)
    assert (found.kind, found.bytes, found.count) == (kind, size, 1)


def test_a_wrapped_asynchronous_collective_counts_once() -> None:
    wrapped = """%wrapped (q: f32[8]) -> f32[2] {
  %q = f32[8]{0} parameter(0)
  ROOT %rs = f32[2]{0} reduce-scatter(%q), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
}
"""
    text = program(
        "%s = ((f32[8]{0}), f32[2]{0}, u32[]) async-start(%p.1), calls=%wrapped",
        "%u = ((f32[8]{0}), f32[2]{0}, u32[]) async-update(%s), calls=%wrapped",
        "ROOT %d = f32[2]{0} async-done(%u), calls=%wrapped",
        others=wrapped,
    )
    assert collectives(text) == [Collective("reduce-scatter", ((0, 1, 2, 3),), 32)]


def test_groups_in_every_form() -> None:
    def read(text: str) -> object:
        return parse_groups(f"%x), channel_id=1, replica_groups={text}, use_global_device_ids=true")

    rows = ((0, 1), (2, 3), (4, 5), (6, 7))
    columns = ((0, 4), (1, 5), (2, 6), (3, 7))
    assert parse_groups("%x), channel_id=3") == read("{}") == ()
    assert read("{{0,1},{2,3},{4,5},{6,7}}") == read("[4,2]<=[8]") == rows
    assert read("{{0,4},{1,5},{2,6},{3,7}}") == read("[4,2]<=[2,4]T(1,0)") == columns
    assert read("[2,4]<=[2,2,2]T(2,0,1)") == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert read("mesh['a'=2,'b'=4] {'a'}") == columns
    assert read("mesh['a'=2,'b'=1,'c'=4] {'c'}") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert read("mesh[a=2,b=2,c=2] {b,c}") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert read("mesh['a'=2,'b'=4] {'b':(1)2}") == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert read("mesh['a'=2,'b'=4] {'b':(2)2}") == rows
    assert read("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}") == columns
    assert read("mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}") == ((3, 1), (2, 0))
    assert read("mesh['a'=2] {}") == ((0,), (1,))
    assert read("what?") == "what?"


def test_bytes_of_types() -> None:
    assert type_bytes("f32[]") == 4
    assert type_bytes("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}") == 12
    assert type_bytes("(pred[5], c64[2], f8e4m3fn[3], s4[3], token[])") == 5 + 16 + 3 + 2


BODY = """%cond (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %n = s32[] constant(5)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%same (c: (s32[], f32[8])) -> pred[] {
  %i = s32[] get-tuple-element(%c), index=0
  %n = s32[] get-tuple-element(%c), index=1
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%fused (f: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%f), replica_groups={{0,1}}, to_apply=%add
}

%inner (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%b), index=1
  ROOT %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="calls=%fused, x"}
}

%outer (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%b), index=1
  %z = f32[8]{0} all-gather(%x), replica_groups={{0,1}}, dimensions={0}
  ROOT %w = (s32[], f32[8]{0}) while(%b), condition=%cond, body=%inner%INNER%
}

%little (a: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}
}

%lots (a: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} call(%a), to_apply=%fused
  %q = f32[8]{0} all-to-all(%a), replica_groups={{0,1}}
}
"""


def counts(inner: str = "", outer: str = "", condition: str = "cond") -> dict[str, tuple[int, str]]:
    text = program(
        f"%w = (s32[], f32[8]{{0}}) while(%t), condition=%{condition}, body=%outer{outer}",
        others=BODY.replace("%INNER%", inner),
    )
    found = collectives(text)
    assert len(found) == 2
    return {each.kind: (each.count, each.length) for each in found}


def test_loops_multiply() -> None:
    three = ', backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0"}}'
    four = ', backend_config="{\\"known_trip_count\\":{\\"n\\":\\"4\\"}}"'
    assert counts(three, four) == {"all-gather": (4, "known"), "all-reduce": (12, "known")}
    assert counts("", four) == {"all-gather": (4, "known"), "all-reduce": (20, "derived")}
    assert counts(three, "") == {"all-gather": (5, "derived"), "all-reduce": (15, "derived")}
    assert counts(three, "", "same") == {"all-gather": (1, "least"), "all-reduce": (3, "least")}


@pytest.mark.parametrize(
    "branches",
    [
        "branch_computations={%little, %lots}",
        "true_computation=%lots, false_computation=%little",
    ],
)
def test_of_a_choice_the_branch_that_sends_the_most(branches: str) -> None:
    text = program(f"%c = f32[8]{{0}} conditional(%i, %a, %b), {branches}", others=BODY)
    assert sorted(found.kind for found in collectives(text)) == ["all-reduce", "all-to-all"]


def test_a_text_of_something_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ENTRY computation"):
        collectives("module @jit_f { }")


def part(name: str, target: str) -> str:
    """A fusion's computation with a part of an asynchronous collective, as a TPU's program has it
    that computes while it sends: each names the whole collective."""
    gather = "all-gather(%p), channel_id=7, replica_groups={{0,1}}, dimensions={0}"
    return f"""%{name} (p: f32[8]) -> f32[16] {{
  %p = f32[8]{{0}} parameter(0)
  %g = f32[16]{{0}} {gather}, frontend_attributes={{chain_id="0"}}
  ROOT %c = f32[16]{{0}} custom-call(%g), custom_call_target="{target}"
}}

"""


def test_a_collective_that_is_spread_over_fusions_and_a_loop_counts_once() -> None:
    others = BODY + part("begin", "AsyncCollectiveStart") + part("end", "AsyncCollectiveDone")
    others += part("middle", "Send").replace("%p = f32", "%product = f32[] constant(0)\n  %p = f32")
    others += """%round (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%b), index=1
  ROOT %y = f32[16]{0} fusion(%x), kind=kOutput, calls=%middle
}

"""
    lines = [
        "%f.0 = f32[16]{0} fusion(%p.1), kind=kCustom, calls=%begin",
        "%w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%round",
        "%f.1 = f32[16]{0} fusion(%p.1), kind=kOutput, calls=%middle",
        "%f.2 = f32[16]{0} fusion(%p.1), kind=kCustom, calls=%end",
    ]
    found = collectives(program(*lines, others=others))
    assert found == [Collective("all-gather", ((0, 1),), 64)]
