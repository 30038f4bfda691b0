"""Help in sections, and the words of the command line as they were given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

_WORDS = "lbyl_onnx.words"


class SectionedCommand(click.Command):
    """A command whose help lists its options in sections.

    Parameters
    ----------
    sections
        The options' first names under each title; those that no section names come last.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        records: dict[str, tuple[str, str]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[parameter.opts[0]] = record
        named = [name for names in self._sections.values() for name in names]
        rest = tuple(name for name in records if name not in named)
        for title, names in {**self._sections, "Other": rest}.items():
            rows = [records[name] for name in names if name in records]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class WordKeepingGroup(click.Group):
    """A group that remembers the words it was called with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as always; the words are kept for `command_line`."""
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


def command_line() -> str:
    """Return the command line of the running command, quoted for a shell."""
    words: list[str] = click.get_current_context().meta.get(_WORDS, [])
    return shlex.join(["lbyl-onnx", *words])
