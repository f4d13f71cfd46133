"""Numbers as people read them: in a unit that shows them, however small they are."""


def seconds(value: float) -> str:
    """Write a time: `0.4 ms`, `12 ms`, `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if value < 1:
        return f"{significant(1000 * value, 2)} ms"
    if value < 60:
        return f"{significant(value, 2)} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"


def memory(size: float) -> str:
    """Write a number of bytes: `512 bytes`, `1.5 KiB`, `23.4 GiB`."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, _ = size / 1024, units.pop(0)
    return f"{significant(size, 3)} {units[0]}"


def share(value: float) -> str:
    """Write a part of one: `42%`, `0.3%`."""
    return f"{significant(100 * value, 2 if value < 0.1 else 1)}%"


def rate(value: float) -> str:
    """Write how many there are in a second: `12,345`, `0.21`."""
    return f"{value:,.0f}" if value >= 100 else significant(value, 2)


def counted(number: int, noun: str) -> str:
    """Write how many there are: `1 step`, `1,200 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def decimals(value: float, places: int) -> str:
    """Write a number to so many places, or in powers of ten where they would show too little."""
    return (
        f"{value:.{places}f}"
        if value == 0 or abs(value) >= 10.0 ** (1 - places)
        else f"{value:.2e}"
    )


def significant(value: float, digits: int) -> str:
    """Write so many digits at least, and all those before the point, without powers of ten."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.{digits - 1 - int(text.split('e')[1])}f}"
