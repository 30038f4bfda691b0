"""Names escaped and shortened, numbers formatted."""

from __future__ import annotations

from collections.abc import Sequence

# Characters of a name in a report, and of the names of a group of layers together; names in a list.
# Models name their nodes as they like, and a report names each where it matters: without a bound
# it would grow with the square of the model.
LONGEST_NAME, LONGEST_GROUP, MOST_NAMES = 256, 1024, 64


def printable(text: str) -> str:
    r"""Return text with control characters spelled out: names come from the model.

    Examples
    --------
    >>> print(printable("conv\x1b[31m"))
    conv\x1b[31m
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, most: int = LONGEST_NAME) -> str:
    """Return a text of at most so many characters: what is longer lacks its middle.

    Examples
    --------
    >>> short("features.denseblock1.conv", 14)
    'features...onv'
    """
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept - kept // 3]}...{text[len(text) - kept // 3 :]}"


def shortened(names: Sequence[str], most: int = MOST_NAMES) -> tuple[str, ...]:
    """Return the first names of a list, each shortened, and how many there are beyond.

    Examples
    --------
    >>> shortened(["a", "b", "c"], 2)
    ('a', '... and 2 more')
    """
    if len(names) <= most:
        return tuple(map(short, names))
    return (*map(short, names[: most - 1]), f"... and {len(names) - most + 1:,} more")


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Return names with commas between, shortened as by `shortened`."""
    return ", ".join(shortened(names, most))


def count(value: int) -> str:
    """Return a whole number with separators of thousands."""
    return f"{value:,}"


def size(value: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def milliseconds(value: float) -> str:
    """Return a time to three digits."""
    return f"{value:.3g} ms"


def short_count(value: float) -> str:
    """Return a number to three digits with k, M or G behind.

    Examples
    --------
    >>> short_count(2_264_392)
    '2.26 M'
    """
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """Return a part in percent of the whole; a dash where there is none."""
    return f"{part / whole:.1%}" if whole else "-"
