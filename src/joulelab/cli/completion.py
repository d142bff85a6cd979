"""``joulelab completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

INSTALL = {
    "bash": ("~/.bashrc", 'eval "$(joulelab completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(joulelab completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "joulelab completion fish | source"),
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(INSTALL)))
def command(shell: str) -> None:
    """Print what lets a shell complete commands and options.

    \b
    Example:
      # in ~/.bashrc
      eval "$(joulelab completion bash)"
    """
    from joulelab.cli.group import app  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None
    file, line = INSTALL[shell]
    click.echo(f"# For every new shell, in {file}:\n#   {line}")
    click.echo(kind(app, {}, "joulelab", "_JOULELAB_COMPLETE").source())
