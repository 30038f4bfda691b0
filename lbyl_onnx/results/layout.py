"""Tables and lines of text in which no name is broken, whatever the width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

# Rows of a table on a terminal; piped, and in the JSON, all are there.
LONGEST_LIST = 40
# Cells up to which a cell of a row is filled: one long name would lengthen every other row.
_LONGEST_FILLED = 120
_GAP = "  "
_INDENT = "    "


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines: between words, and in words that are too long before a slash.

    Parameters
    ----------
    text
        One line.
    width
        Cells of a line; a part without a slash that is longer has a line of its own all the same.

    Examples
    --------
    >>> wrapped("reads /block/unit1/conv/Conv", 14)
    ['reads', '/block/unit1', '/conv/Conv']
    """
    start = text.lstrip(" ")
    indent = text[: len(text) - len(start)]
    lines = _broken(start, max(1, width - len(indent)))
    return [indent + line for line in lines if line] or [""]


def _broken(text: str, width: int) -> list[str]:
    """The lines of a text that begins with a word; some may be empty."""
    lines = [""]
    for word in text.split(" "):
        whole = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(whole) <= width:
            lines[-1] = whole
            continue
        lines.append("")
        for part in _parts(word):
            if lines[-1] and cell_len(lines[-1] + part) > width:
                lines.append("")
            lines[-1] += part
    return lines


def _parts(word: str) -> list[str]:
    """The parts of a word that are never broken."""
    return re.findall(r"/*[^/]+|/+", word)


def _least(text: str) -> int:
    """Cells of the longest part of a text."""
    return max((cell_len(part) for word in text.split(" ") for part in _parts(word)), default=0)


@dataclass(frozen=True)
class Lines:
    """Lines of text, each broken between its words where it is too long.

    Parameters
    ----------
    text
        The lines.
    style
        Of all of them.
    """

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield them in the width that there is."""
        lines = [
            part for line in self.text.split("\n") for part in wrapped(line, options.max_width)
        ]
        yield Text("\n".join(lines), self.style, no_wrap=True, overflow="ignore")


@dataclass(frozen=True)
class TextTable:
    """A table of texts and numbers: one line a row where the width is enough.

    Where it is not, texts are broken as by `wrapped`. Where that is not enough either, the last
    columns of text are folded: each row has them on lines of their own below it.

    Parameters
    ----------
    titles
        Of the columns.
    numeric
        Columns of numbers, which stand on the right and are never broken.
    rows
        A text for each column.
    """

    titles: tuple[str, ...]
    numeric: frozenset[str]
    rows: tuple[tuple[str, ...], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield header and rows; on a terminal the first ones, and how many there are beyond."""
        most = LONGEST_LIST if options.is_terminal else len(self.rows)
        header, *lines = self.lines(options.max_width, most)
        yield Text(header, "bold", no_wrap=True, overflow="ignore")
        if lines:
            yield Text("\n".join(lines), no_wrap=True, overflow="ignore")
        if len(self.rows) > most:
            yield Text(f"... and {len(self.rows) - most} more; --json lists them all")

    def lines(self, width: int, most: int) -> list[str]:
        """Return the header and the first `most` rows as lines of at most `width` cells.

        A line is longer where a name or number is.
        """
        rows = self.rows[:most]
        columns = list(zip(self.titles, *rows, strict=True))
        texts = [at for at, title in enumerate(self.titles) if title not in self.numeric]
        natural = [max(map(cell_len, column)) for column in columns]
        if _total(natural) <= width:
            return [self._line(row, natural) for row in (self.titles, *rows)]
        least = [max(map(_least, column)) for column in columns]
        for at, title in enumerate(self.titles):
            if title in self.numeric:
                least[at] = natural[at]
        inline = list(range(len(columns)))
        while len(texts) > 1 and _total([least[at] for at in inline]) > width:
            inline.remove(texts.pop())
        widths = _shrunk([natural[at] for at in inline], [least[at] for at in inline], width)
        folded = [at for at in range(len(columns)) if at not in inline]
        result = self._row(self.titles, inline, widths)
        for row in rows:
            result += self._row(row, inline, widths)
            for at in folded:
                first, *more = wrapped(f"{self.titles[at]}: {row[at]}", width - len(_INDENT))
                result += [f"{_GAP}{first}", *(f"{_INDENT}{line}" for line in more)]
        return result

    def _line(self, cells: Sequence[str], natural: list[int]) -> str:
        """A row as one line; beside a name that is very long others are not filled up to it."""
        padded = (
            _padded(text, min(width, _LONGEST_FILLED), title in self.numeric)
            for text, width, title in zip(cells, natural, self.titles, strict=True)
        )
        return _GAP.join(padded).rstrip()

    def _row(self, cells: Sequence[str], inline: list[int], widths: list[int]) -> list[str]:
        """The lines of a row."""
        parts = [wrapped(cells[at], width) for at, width in zip(inline, widths, strict=True)]
        lines = []
        for line in zip_longest(*parts, fillvalue=""):
            padded = (
                _padded(text, width, self.titles[at] in self.numeric)
                for at, width, text in zip(inline, widths, line, strict=True)
            )
            lines.append(_GAP.join(padded).rstrip())
        return lines


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shrunk(natural: list[int], least: list[int], width: int) -> list[int]:
    """Take what is too much off the widest columns, as far as their parts allow."""
    widths = list(natural)
    while (excess := _total(widths) - width) > 0:
        free = [at for at in range(len(widths)) if widths[at] > least[at]]
        if not free:
            break
        widest = max(free, key=lambda at: widths[at])
        next_widest = max((widths[at] for at in free if at != widest), default=0)
        step = min(excess, max(1, widths[widest] - next_widest))
        widths[widest] = max(least[widest], widths[widest] - step)
    return widths
