"""What `--help` says: whole sentences, an example for each command, and what was probably meant by a name that is none."""

from __future__ import annotations

import re
from typing import NoReturn

import click

from erpkit.cli.examples import EXAMPLES
from erpkit.near import did_you_mean


class _WithExamples(click.Command):
    """A command whose help ends with examples, which stand in `erpkit.cli.examples`."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples; a long one is not folded, as it is to be pasted."""
        lines = EXAMPLES.get(command_name(ctx), ())
        if lines:
            with formatter.section("Example" if len(lines) == 1 else "Examples"):
                formatter.write("".join(f"  {line}\n" for line in lines))


class Command(_WithExamples):
    """A single command."""


class Group(_WithExamples, click.Group):
    """A group that lists its commands with whole sentences, and says which command was probably meant."""

    command_class = Command
    group_class = type

    def sentence(self, ctx: click.Context, name: str) -> str:
        """Return what the list of commands says about one."""
        command = self.get_command(ctx, name)
        return first_sentence((command and command.help) or "")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; click would cut each line off."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.sentence(ctx, name)) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was called; for a name that is none, say which one was meant, or which there are."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if ctx.resilient_parsing or self.get_command(ctx, args[0]) is not None or args[0].startswith("-"):
                raise
            self._refuse(ctx, args[0], error)

    def _refuse(self, ctx: click.Context, name: str, error: Exception) -> NoReturn:
        known = self.list_commands(ctx)
        alone = f". Without one: {first_sentence(self.help or '')}" if self.invoke_without_command else ""
        raise click.UsageError(f"There is no command {name!r}; {did_you_mean(name, known)}{alone}", ctx) from error


def command_name(ctx: click.Context) -> str:
    """Return the words of the running command without `erpkit`, whatever the program was called as."""
    return " ".join(ctx.command_path.split()[1:])


def first_sentence(text: str) -> str:
    """Return what a text says first, up to the end of its first clause: "Compare schemas with _template."."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return f"{re.split(r'[.;:](?: |$)', paragraph)[0]}." if paragraph else ""
