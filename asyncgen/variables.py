"""Variables of prompts: `{color}` in a text is replaced by what a column, a key or a list of that name says. Pure.

Braces are special only where a variable is declared; there `{{color}}` stands for `{color}` itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

from asyncgen.errors import InputError

_NAME: Final = r"\w[\w -]*"
_HEADER: Final = re.compile(rf"\{{\s*({_NAME}?)\s*\}}")
_PLACE: Final = re.compile(rf"\{{(\{{[^{{}}]*\}})\}}|\{{\s*({_NAME}?)\s*\}}")


def variable_of(header: str) -> str | None:
    """The variable that a column with this header declares, `color` for `{color}`; None for other columns."""
    found = _HEADER.fullmatch(header.strip())
    return None if found is None else found[1]


def fill(text: str, values: Mapping[str, str], others: Collection[str] = (), empty: Collection[str] = ()) -> str:
    """The text with every variable replaced; those among `others`, which get their values later, stay.

    `empty` are declared and have no value here. Raises `InputError` for one of those in the text, and for a variable
    that is not declared, naming the nearest one.
    """

    def value(place: re.Match[str]) -> str:
        if place[1] is not None:
            return place[0] if others else place[1]
        name = place[2]
        if name in values:
            return values[name]
        if name in others:
            return place[0]
        if name in empty:
            raise InputError(f"the row gives {{{name}}} no value: fill it in", field="prompt")
        raise _unknown(name, [*values, *others, *empty])

    return _PLACE.sub(value, text)


def _unknown(name: str, known: Collection[str]) -> InputError:
    close = get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {{{close[0]}}}?" if close else f"there are: {', '.join(f'{{{name}}}' for name in known)}"
    message = f"there is no variable {{{name}}} here; {hint} (write {{{{{name}}}}} for the braces themselves)"
    return InputError(message, field="prompt")


def names_in(text: str) -> frozenset[str]:
    """The names of the variables in a text, declared or not."""
    return frozenset(place[2] for place in _PLACE.finditer(text) if place[2] is not None)


def made_of(
    fields: Mapping[str, Any], *, template: str | None, columns: Collection[str] = (), others: Collection[str] = ()
) -> dict[str, Any]:
    """A row's fields with its variables put into its prompt, or into `template` where it has no prompt.

    Variables are the keys in braces; `columns` are those of a table, which a row may leave empty. Text and values are
    kept as `template` and `variables`. Raises `InputError`.
    """
    named = {key: name for key in fields if key.startswith("{") and (name := variable_of(key)) is not None}
    rest = {key: value for key, value in fields.items() if key not in named}
    text = rest.get("prompt") or template
    values = {name: _value(name, fields[key]) for key, name in named.items()}
    if not isinstance(text, str) or not (values or columns):
        return {**rest, "prompt": text} if text else rest
    empty = {*columns} - values.keys()
    return {**rest, "prompt": fill(text, values, others, empty), "template": text, "variables": values}


def _value(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"a variable is a text or a number, not {value!r:.60}", field=f"{{{name}}}")
    return str(value)
