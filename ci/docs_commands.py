"""The page of all commands, from what click knows of them."""

from __future__ import annotations

import click

from nemo_image_curate.cli import main

NAME = "nemo-image-curate"


def cell(text: str) -> str:
    """A text that stands in a table as it is."""
    text = " ".join(text.split())
    for character in "|*<":
        text = text.replace(character, f"\\{character}")
    return text


def command_section(name: str, command: click.Command) -> str:
    """Usage, help and options of a command."""
    context = click.Context(command, info_name=f"{NAME} {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```\n{usage}\n```", cell_paragraphs(command.help or "")]
    rows = [
        f"| `{record[0]}` | {cell(record[1])} |"
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
    ]
    return "\n\n".join([*parts, "\n".join(["| option | |", "|---|---|", *rows])])


def cell_paragraphs(text: str) -> str:
    """Paragraphs, each on a line."""
    return "\n\n".join(cell(paragraph) for paragraph in text.split("\n\n"))


def commands_page() -> str:
    """The Markdown of the page."""
    overview = [
        f"| [`{name}`](#{name}) | {cell(command.get_short_help_str(200))} |"
        for name, command in sorted(main.commands.items())
    ]
    parts = ["# Commands", cell_paragraphs(main.help or "")]
    parts.append("\n".join(["| | |", "|---|---|", *overview]))
    parts += [command_section(name, command) for name, command in sorted(main.commands.items())]
    return "\n\n".join(parts) + "\n"
