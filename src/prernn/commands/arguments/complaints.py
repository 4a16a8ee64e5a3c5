"""What jsonargparse and Lightning complain about, in the words of all other messages."""

import ast
import contextlib
import re
from collections.abc import Iterator

from prernn.commands.arguments.fit_options import groups, known_options
from prernn.layers.names import close_to

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "names and values",
}
UNION = re.compile(
    r"(?:- Expected a path but .*? invalid - )?Does not validate against any of the Union subtypes Subtypes: .*? "
    r"Errors: - (?P<errors>.*?)(?: - Expected a <class 'NoneType'>)?"
    r"(?: Given value type: .*? Given value: (?P<value>.*))?"
)
WITHIN = re.compile(r'Parser key "(?P<key>[\w.]+)": (?P<said>.*)')
VALUE = re.compile(r"(?P<kinds>Expected a .*?)(?:\. Got value: (?P<value>.*))?")


@contextlib.contextmanager
def in_plain_words() -> Iterator[None]:
    """Reduces a ValueError to one plain line, and makes one of what Lightning calls a misconfiguration."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
            said = " ".join(str(error).split())
            if (text := plain(said)) != said or not isinstance(error, ValueError):
                raise ValueError(text) from error
        raise


def plain(message: str) -> str:
    """A parser's message in plain words; any other message as it is."""
    if required := re.search(r"arguments are required: (?:(?:fit|validate|test|predict)\.)?([\w.]+)", message):
        prefix, _, name = required[1].rpartition(".")
        text = groups().get(prefix, {}).get(name, "").rstrip(".")
        return f"expected --{required[1]}{f' ({text})' if text else ''}, got none"
    if extra := re.match(r"unrecognized arguments: (\S+)", message):
        return f"unknown word {extra[1]}"
    if odd := re.search(r"does not accept option '([\w.]+)'", message):
        return f"unknown option --{odd[1]}{close_to(odd[1], known_options(), '--')}"
    key, said, value = _innermost(message)
    if not key:
        return message
    if odd := re.match(r"(?:Option|Group or key|Key) ['\"]([\w.]+)['\"] (?:is not accepted|does not exist)", said):
        name = f"{key}.{odd[1]}"
        return f"unknown option --{name}{close_to(name, known_options(), '--')}"
    if absent := re.match(r"File does not exist: '(.*)'", said):
        return f"--{key}: expected a file, found no {absent[1]}"
    if inside := re.match(r"Unable to load config '(.*?)'", said):
        names = ", ".join(f"--{key}.{name}" for name in groups().get(key, ()))
        return f"--{key}: expected {names or 'a mapping'}, got {inside[1]!r}"
    if task := re.search(r"(?:dot import path string: |class_path ')([\w.:/-]+)", said) if key == "data.task" else None:
        name = task[1].rpartition(".")[2]
        return (
            f"--{key}: expected action, gesture, face, segments, or a class as file.py:Name, got {task[1]!r}"
            + close_to(name.lower(), ("action", "gesture", "face", "segments"))
        )
    return f"--{key}: {_expected(said, value)}"


def _innermost(message: str) -> tuple[str, str, str]:
    """The option, what is said about it, and its value if that is given separately."""
    keys, said, value = [], message, ""
    while True:
        if match := WITHIN.fullmatch(said):
            keys.append(match["key"])
            said = match["said"]
        elif match := UNION.fullmatch(said):
            said, value = match["errors"], match["value"] or value
        else:
            return ".".join(keys), said, value


def _expected(said: str, value: str) -> str:
    match = VALUE.fullmatch(said)
    if match is None:
        return said[:1].lower() + said[1:]
    value = match["value"] or value
    choices: list[str] = []
    kinds: list[str] = []
    for kind, options in re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\])", match["kinds"]):
        choices += [str(option) for option in ast.literal_eval(f"[{options}]")] if options else []
        kinds += [KINDS.get(kind, kind)] if kind not in ("", "NoneType") else []
    if not choices and not kinds:
        return said[:1].lower() + said[1:]
    one_of = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    return f"expected {' or '.join([*kinds, *one_of])}, got {value!r}{close_to(value, choices)}"
