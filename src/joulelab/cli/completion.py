"""The command ``joulelab completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

INSTALL = {
    "bash": ("~/.bashrc", 'eval "$(joulelab completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(joulelab completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "joulelab completion fish | source"),
}

_WHOLE_WORDS = """\
# To bash, a colon or an equals sign ends a word; STUDY:precision=bf16 is one.
_joulelab_whole_words() {
    local line="${COMP_LINE:0:COMP_POINT}" word=""
    if [[ $line == *[:=]* ]]; then
        read -ra COMP_WORDS <<< "$line"
        [[ $line == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        word="${COMP_WORDS[COMP_CWORD]}"
    fi
    _joulelab_completion "$@"
    COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[:=]}"}"}")
}

complete -o nosort -F _joulelab_whole_words joulelab
"""


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
    if shell == "bash":
        click.echo(_WHOLE_WORDS)
