"""The site's pages of the command line, out of the parsers: ``python site_build/command_line.py`` writes them anew."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from prernn.benchmarks.options import OPTIONS
from prernn.commands.arguments import fit_options
from prernn.commands.bench import bench_parser
from prernn.commands.fit import FIT_COMMANDS
from prernn.commands.main import COMMANDS, _parser

FOLDER = Path(__file__).parent.parent / "docs" / "command-line"
HEADER = "<!-- made by site_build/command_line.py from the parsers; don't edit -->\n\n"


def pages() -> dict[str, str]:
    """Each page's Markdown by its name."""
    return {name: HEADER + text for name, text in (("index", commands()), ("fit", fit()), ("bench", benchmarks()))}


def commands() -> str:
    """The page of all commands but those of ``fit``, and a line on these."""
    blocks = [
        "# Command line",
        "`prernn COMMAND --help` says the same in a terminal. A mistake gives one line and exit code 2. "
        "In a clone of the repository put `uv run` in front.",
        table(("command", "does"), [(_link(name), command.help) for name, command in COMMANDS.items()]),
    ]
    (parsers,) = [action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in COMMANDS.items():
        if name not in (*FIT_COMMANDS, "bench"):
            blocks += [f"## {name}", f"{command.help[0].upper()}{command.help[1:]}.", *described(parsers[name], 3)]
    return "\n\n".join(blocks) + "\n"


def fit() -> str:
    """The page of ``fit``, ``validate``, ``test`` and ``predict``."""
    blocks = ["# fit, test and predict"]
    blocks += [table(("command", "does"), [(f"`{name}`", command.help) for name, command in FIT_COMMANDS.items()])]
    blocks += [
        "```sh\nprernn fit --config FILE --data.root DATA --trainer.max_epochs 5\n```",
        "All four take the same options. Each may stand in the config file, as nested YAML, or on the command line, "
        "which wins. `--trainer.NAME` are the arguments of Lightning's Trainer; `prernn fit --help` lists those of the "
        "version that is installed.",
        "## Often used",
        table(("option", "is"), [(f"`--{name}`", text) for name, text in fit_options.COMMON.items()]),
    ]
    for prefix, names in fit_options.groups().items():
        if prefix != "trainer":
            rows = [(f"`{name}`", text) for name, text in names.items()]
            blocks += [f"## --{prefix}", table((f"--{prefix}.", "is"), rows)]
    return "\n\n".join(blocks) + "\n"


def benchmarks() -> str:
    """The page of the benchmarks."""
    blocks = [
        "# bench",
        "Figures of speed and quality, measured on this machine: `prernn bench NAME`. What they gave is in "
        "[Speed](../speed.md), [Sparsity](../sparsity.md) and [Results](../results.md).",
    ]
    for name in sorted(OPTIONS):
        parser = bench_parser(name)
        first = " ".join((parser.description or "").partition("\n\n")[0].split())
        blocks += [f"## {name}", first, *described(parser, 3)]
    return "\n\n".join(blocks) + "\n"


def described(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """What a parser takes: its usage and a table; then the same of its subcommands."""
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    rows = [(_name(action), _text(parser, action)) for action in actions if action not in inner]
    words = " ".join(_usage(action) for action in actions if not action.option_strings)
    rest = "[OPTION ...]" if any(action.option_strings for action in actions) else ""
    yield "```text\n" + " ".join(filter(None, (parser.prog, words, rest))) + "\n```"
    if rows:
        yield table(("option", "is"), rows)
    for action in inner:
        for name, chosen in action.choices.items():
            yield f"{'#' * level} {parser.prog.removeprefix('prernn ')} {name}"
            if chosen.description:
                yield f"{chosen.description[0].upper()}{chosen.description[1:]}."
            yield from described(chosen, level + 1)


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """Markdown of two columns."""
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right.replace('|', chr(92) + '|')} |" for left, right in lines)


def _link(name: str) -> str:
    if name in FIT_COMMANDS:
        return f"[{name}](fit.md)"
    return f"[{name}](bench.md)" if name == "bench" else f"[{name}](#{name})"


def _value(action: argparse.Action) -> str:
    """What stands behind an option."""
    if action.nargs == 0:
        return ""
    if action.choices is not None and action.metavar is None:
        word = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        word = str(action.metavar or action.dest.upper())
    if isinstance(action.metavar, tuple):
        word = " ".join(action.metavar)
    return {"+": f"{word} ...", "*": f"[{word} ...]", "?": f"[{word}]"}.get(str(action.nargs), word)


def _usage(action: argparse.Action) -> str:
    return "..." if action.nargs == argparse.REMAINDER else _value(action)


def _name(action: argparse.Action) -> str:
    value = _usage(action)
    if not action.option_strings:
        return f"`{value}`".replace("|", "\\|")
    long = action.option_strings[-1]
    return f"`{f'{long} {value}'.strip()}`".replace("|", "\\|")


def _text(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    choices = ", ".join(map(str, action.choices)) if action.choices is not None else ""
    text = (action.help or "") % {**vars(action), "prog": parser.prog, "choices": choices}
    for sign in "<*_":  # not Markdown's
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for page, markdown in pages().items():
        (FOLDER / f"{page}.md").write_text(markdown, encoding="utf-8")
