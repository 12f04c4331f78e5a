"""`deconvseg completion`: scripts that complete the command line in a shell.

They hold all words themselves, so that pressing Tab starts no Python, and needs no network.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any

import typer

from deconvseg.cli import console

PROGRAM = "deconvseg"
_NETWORKS = {"--weights", "--fcn", "--init"}

EXAMPLES = """[bold]Examples[/bold]

echo 'source <(deconvseg completion bash)' >> ~/.bashrc

echo 'source <(deconvseg completion zsh)' >> ~/.zshrc    [dim]below compinit[/dim]

deconvseg completion fish > ~/.config/fish/completions/deconvseg.fish"""


class Shell(StrEnum):
    """Shells there are scripts for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@dataclass(frozen=True)
class _Option:
    """An option; a flag's `values` are None, those of an option that takes a file or a number are empty."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None

    @property
    def takes_files(self) -> bool:
        """Whether a file can be its value."""
        return self.values == () or bool(_NETWORKS & {*self.names})


@dataclass(frozen=True)
class _Command:
    """A command: the words that lead to it, its options, its arguments' values, and the commands below it."""

    path: tuple[str, ...]
    help: str
    options: tuple[_Option, ...]
    arguments: tuple[str, ...]
    commands: tuple[_Command, ...]


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
    debug: console.DebugOption = False,
) -> int:
    """Print a script that completes commands, options, their values and files, for your shell to read."""
    root = _command(context.find_root().command, (PROGRAM,), _known_values())
    print(_SCRIPTS[shell](root), end="")
    return console.DONE


def _known_values() -> dict[str, tuple[str, ...]]:
    """The values of options whose help does not list them."""
    from deconvseg.images.palette import VOC_CLASSES
    from deconvseg.weights import registry

    networks = [entry for entry in registry().values() if entry.kind == "network"]
    names = sorted({name for entry in networks for name in (entry.name, *entry.aliases)})
    classes = dict.fromkeys(("--classes", "--class"), VOC_CLASSES[1:])
    return {**dict.fromkeys(_NETWORKS, tuple(names)), **classes}


def _command(command: Any, path: tuple[str, ...], known: dict[str, tuple[str, ...]]) -> _Command:
    options = [
        _Option(
            (*parameter.opts, *parameter.secondary_opts),
            _first_sentence(parameter.help or ""),
            None if parameter.is_flag else known.get(parameter.opts[0]) or _values(parameter),
        )
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
    ]
    options.append(_Option(("--help",), "Show the help", None))
    arguments = [
        value
        for parameter in command.params
        if parameter.param_type_name == "argument"
        for value in _values(parameter)
    ]
    below = getattr(command, "commands", {})
    return _Command(
        path,
        _first_sentence(inspect.cleandoc(command.help or "")),
        tuple(options),
        tuple(arguments),
        tuple(_command(below[name], (*path, name), known) for name in below),
    )


def _values(parameter: Any) -> tuple[str, ...]:
    metavar = parameter.metavar or ""
    if "|" in metavar and metavar == metavar.lower():
        return tuple(metavar.split("|"))
    described = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    for kind in (described, *getattr(described, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, Enum):
            return tuple(str(member.value) for member in kind)
    return tuple(getattr(getattr(parameter, "type", None), "choices", ()))  # older Typer


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _all(root: _Command) -> Iterator[_Command]:
    yield root
    for command in root.commands:
        yield from _all(command)


def _value_cases(root: _Command) -> Iterator[tuple[str, _Option]]:
    """`command --option`, and the option, for all that take a value."""
    for command in _all(root):
        for option in command.options:
            if option.values is not None:
                for name in option.names:
                    yield " ".join((*command.path, name)), option


def _steps(root: _Command) -> str:
    """The shells' pattern for words that lead to a command below."""
    return "|".join(f'"{" ".join(command.path)}"' for command in _all(root) if command is not root)


def _bash(root: _Command) -> str:
    lines = [
        f"_{PROGRAM}() {{",
        f"    local IFS=$'\\n' command={PROGRAM} word words=",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        f'        case "$command $word" in {_steps(root)}) command="$command $word" ;; esac',
        "    done",
        "    COMPREPLY=()",
        '    case "$command $before" in',
    ]
    for case, option in _value_cases(root):
        lines.append(f'        "{case}") words={_ansi(option.values or ())} ;;')
    lines += ['        *) case "$command" in']
    for command in _all(root):
        names = [name for option in command.options for name in option.names]
        lines.append(f'            "{" ".join(command.path)}")')
        plain = [*command.arguments, *(sub.path[-1] for sub in command.commands)]
        lines.append(f"                [[ $current == -* ]] || words={_ansi(plain)}")
        lines.append(f"                [[ $current != -* ]] || words={_ansi(names)} ;;")
    lines += [
        "        esac ;;",
        "    esac",
        '    [[ -z $words ]] || COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        f"complete -o default -F _{PROGRAM} {PROGRAM}",
    ]
    return "\n".join(lines) + "\n"


def _ansi(words: Sequence[str]) -> str:
    """Words, one a line, as a shell word."""
    return "$'" + "\\n".join(word.replace("\\", "\\\\").replace("'", "\\'") for word in words) + "'"


def _zsh(root: _Command) -> str:
    lines = [
        f"#compdef {PROGRAM}",
        f"_{PROGRAM}() {{",
        f"    local command={PROGRAM} word",
        "    local -a found",
        '    for word in "${(@)words[2,CURRENT-1]}"; do',
        f'        case "$command $word" in ({_steps(root)}) command="$command $word" ;; esac',
        "    done",
        '    case "$command $words[CURRENT-1]" in',
    ]
    for case, option in _value_cases(root):
        words = f"compadd -- {shlex.join(option.values or ())}; " if option.values else ""
        lines.append(f'        ("{case}") {words}{"_files; " if option.takes_files else ""}return ;;')
    lines += ["    esac", '    case "$command" in']
    for command in _all(root):
        lines.append(f'        ("{" ".join(command.path)}")')
        plain = [(value, "") for value in command.arguments]
        plain += [(sub.path[-1], sub.help) for sub in command.commands]
        options = [(name, option.help) for option in command.options for name in option.names]
        lines.append(f"            if [[ $words[CURRENT] == -* ]]; then found=({_described(options)})")
        lines.append(f"            else found=({_described(plain)}); fi ;;")
    lines += [
        "    esac",
        f"    if (( $#found )); then _describe {PROGRAM} found; else _files; fi",
        "}",
        # Read with `source`, or found by compinit as a file _deconvseg and then called.
        f'if [[ $funcstack[1] == _{PROGRAM} ]]; then _{PROGRAM} "$@"; else compdef _{PROGRAM} {PROGRAM}; fi',
    ]
    return "\n".join(lines) + "\n"


def _described(words: Sequence[tuple[str, str]]) -> str:
    return " ".join(shlex.quote(f"{word}:{text}") for word, text in words)


def _fish(root: _Command) -> str:
    lines = []
    for command in _all(root):
        below = [sub.path[-1] for sub in command.commands]
        here = [f"__fish_seen_subcommand_from {word}" for word in command.path[1:]]
        if below:
            here.append(f"not __fish_seen_subcommand_from {' '.join(below)}")
        start = f"complete -c {PROGRAM} -n {_fish_quoted('; and '.join(here))}"
        lines += [f"{start} -f -a {sub.path[-1]} -d {_fish_quoted(sub.help)}" for sub in command.commands]
        lines += [f"{start} -f -a {value}" for value in command.arguments]
        for option in command.options:
            takes = ""
            if option.values is not None:
                takes = f" {'-r' if option.takes_files else '-x'} -a {_fish_quoted(' '.join(option.values))}"
            for name in option.names:
                word = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                lines.append(f"{start} {word}{takes} -d {_fish_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: dict[Shell, Callable[[_Command], str]] = {Shell.bash: _bash, Shell.zsh: _zsh, Shell.fish: _fish}
