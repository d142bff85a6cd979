"""The command ``joulelab completion``."""

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
    """Print the shell completion script.

    \b
    Example:
      # in ~/.bashrc
      eval "$(joulelab completion bash)"
    """
    app = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    file, line = INSTALL[shell]
    click.echo(f"# To enable completion in every new shell, add this to {file}:\n#   {line}")
    click.echo(kind(app, {}, "joulelab", "_JOULELAB_COMPLETE").source())
