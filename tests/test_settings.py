"""Settings: the familiar names unchanged, where each value comes from, and errors that name the variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen import ImageGenerator
from asyncgen.errors import SettingsError
from asyncgen.settings import Settings, load_settings, source_of, user_folder, variable_of
from asyncgen.template import DEFAULT_WORKFLOW

KEY = "rpa_SECRETSECRETSECRETSECRET"
#: Variable, the text it is given, the field, the value that comes of it.
FAMILIAR = [
    ("RUNPOD_SERVER_100_ID", "one", "server_100_id", "one"),
    ("RUNPOD_SERVER_150_ID", "two", "server_150_id", "two"),
    ("RUNPOD_SERVER_SCHNELL_ID", "three", "server_schnell_id", "three"),
    ("RUNPOD_SERVER_POSTER_ID", "four", "server_poster_id", "four"),
    ("SYNC_TIMEOUT", "701", "sync_timeout_seconds", 701.0),
    ("POLLING_INTERVAL", "1.5", "polling_interval_seconds", 1.5),
    ("MAX_POLLING_DURATION", "181", "max_polling_duration_seconds", 181.0),
    ("MAX_POLLING_ATTEMPTS", "121", "max_polling_attempts", 121),
    ("RUNPOD_ENDPOINT_BASE_URL", "https://elsewhere.example/v2/", "endpoint_base_url", "https://elsewhere.example/v2"),
]
ENDPOINTS = {
    "server_100_id": "s100",
    "server_150_id": "s150",
    "server_schnell_id": "schnell",
    "server_poster_id": "poster",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dot_env(text: str) -> None:
    Path(".env").write_text(text, encoding="utf-8")


# -- names and sources


@pytest.mark.parametrize(("variable", "text", "field", "value"), FAMILIAR)
def test_a_familiar_name_works_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), field) == value
    assert source_of(field, {}) == "environment"


@pytest.mark.parametrize(("variable", "text", "field", "value"), FAMILIAR)
def test_a_familiar_name_works_from_a_dot_env_file(variable: str, text: str, field: str, value: Any) -> None:
    dot_env(f'{variable}="{text}"\n')
    assert getattr(load_settings(), field) == value
    assert source_of(field, {}) == ".env"


def test_the_familiar_defaults_are_the_familiar_ones() -> None:
    settings = load_settings()
    assert settings.sync_timeout_seconds == 700
    assert settings.polling_interval_seconds == 1.0
    assert settings.max_polling_duration_seconds == 180
    assert settings.max_polling_attempts == 120
    assert settings.endpoint_base_url == "https://api.runpod.ai/v2"
    assert settings.mode == "wizard"
    assert source_of("sync_timeout_seconds", {}) == "default"


def test_the_key_and_the_100_endpoint_alone_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("RUNPOD_SERVER_100_ID", "abc123")
    settings = load_settings()
    assert (settings.require_api_key(), settings.endpoint_id()) == (KEY, "abc123")


def test_arguments_win_over_environment_over_dot_env_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []
    for step in ("default", ".env", "environment", "option"):
        if step == ".env":
            dot_env("ASYNCGEN_CONCURRENCY=2\n")
        elif step == "environment":
            monkeypatch.setenv("ASYNCGEN_CONCURRENCY", "3")
        overrides = {"concurrency": 4} if step == "option" else {}
        sources.append((load_settings(**overrides).concurrency, source_of("concurrency", overrides)))
    assert sources == [("auto", "default"), (2, ".env"), (3, "environment"), (4, "option")]


def test_an_argument_of_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCGEN_CONCURRENCY", "3")
    assert load_settings(concurrency=None).concurrency == 3
    assert source_of("concurrency", {"concurrency": None}) == "environment"


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv(variable_of(field), "")
    assert (
        getattr(load_settings(), field)
        == getattr(load_settings().changed(), field)
        == Settings.model_fields[field].default
    )
    assert source_of(field, {}) == "default"


def test_an_empty_variable_leaves_the_dot_env_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    dot_env("RUNPOD_SERVER_100_ID=from-file\n")
    monkeypatch.setenv("RUNPOD_SERVER_100_ID", "")
    assert load_settings().endpoint_id() == "from-file"
    assert source_of("server_100_id", {}) == ".env"


def test_the_source_of_a_variable_in_lower_case_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("runpod_server_100_id", "abc")
    assert load_settings().server_100_id == "abc"
    assert source_of("server_100_id", {}) == "environment"


@pytest.mark.parametrize("field", sorted(f for f in Settings.model_fields if f.upper() != variable_of(f)))
def test_a_variable_that_merely_has_the_name_of_a_field_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setenv(field.upper(), "7")
    assert getattr(load_settings(), field) == Settings.model_fields[field].default


def test_a_home_folder_in_dot_env_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    dot_env("ASYNCGEN_OUTPUT_ROOT=~/pictures\nASYNCGEN_LEDGER=~/l.sqlite3\nASYNCGEN_STYLES=~/s.json\n")
    settings = load_settings()
    assert settings.output_root == Path("/home/someone/pictures")
    assert settings.ledger == Path("/home/someone/l.sqlite3")
    assert settings.styles == Path("/home/someone/s.json")


def test_the_users_folder_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASYNCGEN_USER_FOLDER", str(tmp_path / "mine"))
    assert user_folder() == tmp_path / "mine"
    monkeypatch.delenv("ASYNCGEN_USER_FOLDER")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_folder().name == "asyncgen"


# -- modes


@pytest.mark.parametrize(
    ("mode", "chosen"),
    [("wizard", "s100"), ("new_pre", "schnell"), ("posterFrameRegeneration", "poster"), ("anything", "s150")],
)
def test_a_mode_chooses_its_endpoint(mode: str, chosen: str) -> None:
    assert load_settings(mode=mode, **ENDPOINTS).endpoint_id() == chosen


@pytest.mark.parametrize(
    ("mode", "workflow"),
    [
        ("wizard", DEFAULT_WORKFLOW),
        ("new_pre", "schnell"),
        ("posterFrameRegeneration", "poster_frame"),
        ("anything", DEFAULT_WORKFLOW),
    ],
)
def test_a_mode_chooses_the_workflow_that_its_models_are_for(mode: str, workflow: str) -> None:
    assert load_settings(mode=mode).workflow_name() == workflow
    assert load_settings(mode=mode).changed(mode="new_pre").workflow_name() == "schnell"
    assert load_settings(mode=mode, workflow="pose").workflow_name() == "pose"


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"mode": "xyz"}, "there is no mode .xyz., .*RUNPOD_SERVER_150_ID and V4; there are: wizard, new_pre, "),
        ({"mode": "xyz", "endpoint": "own", "workflow": "pose"}, None),  # it chooses nothing
        ({"mode": "new-pre", "endpoint": "own", "workflow": "pose"}, None),
        ({"mode": "new_pre"}, None),
        ({}, None),
    ],
)
def test_a_mode_that_resembles_none_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chosen: dict[str, str], told: str | None
) -> None:
    generator = ImageGenerator(load_settings(output_root=tmp_path, **chosen), sandbox=True)
    assert generator.planner is generator.planner
    assert [re.search(told or "", record.getMessage()) is not None for record in caplog.records] == [True][: bool(told)]


@pytest.mark.parametrize(
    ("mode", "meant"),
    [
        ("new-pre", "new_pre"),
        ("new_pree", "new_pre"),
        ("Wizard", "wizard"),
        ("posterframeregeneration", "posterFrameRegeneration"),
    ],
)
@pytest.mark.parametrize("chosen", [{}, {"endpoint": "own"}, {"workflow": "pose"}])
def test_a_misspelt_mode_is_refused_before_anything_is_planned_or_sent(
    mode: str, meant: str, chosen: dict[str, str]
) -> None:
    settings = load_settings(mode=mode, **chosen, **ENDPOINTS)
    with pytest.raises(SettingsError, match=f"ASYNCGEN_MODE: there is no mode '{mode}'; did you mean '{meant}'"):
        settings.endpoint_id()
    with pytest.raises(SettingsError, match=f"did you mean '{meant}'"):
        _ = ImageGenerator(settings).planner


@pytest.mark.parametrize("missing", ["server_schnell_id", "server_poster_id"])
def test_new_pre_and_poster_fall_back_to_the_150_endpoint(missing: str) -> None:
    mode = {"server_schnell_id": "new_pre", "server_poster_id": "posterFrameRegeneration"}[missing]
    given = {name: value for name, value in ENDPOINTS.items() if name != missing}
    assert load_settings(mode=mode, **given).endpoint_id() == "s150"


@pytest.mark.parametrize("mode", ["wizard", "new_pre", "posterFrameRegeneration", "anything"])
def test_the_100_endpoint_serves_every_mode_when_it_is_the_only_one(mode: str) -> None:
    assert load_settings(mode=mode, server_100_id="only").endpoint_id() == "only"


def test_the_wizard_never_takes_another_endpoint_than_100() -> None:
    given = {name: value for name, value in ENDPOINTS.items() if name != "server_100_id"}
    with pytest.raises(SettingsError, match="RUNPOD_SERVER_100_ID"):
        load_settings(**given).endpoint_id()


def test_an_endpoint_of_its_own_overrides_every_mode() -> None:
    for mode in ("wizard", "new_pre", "posterFrameRegeneration", "anything"):
        assert load_settings(mode=mode, endpoint="mine", **ENDPOINTS).endpoint_id() == "mine"


def test_without_any_endpoint_the_error_names_every_variable_that_would_do() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(mode="new_pre").endpoint_id()
    for name in ("RUNPOD_SERVER_SCHNELL_ID", "RUNPOD_SERVER_150_ID", "RUNPOD_SERVER_100_ID", "--sandbox"):
        assert name in str(caught.value)


# -- what is wrong


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SYNC_TIMEOUT", "soon"),
        ("SYNC_TIMEOUT", "0"),
        ("POLLING_INTERVAL", "-1"),
        ("POLLING_INTERVAL", "nan"),
        ("MAX_POLLING_DURATION", "inf"),
        ("MAX_POLLING_ATTEMPTS", "1.5"),
        ("ASYNCGEN_CONCURRENCY", "0"),
        ("ASYNCGEN_RATE_SHARE", "1.1"),
        ("ASYNCGEN_JOB_TTL", "9"),
        ("ASYNCGEN_EXECUTION_TIMEOUT", "604801"),
        ("ASYNCGEN_UNKNOWN", "guess"),
        ("ASYNCGEN_ON_STOP", "burn"),
        ("ASYNCGEN_ALLOW_PRIVATE_URLS", "perhaps"),
        ("RUNPOD_ENDPOINT_BASE_URL", "ftp://api.example"),
        ("RUNPOD_ENDPOINT_BASE_URL", "https:///v2"),
        ("ASYNCGEN_OUTPUT_ROOT", "~nobody-of-this-name/pictures"),
    ],
)
def test_a_wrong_value_is_refused_naming_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.field == variable
    assert str(caught.value).startswith(f"{variable}: ")
    assert text in str(caught.value)


def test_a_wrong_argument_names_the_variable_too() -> None:
    with pytest.raises(SettingsError, match=r"^ASYNCGEN_CONCURRENCY: .*'many'"):
        load_settings(concurrency="many")
    with pytest.raises(SettingsError, match=r"^ASYNCGEN_CONCURRENCY: "):
        load_settings().changed(concurrency=0)


def test_an_argument_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="no such setting: concurency"):
        load_settings(concurency=3)


def test_a_dot_env_that_is_not_text_is_refused_by_its_name() -> None:
    Path(".env").write_bytes(b"RUNPOD_API_KEY=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"^\.env: "):
        load_settings()


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_told_with_the_way_out(key: str | None) -> None:
    with pytest.raises(SettingsError, match=r"RUNPOD_API_KEY: no API key.*--sandbox"):
        load_settings(api_key=key).require_api_key()


@pytest.mark.parametrize("inside", ["\r\nX-Evil: 1", " ", "\0", "é"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(inside: str) -> None:
    with pytest.raises(SettingsError, match=r"^RUNPOD_API_KEY: ") as caught:
        load_settings(api_key=f"{KEY}{inside}{KEY}").require_api_key()
    assert KEY not in str(caught.value)


@given(key=st.text(min_size=6, max_size=40).filter(str.strip))
def test_the_key_never_shows(key: str) -> None:
    settings = load_settings(api_key=f"rpa_{key}", server_100_id="abc")
    for shown in (repr(settings), str(settings), f"{settings.model_dump()}", settings.model_dump_json()):
        assert f"rpa_{key}" not in shown
        assert repr(f"rpa_{key}")[1:-1] not in shown


def test_a_changed_copy_keeps_the_rest_and_leaves_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCGEN_CONCURRENCY", "3")
    settings = load_settings(api_key=KEY, mode="new_pre")
    monkeypatch.setenv("ASYNCGEN_CONCURRENCY", "9")
    copy = settings.changed(mode="wizard", concurrency=None)
    assert (copy.mode, copy.concurrency, copy.require_api_key()) == ("wizard", 3, KEY)
    assert settings.mode == "new_pre"


# -- documentation


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_described_and_says_its_unit(field: str) -> None:
    description = Settings.model_fields[field].description or ""
    assert description.endswith(".")
    assert len(description) > 20
    units = {"_seconds": r"\bseconds?\b", "_bytes": r"\bbytes\b", "_rate": r"per 10 s\b", "_share": r"\b0 to 1\b"}
    for ending, unit in units.items():
        if field.endswith(ending):
            assert re.search(unit, description, re.IGNORECASE), f"{field} has a unit and does not say it"


def test_every_number_carries_a_unit_or_counts_something() -> None:
    counts = {"downloads_at_once", "max_polling_attempts", "max_attempts", "lane_faults", "rerolls"}
    numbers = {name for name, info in Settings.model_fields.items() if type(info.default) in (int, float)}
    assert {n for n in numbers if not n.endswith(("_seconds", "_bytes", "_rate", "_share"))} == counts


def test_every_variable_is_a_familiar_name_or_begins_with_asyncgen() -> None:
    familiar = {variable for variable, *_ in FAMILIAR} | {"RUNPOD_API_KEY"}
    own = {variable_of(field) for field in Settings.model_fields} - familiar
    assert all(variable.startswith("ASYNCGEN_") for variable in own)
    assert len({variable_of(field) for field in Settings.model_fields}) == len(Settings.model_fields)
