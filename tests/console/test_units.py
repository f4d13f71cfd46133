"""No number that is not 0 is shown as 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.console import units

SMALL = st.floats(1e-12, 1e12)


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (units.seconds, 0.0, "0 ms"),
        (units.seconds, 0.00042, "0.42 ms"),
        (units.seconds, 0.0123, "12 ms"),
        (units.seconds, 3.21, "3.2 s"),
        (units.seconds, 42.0, "42 s"),
        (units.seconds, 250.0, "4 min 10 s"),
        (units.seconds, 7500.0, "2 h 5 min"),
        (units.memory, 512, "512 bytes"),
        (units.memory, 1536, "1.5 KiB"),
        (units.memory, 23.44 * 2**30, "23.4 GiB"),
        (units.memory, 2**44, "16 TiB"),
        (units.share, 0.42, "42%"),
        (units.share, 0.0031, "0.31%"),
        (units.share, 1.0, "100%"),
        (units.share, 0.0, "0%"),
        (units.rate, 12345.6, "12,346"),
        (units.rate, 0.213, "0.21"),
        (units.decimals, 6.2677, "6.2677"),
        (units.decimals, 0.00002, "2.00e-05"),
        (units.decimals, 0.0, "0.0000"),
    ],
)
def test_a_number_has_the_unit_that_shows_it(write, value: float, text: str) -> None:
    assert (write(value, 4) if write is units.decimals else write(value)) == text


@given(SMALL)
def test_what_is_not_zero_is_not_shown_as_zero(value: float) -> None:
    shown = [units.seconds(value), units.memory(value), units.share(value), units.rate(value)]
    assert all(any(digit in text for digit in "123456789") for text in shown), shown
    assert any(digit in units.decimals(value, 4).partition("e")[0] for digit in "123456789")


def test_counted() -> None:
    assert [units.counted(n, "step") for n in (0, 1, 1200)] == ["0 steps", "1 step", "1,200 steps"]
