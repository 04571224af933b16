"""Every setting, its environment variable, unit and default; `.env` in the working folder is read too.

The names of the system we grew out of (`RUNPOD_*`, `SYNC_TIMEOUT`, `POLLING_*`, `MAX_POLLING_*`) work unchanged; our
own begin with `ASYNCGEN_`. `docs/settings.md` is generated from the descriptions here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from asyncgen.errors import SettingsError

ENV_FILE: Final = ".env"
RUNPOD_BASE_URL: Final = "https://api.runpod.ai/v2"
_ENDPOINT_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_REENCODING: Final = re.compile(r"never|webp-lossless|jpeg:([1-9][0-9]?|100)")
DEFAULT_MODE: Final = "wizard"
DEFAULT_PATH_TEMPLATE: Final = "resources/style_images/{style}/generated_{time}_{hex8}"


def _env(name: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name), description=description, **limits)


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AUTO: Final = "auto"
#: Jobs out at the same time: a number from 1, or as many as the workers need.
Concurrency = int | Literal["auto"]


class Settings(BaseSettings):
    """The effective settings: keyword arguments win over the environment, which wins over `.env`, then the defaults.

    Build it with `load_settings`, which turns a wrong value into a `SettingsError` naming the variable.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True, str_strip_whitespace=True
    )

    def __init__(self, **values: Any) -> None:
        """Field names become variables here: by pydantic's `populate_by_name` a stray MODE or ENDPOINT would count."""
        super().__init__(**{_variable_or_same(name): value for name, value in values.items()})

    # the account and its endpoints
    api_key: SecretStr | None = _env("RUNPOD_API_KEY", None, "RunPod API key. Never printed, logged or stored.")
    server_100_id: str | None = _env("RUNPOD_SERVER_100_ID", None, "Endpoint id for mode `wizard`, the default.")
    server_150_id: str | None = _env("RUNPOD_SERVER_150_ID", None, "Endpoint id for every other mode.")
    server_schnell_id: str | None = _env("RUNPOD_SERVER_SCHNELL_ID", None, "Endpoint id for mode `new_pre`.")
    server_poster_id: str | None = _env(
        "RUNPOD_SERVER_POSTER_ID", None, "Endpoint id for mode `posterFrameRegeneration`."
    )
    endpoint_base_url: str = _env(
        "RUNPOD_ENDPOINT_BASE_URL", RUNPOD_BASE_URL, "Base URL of the queue API, as in the official SDK."
    )
    endpoint: str | None = _env("ASYNCGEN_ENDPOINT", None, "An endpoint id that overrides the mode's choice.")
    mode: str = _env(
        "ASYNCGEN_MODE", DEFAULT_MODE, "Chooses endpoint and workflow: wizard, new_pre, posterFrameRegeneration."
    )

    # where things are
    output_root: Path | None = _env(
        "ASYNCGEN_OUTPUT_ROOT",
        None,
        "Folder for images, manifest and ledger. Default `asyncgen-images`; for the sandbox `asyncgen-sandbox`.",
    )
    path_template: str = _env(
        "ASYNCGEN_PATH_TEMPLATE",
        DEFAULT_PATH_TEMPLATE,
        "Path of an image under the output root, without suffix. Fields: {style} {style_id} {style_title} {time} "
        "{date} {hex8} {hex2} {id} {seed} {batch} {width} {height}.",
    )
    ledger: Path | None = _env("ASYNCGEN_LEDGER", None, "Ledger file. Default `ledger.sqlite3` in the output root.")
    styles: Path | None = _env("ASYNCGEN_STYLES", None, "Styles registry file. Default: yours, else the shipped one.")
    workflow: str | None = _env(
        "ASYNCGEN_WORKFLOW", None, "Workflow name, or path to a graph file, instead of the mode's."
    )

    # how hard to work
    concurrency: Concurrency = _env(
        "ASYNCGEN_CONCURRENCY",
        AUTO,
        "Jobs out at the same time, queued ones included: a number, or `auto`, which keeps every worker busy.",
    )
    keep_order: bool = _env(
        "ASYNCGEN_KEEP_ORDER",
        False,
        "Start images in the order of the input, instead of grouped by model and LoRAs so that workers load less.",
    )
    downloads_at_once: Count = _env(
        "ASYNCGEN_DOWNLOADS_AT_ONCE",
        8,
        "Results in memory at the same time, from asking for them until they are on disk. Each takes about 6 MB; more "
        "of them pay where the network is fast and far.",
    )
    rate_share: Annotated[float, Field(gt=0, le=1)] = _env(
        "ASYNCGEN_RATE_SHARE", 0.8, "Our share of the platform's rate limits, 0 to 1."
    )
    run_rate: Count = _env("ASYNCGEN_RUN_RATE", 1000, "The platform's limit on /run, requests per 10 s.")
    status_rate: Count = _env("ASYNCGEN_STATUS_RATE", 2000, "The platform's limit on /status, requests per 10 s.")
    cancel_rate: Count = _env("ASYNCGEN_CANCEL_RATE", 100, "The platform's limit on /cancel, requests per 10 s.")

    # how long to wait
    polling_interval_seconds: Seconds = _env(
        "POLLING_INTERVAL",
        1.0,
        "The shortest pause, in seconds, before a job's first and between two of its status calls.",
    )
    polling_interval_max_seconds: Seconds = _env(
        "ASYNCGEN_POLLING_INTERVAL_MAX",
        5.0,
        "The longest pause, in seconds, between two status calls for a job whose end cannot be foretold.",
    )
    status_sync: bool = _env(
        "ASYNCGEN_STATUS_SYNC",
        True,
        "With at most four jobs out, let the endpoint hold status calls until a job ends, where it offers that.",
    )
    max_polling_duration_seconds: Seconds = _env(
        "MAX_POLLING_DURATION",
        180.0,
        "Seconds of polling after which a job counts as slow: it is warned of (every five minutes at most) and polled "
        "a third as often. It is never abandoned.",
    )
    max_polling_attempts: Count = _env(
        "MAX_POLLING_ATTEMPTS", 120, "Status calls after which a job counts as slow, as above. It is never abandoned."
    )
    sync_timeout_seconds: Seconds = _env(
        "SYNC_TIMEOUT", 700.0, "Seconds that one /runsync job may take in all: waits of at most 300 s, then polling."
    )
    request_timeout_seconds: Seconds = _env(
        "ASYNCGEN_REQUEST_TIMEOUT", 60.0, "Seconds that one HTTP request may take, its reply included."
    )
    unreachable_seconds: Seconds = _env(
        "ASYNCGEN_UNREACHABLE_AFTER",
        300.0,
        "Seconds without any answer from the endpoint after which the run stops, with everything unfinished pending.",
    )
    job_ttl_seconds: Annotated[float, Field(ge=10, le=604_800)] = _env(
        "ASYNCGEN_JOB_TTL",
        86_400.0,
        "Seconds a job may exist at the platform, queueing included (10 s to 7 days); more is sent where the queue "
        "ahead of it may need more.",
    )
    execution_timeout_seconds: Annotated[float, Field(ge=5, le=604_800)] = _env(
        "ASYNCGEN_EXECUTION_TIMEOUT",
        600.0,
        "Seconds a worker may spend on one job (5 s to 7 days); with a budget less is sent once times are known.",
    )

    result_limit_bytes: Annotated[int, Field(ge=1024)] = _env(
        "ASYNCGEN_RESULT_LIMIT",
        10 * 1024 * 1024,
        "Bytes of one job's result, base64 included, past which the platform drops it: jobs that are predicted to pass "
        "it are refused. Raise it where workers answer with URLs.",
    )

    # input pictures
    resize_inputs: Literal["never", "crop", "stretch"] = _env(
        "ASYNCGEN_RESIZE_INPUTS",
        "never",
        "Whether input pictures are brought to the wanted size before they are sent: never, crop (the middle is kept) "
        "or stretch. Masks go with their picture.",
    )
    reencode_inputs: str = _env(
        "ASYNCGEN_REENCODE_INPUTS",
        "never",
        "How input pictures may be re-encoded where a job would pass the platform's 10 MiB: never, webp-lossless, or "
        "jpeg:QUALITY such as jpeg:90. Masks, and pictures with transparent parts, stay lossless.",
    )

    # what it may cost
    budget_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = _env(
        "ASYNCGEN_BUDGET_USD",
        None,
        "US dollars that the execution of a batch's jobs may cost in all, over all its runs. Needs a price. Cold "
        "starts and idle workers are not in it.",
    )
    usd_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = _env(
        "ASYNCGEN_USD_PER_SECOND", None, "Price of one worker, US dollars a second."
    )
    gpu: str | None = _env("ASYNCGEN_GPU", None, "The endpoint's GPU: its price is looked up in the shipped table.")
    management_url: str = _env(
        "ASYNCGEN_MANAGEMENT_URL",
        "https://api.runpod.io/v2",
        "Base URL of the management API, which is asked for the price where none is given and the key allows it.",
    )

    # what to do when it goes wrong
    max_attempts: Count = _env(
        "ASYNCGEN_MAX_ATTEMPTS", 3, "How often one image may be bought when the platform fails or loses it."
    )
    check: Literal["strict", "standard", "warn", "off"] = _env(
        "ASYNCGEN_CHECK",
        "standard",
        "What fails of whole pictures: `standard` blank ones, and those that another seed of the prompt has made; near "
        "ones are told. `strict` fails near ones too, `warn` only tells, `off` does not look.",
    )
    rerolls: Annotated[int, Field(ge=0)] = _env(
        "ASYNCGEN_REROLLS", 0, "How often an image whose picture was rejected is bought again, with another seed."
    )
    lane_faults: Count = _env(
        "ASYNCGEN_LANE_FAULTS",
        20,
        "So many jobs in a row with the same fault stop their style, LoRA set, workflow or endpoint for the run.",
    )
    lane_fault_share: Annotated[float, Field(gt=0, le=1)] = _env(
        "ASYNCGEN_LANE_FAULT_SHARE",
        0.5,
        "So large a share, 0 to 1, of a lane's last 50 jobs with the same fault stops it as well.",
    )
    unknown: Literal["hold", "resubmit"] = _env(
        "ASYNCGEN_UNKNOWN",
        "hold",
        "A submission whose outcome was never learned is held and reported, or resubmitted (it may be paid twice).",
    )
    on_stop: Literal["collect", "cancel"] = _env(
        "ASYNCGEN_ON_STOP", "collect", "On Ctrl-C, collect the jobs that are out, or cancel them."
    )
    metadata: Literal["full", "basic", "none"] = _env(
        "ASYNCGEN_METADATA",
        "full",
        "What a picture's file says of how it was made: everything (`full`); that an AI made it, with request id and "
        "seed (`basic`); or nothing (`none`: the worker's bytes as they came).",
    )
    allow_private_urls: bool = _env(
        "ASYNCGEN_ALLOW_PRIVATE_URLS",
        False,
        "Let URLs of results and of input pictures point to http, loopback or private addresses.",
    )
    max_result_bytes: Annotated[int, Field(ge=1024)] = _env(
        "ASYNCGEN_MAX_RESULT_BYTES",
        64 * 1024 * 1024,
        "Bytes of one downloaded picture at the most, and of one input picture.",
    )

    @field_validator("concurrency", mode="before")
    @classmethod
    def _concurrency_is_a_count(cls, value: object) -> object:
        text = str(value).strip().lower()
        if text == AUTO or (text.isascii() and text.isdigit() and int(text) >= 1):
            return text if text == AUTO else int(text)
        raise ValueError("must be a whole number from 1, or auto")

    @field_validator("reencode_inputs")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        if not _REENCODING.fullmatch(value):
            raise ValueError("must be never, webp-lossless, or jpeg:QUALITY with a quality of 1 to 100")
        return value

    @field_validator("endpoint_base_url", "management_url")
    @classmethod
    def _base_url_is_http(cls, value: str) -> str:
        if not value.startswith(("https://", "http://")) or not urlsplit(value).hostname:
            raise ValueError("must be a URL that starts with https:// (or http:// for a local endpoint)")
        return value.rstrip("/")

    @field_validator("output_root", "ledger", "styles")
    @classmethod
    def _home_is_meant(cls, value: Path | None) -> Path | None:
        """No shell has looked at what stands in `.env`."""
        try:
            return None if value is None else value.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @field_validator("endpoint", "server_100_id", "server_150_id", "server_schnell_id", "server_poster_id")
    @classmethod
    def _endpoint_is_an_id(cls, value: str | None) -> str | None:
        if value is not None and not _ENDPOINT_ID.fullmatch(value):
            raise ValueError("must be an endpoint's id, such as abc123def456, not its URL")
        return value

    def endpoint_id(self) -> str:
        """The endpoint to send to: `endpoint` if given, else the mode's; the 100 endpoint serves where no other is set.

        Raises `SettingsError` naming the variables that would have answered, and for a misspelt mode.
        """
        self.check_mode()
        if self.endpoint:
            return self.endpoint
        candidates = _MODE_ENDPOINTS.get(self.mode, _OTHER_MODES)
        for name in (*candidates, "server_100_id"):
            if value := getattr(self, name):
                return str(value)
        names = " or ".join(dict.fromkeys(variable_of(name) for name in (*candidates, "server_100_id")))
        raise SettingsError(
            f"no endpoint is set for mode {self.mode!r}: set {names} (in the environment or .env), pass --endpoint ID, "
            "or try it without an account with --sandbox",
            field=variable_of(candidates[0]),
        )

    def workflow_name(self) -> str:
        """The workflow where a request names none: `workflow` if given, else the mode's, else V4."""
        return self.workflow or _MODE_WORKFLOWS.get(self.mode, _MODE_WORKFLOWS[DEFAULT_MODE])

    @property
    def unknown_mode(self) -> str | None:
        """Words about a mode that resembles none there is, where it chooses anything; None: there is nothing to say."""
        if self._knows_mode or self._near_mode is not None:
            return None
        stands_for = f"{variable_of(_OTHER_MODES[0])} and V4"
        return f"there is no mode {self.mode!r}, which stands for {stands_for}; there are: {', '.join(_MODE_ENDPOINTS)}"

    def check_mode(self) -> None:
        """Raises `SettingsError` for a mode that is nearly a known one, where it chooses anything: it is misspelt."""
        if not self._knows_mode and self._near_mode is not None:
            message = f"there is no mode {self.mode!r}; did you mean {self._near_mode!r}? mend --mode or the variable"
            raise SettingsError(message, field=variable_of("mode"))

    @property
    def _knows_mode(self) -> bool:
        return self.mode in _MODE_ENDPOINTS or bool(self.endpoint and self.workflow)

    @property
    def _near_mode(self) -> str | None:
        known = {name.lower(): name for name in _MODE_ENDPOINTS}
        return next((known[name] for name in get_close_matches(self.mode.lower(), known, n=1)), None)

    def require_api_key(self) -> str:
        """The key's text. Raises `SettingsError` when there is none, or it could not be sent as a header."""
        key = "" if self.api_key is None else self.api_key.get_secret_value().strip()
        if not key:
            raise SettingsError(
                "no API key: set it in the environment or .env, or try asyncgen without an account with --sandbox",
                field="RUNPOD_API_KEY",
            )
        if not _KEY_CHARACTERS.fullmatch(key):
            raise SettingsError(
                "holds a character that no key has: copy it from the console again", field="RUNPOD_API_KEY"
            )
        return key

    def changed(self, **overrides: Any) -> Self:
        """A copy with some settings replaced; None leaves a setting as it is. Raises `SettingsError`."""
        given = {name: value for name, value in overrides.items() if value is not None}
        current = {name: getattr(self, name) for name in type(self).model_fields}
        return _validated(type(self), {**current, **given})


_MODE_ENDPOINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "wizard": ("server_100_id",),
    "new_pre": ("server_schnell_id", "server_150_id"),
    "posterFrameRegeneration": ("server_poster_id", "server_150_id"),
}
_OTHER_MODES: Final = ("server_150_id",)
#: What the endpoint of a mode has the models for.
_MODE_WORKFLOWS: Final[Mapping[str, str]] = {
    "wizard": "normal_image_v4_workflow",
    "new_pre": "schnell",
    "posterFrameRegeneration": "poster_frame",
}
#: The options that may have said a value which is refused here.
_OPTIONS: Final = {
    "ASYNCGEN_BUDGET_USD": "--budget",
    "ASYNCGEN_USD_PER_SECOND": "--usd-per-second",
    "ASYNCGEN_CONCURRENCY": "--concurrency",
    "ASYNCGEN_ENDPOINT": "--endpoint",
    "ASYNCGEN_OUTPUT_ROOT": "--out",
    "ASYNCGEN_RESIZE_INPUTS": "--resize-inputs",
    "ASYNCGEN_REENCODE_INPUTS": "--reencode-inputs",
}
_KEY_CHARACTERS: Final = re.compile(r"[!-~]+")
S = TypeVar("S", bound=Settings)


def variable_of(field_name: str) -> str:
    """The environment variable of a setting."""
    alias = Settings.model_fields[field_name].validation_alias
    assert isinstance(alias, AliasChoices)
    return str(alias.choices[0])


def load_settings(**overrides: Any) -> Settings:
    """The settings from arguments, environment, `.env` and defaults; an override of None counts as not given.

    Raises `SettingsError` naming the variable and the value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    if unknown := given.keys() - Settings.model_fields.keys():
        raise SettingsError(f"there is no such setting: {', '.join(sorted(unknown))} (see docs/settings.md)")
    return _validated(Settings, given)


def source_of(field_name: str, overrides: Mapping[str, Any]) -> str:
    """Where a setting's value comes from: `option`, `environment`, `.env` or `default`."""
    variable = variable_of(field_name)
    if overrides.get(field_name) is not None:
        return "option"
    if _sets(os.environ, variable):
        return "environment"
    return ENV_FILE if _sets(dotenv_values(ENV_FILE), variable) else "default"


def user_folder() -> Path:
    """Where a user's own styles and workflows are kept: `ASYNCGEN_USER_FOLDER`, else the platform's data folder."""
    if given := os.environ.get("ASYNCGEN_USER_FOLDER"):
        return Path(given).expanduser()
    from platformdirs import user_data_path  # noqa: PLC0415 - not needed by a run that names its files

    return user_data_path("asyncgen")


def state_folder() -> Path:
    """Where runs of one user tell each other that they are there: `ASYNCGEN_STATE_FOLDER`, else the platform's."""
    if given := os.environ.get("ASYNCGEN_STATE_FOLDER"):
        return Path(given).expanduser()
    from platformdirs import user_state_path  # noqa: PLC0415 - only a run needs it

    return user_state_path("asyncgen")


def _sets(variables: Mapping[str, str | None], variable: str) -> bool:
    """As pydantic-settings looks: in any case, and what is empty is not set."""
    return any(value for name, value in variables.items() if name.upper() == variable)


def _variable_or_same(name: str) -> str:
    return variable_of(name) if name in Settings.model_fields else name


def _validated(cls: type[S], values: dict[str, Any]) -> S:
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        given = "" if variable == variable_of("api_key") else f" (got {str(first['input'])[:80]!r})"
        option = _OPTIONS.get(variable)
        cure = "see docs/settings.md" if option is None else f"mend {option} or the variable"
        raise SettingsError(f"{message}{given}; {cure}", field=variable) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read ({error}): save it as UTF-8 text", field=ENV_FILE) from None
