"""Writes the generated parts of the documentation: `python docs/generate.py`; `--check` only tells what is stale.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; NAME is a function of `PARTS`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer.main

from asyncgen.cli import app
from asyncgen.lifecycle import MOVES, SETTLED, State
from asyncgen.loras import stack_loras
from asyncgen.request import ImageRequest
from asyncgen.settings import Settings, variable_of

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_PART: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
_EXIT_CODE: Final = re.compile(r"(\d+) ([^;.]+)")


def settings_table() -> str:
    """Every setting, in the order of `asyncgen.settings`."""
    rows = [
        (f"`{variable_of(name)}`", f"`{name}`", _default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "in Python", "default", "what it is"), rows)


def request_fields() -> str:
    """Every field of a request, with the other names it may have."""
    rows = [(f"`{name}`", _other_names(name), field.description or "") for name, field in _request_fields()]
    return _table(("field", "also called", "what it is"), rows)


def commands() -> str:
    """Every command with its arguments and options, from the declarations that `--help` shows."""
    return "\n\n".join(_command_section(name, command) for name, command in _all_commands())


def exit_codes() -> str:
    """The exit codes, from the text below `asyncgen --help`."""
    text = (typer.main.get_command(app).epilog or "").removeprefix("Exit codes: ")
    return _table(("code", "meaning"), [(code, meaning.strip()) for code, meaning in _EXIT_CODE.findall(text)])


def lifecycle_diagram() -> str:
    """The states of a job and their moves, as a mermaid state diagram. Settled states are drawn with a thick border."""
    moves = [f"    {move.source} --> {move.target}: {_mermaid_text(move.why)}" for move in MOVES]
    settled = ",".join(state for state in State if state in SETTLED)
    return "\n".join(
        (
            "```mermaid",
            "stateDiagram-v2",
            "    [*] --> wanted",
            *moves,
            "    classDef settled stroke-width:3px",
            f"    class {settled} settled",
            "```",
        )
    )


def lora_factors() -> str:
    """What strengths of 1.0 become, by the number of characters."""
    rows = [(f"{count}{' or more' if count == 3 else ''}", *_factors(count)) for count in range(4)]
    return _table(("characters", "style LoRA", "each character", "FILM-V3-FLUX"), rows)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings_table,
    "request-fields": request_fields,
    "commands": commands,
    "exit-codes": exit_codes,
    "lifecycle": lifecycle_diagram,
    "lora-factors": lora_factors,
}


def current(text: str) -> str:
    """A page with every generated part as it should be. Raises KeyError for a part that nobody can write."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def main(check_only: bool) -> int:
    """Bring every page up to date, or tell which are not; 1 if any is stale and was left so."""
    stale = {page: new for page in PAGES if (new := current(old := page.read_text(encoding="utf-8"))) != old}
    for page, text in stale.items():
        if not check_only:
            page.write_text(text, encoding="utf-8")
        print(f"{'stale' if check_only else 'written'}: {page.relative_to(ROOT)}")
    return int(check_only and bool(stale))


def _default(value: object) -> str:
    if value is None:
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _request_fields() -> Iterator[tuple[str, Any]]:
    yield from ImageRequest.model_fields.items()


def _other_names(name: str) -> str:
    alias = ImageRequest.model_fields[name].validation_alias
    names = [str(choice) for choice in getattr(alias, "choices", ()) if choice != name]
    return ", ".join(f"`{other}`" for other in names)


def _all_commands() -> Iterator[tuple[str, Any]]:
    """Every command by its whole name, those of groups after their group."""
    top: Any = typer.main.get_command(app)
    for name, command in top.commands.items():
        yield name, command
        for sub_name, sub_command in getattr(command, "commands", {}).items():
            yield f"{name} {sub_name}", sub_command


def _command_section(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not parameter.hidden]
    arguments = [parameter for parameter in shown if not parameter.opts[0].startswith("-")]
    usage = " ".join(("asyncgen", name, *(_metavar(argument) for argument in arguments), "[OPTIONS]"))
    rows = [(_option_text(parameter), _meaning(parameter)) for parameter in shown]
    return f"## {name}\n\n    {usage}\n\n{_paragraphs(command.help)}\n\n{_table(('option', 'meaning'), rows)}"


def _option_text(parameter: Any) -> str:
    if not parameter.opts[0].startswith("-"):
        return f"`{_metavar(parameter)}`"
    value = "" if parameter.is_flag or parameter.count else f" {_metavar(parameter)}"
    return ", ".join(f"`{option}{value}`" for option in (*parameter.opts, *parameter.secondary_opts))


def _metavar(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    option = str(parameter.opts[-1]).lstrip("-")
    return "NAME=VALUE" if option == "set" else option.upper()


def _meaning(parameter: Any) -> str:
    text = (parameter.help or "").replace("[default: ", "Default: ").replace("]", ".")
    said = "Default: " in text or parameter.default in (None, False, 0) or callable(parameter.default)
    return text if said else f"{text} Default: {parameter.default}."


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _mermaid_text(text: str) -> str:
    """Colons and semicolons mean something to mermaid."""
    return text.replace(":", " -").replace(";", ",")


def _factors(characters: int) -> tuple[str, str, str]:
    loras = stack_loras("style", 1.0, [f"character_{number}" for number in range(characters)], 1.0, 1.0)
    style, *between, cine = (f"× {lora.strength:g}" for lora in loras)
    return style, between[0] if between else "", cine


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, *rows))
    return "\n".join((first, "|---" * len(header) + "|", *others))


if __name__ == "__main__":
    raise SystemExit(main(check_only="--check" in sys.argv[1:]))
