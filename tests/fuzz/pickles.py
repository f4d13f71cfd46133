"""Pickles that no program writes: opcodes in an order that costs time, memory or a crash."""

import pickle
import random

from tests.fuzz.damage import damaged

NAMES = [
    *("collections OrderedDict", "builtins set", "builtins frozenset", "builtins dict"),
    *("builtins list", "builtins slice", "torch Size", "argparse Namespace", "torch FloatStorage"),
    *("torch._utils _rebuild_tensor_v2", "torch.nn.parameter Parameter", "os system"),
    *("builtins eval", "numpy.core.multiarray scalar", "_codecs encode", "__builtin__ set"),
]
ATOMS = [
    *(b"N", b"\x88", b"K\x01", b"J\xff\xff\xff\x7f", b"G" + bytes(8), b"I7\n", b"L7L\n"),
    *(b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"X\x01\x00\x00\x00a", b"U\x01a", b"C\x01a"),
    *(b"]", b"}", b")", b"\x8f", b"V" + b"x" * 200 + b"\n", b"\x8b\xff\xff\xff\x7f"),
    *(b"L" + b"9" * 5000 + b"L\n", b"\x8e" + b"\xff" * 8, b"X\xff\xff\xff\xff"),
]
OPERATIONS = b"(01tldeasubRioQ2" + bytes([0x81, 0x85, 0x86, 0x87, 0x90, 0x91, 0x92, 0x93, 0x94])


def random_opcodes(rng: random.Random) -> bytes:
    parts = []
    for _ in range(rng.choice([10, 50, 300])):
        kind = rng.random()
        if kind < 0.45:
            parts.append(rng.choice(ATOMS[:14] if kind < 0.4 else ATOMS))
        elif kind < 0.55:
            module, name = rng.choice(NAMES).split()
            parts.append(f"c{module}\n{name}\n".encode())
        elif kind < 0.7:
            parts.append(rng.choice([b"q", b"h"]) + bytes([rng.randrange(6)]))
        else:
            parts.append(bytes([rng.choice(OPERATIONS)]))
    return b"".join(parts)


def multiplied(rng: random.Random) -> bytes:
    """A container that holds another one twice, and so on, used as a key, a state or a value."""
    make = rng.choice([b"\x86", b"\x86", b"t"])
    levels = rng.choice([20, 60, 200])
    value = b"K\x01K\x01\x86q\x00"
    for k in range(levels):
        value += b"0" + b"(" * (make == b"t") + b"h%ch%c" % (k, k) + make + b"q%c" % (k + 1)
    uses = [
        b"}%bK\x01s",
        b"}(%bK\x01u",
        b"(%bK\x01d",
        b"(%b\x91",
        b"\x8f(%b\x90",
        b"cbuiltins\nset\n](%be\x85R",
        b"cbuiltins\ndict\n](%bK\x01\x86e\x85R",
        b"cargparse\nNamespace\n)\x81%bb",
        b"cargparse\nNamespace\n%b\x81",
        b"}X\x01\x00\x00\x00a%bs",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00%b%btR",
        b"%bQ",
        b"%b",
    ]
    use = rng.choice(uses)
    return use % ((value,) * use.count(b"%b"))


def deep(rng: random.Random) -> bytes:
    levels = rng.choice([100, 1000, 200_000])
    nest = rng.choice([b")" + b"\x85" * levels, b"]" * levels + b"a" * (levels - 1)])
    return rng.choice([b"%b", b"}%bK\x01s", b"(%b\x91", b"}X\x01\x00\x00\x00a%bs"]) % nest


def hostile(base: object, rng: random.Random) -> bytes:
    """Make a pickle from tricks, or damage a valid one."""
    how = rng.randrange(4)
    if how == 0:
        return damaged(pickle.dumps(base, rng.randrange(6)), rng)
    made = [random_opcodes, multiplied, deep][how - 1](rng)
    content = b"\x80" + bytes([rng.randrange(6)]) + made + b"."
    return damaged(content, rng) if rng.random() < 0.2 else content
