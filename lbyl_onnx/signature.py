"""Functions that take the options of `Config` as keywords, as `help` shows them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from lbyl_onnx.config import DEFAULTS, Config
from lbyl_onnx.option_types import entries

Function = TypeVar("Function", bound=Callable[..., Any])
# In the docstring of a function, where the options belong.
_MARK = "    **options\n"
_WIDTH = 92


def with_options(function: Function) -> Function:
    """Let a function's signature and help name each option that its `**options` may be.

    Raises
    ------
    ValueError
        When it has no such parameter, or no entry for it in its docstring.
    """
    signature = inspect.signature(function)
    own = list(signature.parameters.values())
    if own[-1].kind is not inspect.Parameter.VAR_KEYWORD or _MARK not in (function.__doc__ or ""):
        raise ValueError(f"{function.__name__} takes no options")
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(n, keyword, default=value) for n, value in DEFAULTS.items()]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in own[:-1]]
    function.__signature__ = inspect.Signature([*plain, *options])  # type: ignore[attr-defined]
    function.__doc__ = _filled(function.__doc__ or "")
    return function


def _filled(text: str) -> str:
    """Return a docstring with an entry for each option in place of that of all."""
    before, _, after = text.partition(_MARK)
    lines = after.splitlines(keepends=True)
    while lines and (lines[0].startswith("        ") or not lines[0].strip()):
        lines.pop(0)
    listed = (textwrap.indent(_wrapped(entry), "    ") for entry in entries(Config))
    return f"{before}{''.join(listed)}\n{''.join(lines)}"


def _wrapped(entry: str) -> str:
    """Return an entry with its text in lines."""
    title, text = entry.split("\n", 1)
    indent = "    "
    filled = textwrap.fill(
        text.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return f"{title}\n{filled}\n"
