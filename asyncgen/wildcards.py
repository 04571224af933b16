r"""Choices in prompts, `{red|green}`, and wildcards, `__animal__`, resolved by the dynamicprompts library.

The library drops texts and fails on characters that prompts may well hold. What it would mangle is found here and told
with what to write instead: a backslash before `$ # % { } | _` makes each of them plain text. Every value of a wildcard
that a prompt names is looked at too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from asyncgen.batch_file import WildcardMode
from asyncgen.errors import InputError
from asyncgen.expansion import Choice

if TYPE_CHECKING:
    from dynamicprompts.commands import Command
    from dynamicprompts.sampling_context import SamplingContext
    from dynamicprompts.wildcards import WildcardManager

#: So many prompts one text may stand for.
MOST_COMBINATIONS: Final = 10_000
_SPECIAL: Final = re.compile(r"[{$#%\\]|__")
_ESCAPED: Final = re.compile(r"\\([$#%{}|_\\])")
# What the library must not see stands for itself in Unicode's private use area, and is put back into what it gives.
_HIDDEN: Final = {mark: chr(0xF700 + ord(mark)) for mark in "$#%{}|_\\\t"}
_SHOWN: Final = str.maketrans({hidden: mark for mark, hidden in _HIDDEN.items()})
_PLACE: Final = re.compile(r"__.+?__", re.DOTALL)
_METHOD: Final = re.compile(r"\{\s*[~!@]|__[~!@]")
_MANGLED: Final = (
    (re.compile(r"#"), r"drops '#' and what follows it: write \#"),
    (_METHOD, r"takes ~, ! or @ at the beginning of a choice for orders that are not kept here: put it elsewhere"),
    (re.compile(r"%(?!\{)"), r"fails on '%': write \%"),
    (re.compile(r"\$(?![{$])(?<!\$\$)"), r"fails on '$': write \$"),
)


def wildcards_of(mode: WildcardMode | None, folder: Path | None) -> Wildcards | None:
    """What resolves choices in this mode; None: prompts are plain texts. Raises `InputError`, as `Wildcards` does."""
    if mode is not None:
        return Wildcards(mode, folder)
    if folder is not None:
        raise InputError("say how, by wildcards: random or combinatorial", field="wildcards_folder")
    return None


class Wildcards:
    """Resolves the choices of prompts, at random or all of them; wildcards are text, JSON or YAML files in a folder.

    Raises `InputError` for a folder that is none, and where the `wildcards` extra is missing.
    """

    def __init__(self, mode: WildcardMode, folder: Path | None = None) -> None:
        try:
            from dynamicprompts.enums import SamplingMethod  # noqa: PLC0415 - an extra
            from dynamicprompts.sampling_context import SamplingContext  # noqa: PLC0415

            _make_parser()
        except ImportError:
            message = "choices and wildcards need dynamicprompts: pip install 'asyncgen[wildcards]'"
            raise InputError(message, field="wildcards") from None
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is not a folder of wildcard files", field="wildcards_folder")
        # It logs a name that leads out of the folder with a traceback, and takes it for unknown, which is told here.
        logging.getLogger("dynamicprompts.wildcards.wildcard_manager").setLevel(logging.ERROR)
        self.is_random = mode == "random"
        self._manager = _manager(folder, self._check_wildcard, weighted=self.is_random)
        self._folder = folder
        method = SamplingMethod.RANDOM if self.is_random else SamplingMethod.COMBINATORIAL
        self._context = SamplingContext(default_sampling_method=method, wildcard_manager=self._manager)
        self._checked: dict[str, bool] = {}  # False: its values are being looked at
        self._parsed = lru_cache(maxsize=256)(self._parse)

    def choices(self, text: str, own_id: str | None, number: int) -> Iterator[Choice]:
        """What a prompt is made into: at random one, by a hash of text, id and number; else all, in the text's order.

        Raises `InputError` for a text that the library would mangle, and for more than `MOST_COMBINATIONS`.
        """
        if not _SPECIAL.search(text):
            yield Choice(text, {})
            return
        commands, names = self._parsed(text)
        try:
            if self.is_random:
                yield self._random(commands, names, _seed(text, own_id, number))
            else:
                yield from self._all(commands, names)
        except (KeyError, ValueError, RecursionError, StopIteration, NotImplementedError) as error:
            raise InputError(f"cannot be resolved by dynamicprompts: {error}", field="prompt") from None

    def _random(self, commands: list[Command], names: list[str], seed: int) -> Choice:
        context: SamplingContext = replace(self._context, rand=Random(seed))  # noqa: S311 - no secret
        rest, context = context.process_variable_assignments(commands)
        return _choice([next(iter(context.generator_from_command(command))).text for command in rest], rest, names)

    def _all(self, commands: list[Command], names: list[str]) -> Iterator[Choice]:
        rest, context = self._context.process_variable_assignments(commands)
        parts: list[list[str]] = []
        count = 1
        for command in rest:
            texts = [result.text for result in islice(context.generator_from_command(command), MOST_COMBINATIONS + 1)]
            parts.append(texts)
            count *= len(texts)
            if count > MOST_COMBINATIONS:
                message = (
                    f"stands for more than {MOST_COMBINATIONS:,} prompts: use fewer choices, or --wildcards random"
                )
                raise InputError(message, field="prompt")
        made = {choice.text: choice for choice in (_choice(one, rest, names) for one in product(*parts))}
        yield from made.values()

    def _parse(self, text: str) -> tuple[list[Command], list[str]]:
        """The parts of a text, and the choices among them as they are written, in their order."""
        hidden = _hidden(text)
        tree = self._tree(hidden, "the prompt")
        parts = getattr(tree, "tokens", None) or [tree]
        return list(parts), [name.translate(_SHOWN) for name in _written(hidden)]

    def _tree(self, hidden: str, what: str) -> Command:
        """The parsed text, and every wildcard in it, looked at."""
        from dynamicprompts.parser.parse import parse  # noqa: PLC0415
        from pyparsing import ParseBaseException  # noqa: PLC0415

        _check(hidden, what)
        try:
            tree = parse(hidden)
        except (ParseBaseException, ValueError, RecursionError) as error:
            at = f" at character {error.loc + 1}" if isinstance(error, ParseBaseException) else ""
            message = f"{what} cannot be read by dynamicprompts{at}: a brace, or __, without its partner is written "
            raise InputError(message + r"\{ or \_\_", field="prompt") from None
        for command in _walked(tree):
            self._check_command(command, what)
        return tree

    def _check_command(self, command: Any, what: str) -> None:
        kind = type(command).__name__
        if kind == "WildcardCommand" and isinstance(command.wildcard, str):
            self._manager.get_values(command.wildcard)
        elif kind == "VariantCommand":
            one = command.values[0] if len(command.values) == 1 else None
            is_wildcard = type(one).__name__ == "WildcardCommand"
            if one is not None and not is_wildcard:
                name = getattr(one, "literal", "…").translate(_SHOWN)
                message = f"{what} has a choice of one, {{{name}}}: declare a variable of that name, or write "
                raise InputError(message + rf"\{{{name}\}}", field="prompt")
            if not is_wildcard and not command.min_bound <= command.max_bound <= len(command.values):
                many = f"{command.min_bound} to {command.max_bound} of {len(command.values)}"
                raise InputError(f"{what} has a choice of {many} values: there are not so many", field="prompt")

    def _check_wildcard(self, name: str, values: Sequence[str]) -> None:
        """Look at all values of a wildcard once, and at the wildcards in them."""
        if self._checked.get(name):
            return
        if name in self._checked:
            raise InputError(f"the wildcard __{name}__ leads back to itself: it has no end", field="prompt")
        if not values:
            raise InputError(self._no_wildcard(name), field="prompt")
        self._checked[name] = False
        try:
            for value in values:
                self._tree(_hidden(value), f"the value {value!r:.60} of the wildcard __{name}__")
        except InputError:
            del self._checked[name]
            raise
        self._checked[name] = True

    def _no_wildcard(self, name: str) -> str:
        if self._folder is None:
            return rf"__{name}__ is a wildcard: name the folder of its file with --wildcards-folder, or write \_\_"
        known = sorted(self._manager.get_collection_names())
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean __{close[0]}__?" if close else f"there are: {', '.join(known[:20]) or 'none'}"
        return f"{self._folder} has no wildcard {name!r}; {hint}"


def _make_parser() -> None:
    """The library makes its parser once, and by names that pyparsing has given up since."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from dynamicprompts.parser.parse import parse  # noqa: PLC0415 - an extra

        parse("a prompt")


def _manager(folder: Path | None, check: Callable[[str, Sequence[str]], None], *, weighted: bool) -> WildcardManager:
    """The library's reader of wildcard files, which would make the name of an unknown wildcard its value.

    Where all values are made, weights would leave some out and give others twice: there none has any.
    """
    from dynamicprompts.wildcards import WildcardManager  # noqa: PLC0415 - an extra
    from dynamicprompts.wildcards.item import WildcardItem  # noqa: PLC0415
    from dynamicprompts.wildcards.values import WildcardValues  # noqa: PLC0415

    class Checked(WildcardManager):
        @lru_cache(maxsize=256)  # noqa: B019 - it lives as long as its only owner
        def get_values(self, wildcard: str) -> WildcardValues:
            values = super().get_values(wildcard)
            check(wildcard, list(values.string_values))
            weights = [item.weight if weighted and isinstance(item, WildcardItem) else 1.0 for item in values.items]
            texts = map(_hidden, values.string_values)
            return WildcardValues.from_items(map(WildcardItem, texts, weights))

    return Checked(folder)


def _hidden(text: str) -> str:
    return _ESCAPED.sub(lambda escaped: _HIDDEN[escaped[1]], text).replace("\t", _HIDDEN["\t"])


def _check(hidden: str, what: str) -> None:
    """Refuse what the library takes without a word, or with one that helps nobody."""
    for pattern, message in _MANGLED:
        if found := pattern.search(hidden):
            raise InputError(f"{what} at character {found.start() + 1}: dynamicprompts {message}", field="prompt")
    depth: list[int] = []
    for place, mark in enumerate(hidden):
        if mark == "{":
            depth.append(place)
        elif mark == "}" and depth:
            opened = depth.pop()
            if not hidden[opened + 1 : place].strip():
                raise InputError(rf"{what} has an empty choice {{}}: write \{{\}}", field="prompt")
    if depth:
        message = rf"{what} at character {depth[0] + 1}: this brace is not closed; a plain one is written \{{"
        raise InputError(message, field="prompt")


def _written(hidden: str) -> Iterator[str]:
    """The outermost choices and wildcards of a text."""
    place = 0
    while place < len(hidden):
        end = place + 1
        if hidden[place] == "{" or hidden.startswith(("${", "%{"), place):
            end = _end_of_brace(hidden, hidden.index("{", place))
            if not re.match(r"\$\{\s*[\w-]+\s*\??=", hidden[place:end]):  # which assigns, and chooses nothing
                yield hidden[place:end]
        elif found := _PLACE.match(hidden, place):
            end = found.end()
            yield found[0]
        place = end


def _end_of_brace(text: str, place: int) -> int:
    depth = 0
    for end in range(place, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return end + 1
    return len(text)


def _walked(command: Any) -> Iterator[Any]:
    """A command and all that are in it."""
    yield command
    inner: Iterable[Any] = [*getattr(command, "tokens", ()), *getattr(command, "values", ())]
    named = (getattr(command, name, None) for name in ("value", "default", "wrapper", "inner"))
    for one in [*inner, *(one for one in named if hasattr(one, "sampling_method"))]:
        yield from _walked(one)


def _choice(texts: Iterable[str], commands: Iterable[Any], names: list[str]) -> Choice:
    """The whole text, and what was chosen at each place; a place that is there twice is counted."""
    shown = [text.translate(_SHOWN) for text in texts]
    chosen = [text for text, one in zip(shown, commands, strict=True) if type(one).__name__ != "LiteralCommand"]
    values: dict[str, str] = {}
    for number, text in enumerate(chosen):
        name = names[number] if len(names) == len(chosen) else f"choice {number + 1}"
        values[name if name not in values else f"{name} ({number + 1})"] = text
    return Choice("".join(shown), values)


def _seed(text: str, own_id: str | None, number: int) -> int:
    said = json.dumps([text, own_id, number], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8, person=b"wildcards").digest(), "big")
