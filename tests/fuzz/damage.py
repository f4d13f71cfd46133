"""Damage to bytes, as disks, copies and malice do it."""

import random
from collections.abc import Callable

HUGE = [0, 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data) + 1)
    del data[begin : begin + rng.choice([1, 4, 8, len(data)])]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice([1, 4, 6, 8, 64]))


def number(data: bytearray, rng: random.Random) -> None:
    """Put a huge number of 4 or 8 bytes over others."""
    width = rng.choice([4, 8])
    if len(data) >= width:
        at = rng.randrange(len(data) - width + 1)
        value = (rng.choice(HUGE) + rng.randrange(-1, 2)) % 256**width
        data[at : at + width] = value.to_bytes(width, "little")


def double(data: bytearray, rng: random.Random) -> None:
    """Put a part in again, somewhere else."""
    begin = rng.randrange(len(data) + 1)
    part = data[begin : begin + rng.choice([8, 64, 1024])]
    at = rng.randrange(len(data) + 1)
    data[at:at] = part


KINDS: list[Callable[[bytearray, random.Random], None]] = [flip, cut, insert, number, double]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes once, twice or thrice."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(KINDS)(result, rng)
    return bytes(result)
