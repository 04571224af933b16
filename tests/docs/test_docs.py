"""What the documentation says is so: generated parts are current, links lead somewhere, examples run, options exist."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asyncgen import errors
from asyncgen.cli import app
from asyncgen.errors import AsyncgenError, FailureCode
from asyncgen.exits import Exit
from asyncgen.lifecycle import State
from asyncgen.naming import PATH_FIELDS
from asyncgen.settings import Settings, variable_of

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_A_KEY = "<!-- needs a key -->"
CLI_SECTIONS = re.findall(r"^## (.*)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    body: str
    needs_a_key: bool

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(*kinds: str) -> list[Block]:
    """Every fenced block of these kinds; `line` is that of its first line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start("body")) + 1
            needs_a_key = match["before"].strip() == NEEDS_A_KEY
            found.append(Block(page_name(page), line, match["kind"], match["body"], needs_a_key))
    return [block for block in found if block.kind in kinds]


def indented_lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.startswith("    "))


def command_lines() -> list[tuple[str, str]]:
    """Every `asyncgen …` command in a shell block, or in an indented one, with the page it stands on."""
    lines = [(block.page, line) for block in blocks("sh") for line in block.body.splitlines()]
    lines += [(page_name(page), line) for page in PAGES for line in indented_lines(page.read_text(encoding="utf-8"))]
    parts = [(page, part.strip()) for page, line in lines for part in re.split(r"&&|\||;", line)]
    commands = [(page, part.removeprefix("python -m ")) for page, part in parts]
    return [
        (page, command) for page, command in commands if command.startswith("asyncgen ") and "[OPTIONS]" not in command
    ]


def table_keys(page: str, heading: str) -> list[str]:
    """The first cells of the table below a heading, without backquotes."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip().strip("`") for line in section.splitlines() if line.startswith("| ")]
    return rows[1:]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


def test_the_generated_parts_are_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(file), f"{target}: there is no such heading"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_a_python_block_runs(block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLLING_INTERVAL", "0.1")  # shortens the test, and nothing else
    code = compile("\n" * (block.line - 1) + block.body, block.page, "exec")
    if not block.needs_a_key:
        exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "command"), command_lines(), ids=lambda value: str(value)[:60])
def test_a_command_line_parses(page: str, command: str) -> None:
    arguments = [word for word in shlex.split(command, comments=True)[1:] if word not in ("…", ">", "<")]
    shown = CliRunner().invoke(app, [*arguments, "--help"])  # options are parsed before the help is shown
    assert shown.exit_code == 0, f"{page}: {command}\n{shown.output}"


def test_a_command_line_with_an_option_that_does_not_exist_does_not_parse() -> None:
    assert CliRunner().invoke(app, ["batch", "prompts.txt", "--no-such-option", "--help"]).exit_code != 0


def test_there_is_something_to_check() -> None:
    assert len(blocks("python")) >= 8
    assert len(command_lines()) >= 10


@pytest.mark.parametrize("command", [name for name in CLI_SECTIONS if name != "Exit codes"])
def test_the_cli_page_has_the_options_that_help_shows(command: str) -> None:
    section = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").split(f"\n## {command}\n")[1].split("\n## ")[0]
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).output
    documented = set(re.findall(r"(?<=[`])--[a-z-]+", section))
    assert documented | {"--help"} == set(re.findall(r"(?<![\w-])--[a-z-]+", shown))


def test_every_command_has_a_section() -> None:
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    groups = [group.name for group in app.registered_groups]
    assert {*commands, *map(str, groups)} <= set(CLI_SECTIONS)


def test_every_failure_code_has_its_cure() -> None:
    assert table_keys("docs/troubleshooting.md", "Failures of an image") == [str(code) for code in FailureCode]


def test_every_error_has_its_cure() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AsyncgenError)]
    assert set(table_keys("docs/troubleshooting.md", "Errors of a call")) == {c.__name__ for c in classes}


def test_every_exit_code_has_its_cure() -> None:
    codes = [str(int(code)) for code in Exit]
    assert table_keys("docs/troubleshooting.md", "Exit codes") == codes
    assert table_keys("docs/cli.md", "Exit codes") == codes


def test_every_state_says_what_a_crash_costs() -> None:
    assert set(table_keys("docs/crash-safety.md", "State by state")) == set(State)


def test_every_field_of_a_path_template_is_named() -> None:
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    assert [field for field in PATH_FIELDS if f"`{{{field}}}`" not in usage] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_variable_that_is_named_exists(page: Path) -> None:
    known = {variable_of(name) for name in Settings.model_fields} | {"ASYNCGEN_USER_FOLDER", "ASYNCGEN_STATE_FOLDER"}
    named = set(re.findall(r"\b(?:ASYNCGEN|POLLING|MAX_POLLING|SYNC)_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= known


def test_every_module_has_its_role() -> None:
    section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("\n## Modules\n")[1].split("\n## ")[0]
    modules = {path.stem for path in (ROOT / "asyncgen").glob("*.py") if not path.stem.startswith("_")} | {"sandbox"}
    rows = [row.split("|")[2] for row in section.splitlines() if row.startswith("| ")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == modules
