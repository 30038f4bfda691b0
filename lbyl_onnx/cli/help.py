"""Help in sections, and the words of the command line as they were given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
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
        ctx.meta[_WORDS] = words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if _models(words):
                text = f"{error.option_name} is an option of a command: {_with_command(words)}"
                raise click.UsageError(text, ctx) from error
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as always; say what to write where there is a model in its place."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            if _models(args[:1]):
                hint = f"write a command in front of the model: {_with_command(args)}"
            elif near:
                hint = f"no such command {args[0]!r}; did you mean {near[0]}?"
            else:
                raise
            raise click.UsageError(hint, ctx) from error


def _models(words: Sequence[str]) -> list[str]:
    """Return the words that are likely to be paths of models."""
    return [w for w in words if w.lower().endswith(".onnx") or (os.sep in w and Path(w).exists())]


def _with_command(words: Sequence[str]) -> str:
    """Return the words as arguments of the command that they are likely meant for."""
    name = "compress" if len(_models(words)) > 1 else "inspect"
    return shlex.join(["lbyl-onnx", name, *words])


def command_line() -> str:
    """Return the command line of the running command, quoted for a shell."""
    words: list[str] = click.get_current_context().meta.get(_WORDS, [])
    return shlex.join(["lbyl-onnx", *words])
