"""Numbers as people read them."""

_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def file_size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    unit, divisor = next((pair for pair in _UNITS if count >= pair[1]), ("B", 1))
    return f"{count / divisor:.{0 if count >= 10 * divisor or divisor == 1 else 1}f} {unit}"
