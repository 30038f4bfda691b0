"""Formulas become MathML when the pages are built: browsers show it without any script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Replace each formula of a page."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(match: re.Match[str]) -> str:
    inline, block = match.group(2), match.group(3)
    formula = html.unescape(inline if inline is not None else block)
    return str(convert(formula, display="inline" if inline is not None else "block"))
