"""The divisors of a number, in the time of its square root: a user may ask for any number."""

import math


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, in ascending order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    large = [number // n for n in reversed(small) if n * n != number]
    return small + large
