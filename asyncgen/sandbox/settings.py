"""Every knob of the sandbox, each with its unit and default; the defaults are what RunPod documents where it does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from asyncgen.sandbox.books import Terms
from asyncgen.sandbox.faults import FaultRule
from asyncgen.sandbox.workers import parse_execution


class SandboxSettings(BaseModel):
    """How one sandbox behaves. Times are seconds and sizes are bytes unless the name says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(0, ge=0, le=65535, description="Port; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        None, description="The only key that is accepted; None accepts any that is not empty."
    )
    endpoints: tuple[str, ...] = Field((), description="Endpoint ids that exist; empty: every id does.")
    load_balancing: tuple[str, ...] = Field((), description="Endpoints that refuse queue operations as RunPod's do.")
    zero_workers: tuple[str, ...] = Field((), description="Endpoints whose max workers is 0: jobs wait for ever.")
    throttled: tuple[str, ...] = Field((), description="Endpoints whose workers are all throttled: jobs wait for ever.")
    workers: int = Field(8, ge=1, description="Simulated workers of each endpoint at most.")
    execution: str = Field("4.7±10%", description="Execution time: 4.7±10%, fixed:4.7 or lognormal:MEDIAN,SIGMA.")
    cold_start_seconds: float = Field(5.0, ge=0, description="How long a sleeping worker takes to start.")
    idle_timeout_seconds: float = Field(5.0, ge=0, description="How long a worker without a job stays awake.")
    speed: float = Field(
        1.0, gt=0, description="Divides cold start, execution, its timeout and idle time; nothing else."
    )
    real_workers: bool = Field(False, description="Jobs wait for workers that take them over HTTP; none are simulated.")
    take_wait_seconds: float = Field(20.0, gt=0, description="How long job-take and job-stop are held open.")
    worker_lost_seconds: float = Field(60.0, gt=0, description="Silence after which a real worker loses its jobs.")
    rate_limit_scale: float = Field(1.0, ge=0, description="Multiplies the documented rate limits; 0: no limits.")
    retry_after_seconds: float | None = Field(None, ge=0, description="Retry-After sent with 429; None sends none.")
    retention_seconds: float = Field(1800.0, gt=0, description="How long the result of /run is kept.")
    sync_retention_seconds: float = Field(60.0, gt=0, description="How long the result of /runsync is kept.")
    result_limit_bytes: int = Field(
        10 * 1024 * 1024, gt=0, description="A bigger output is dropped: COMPLETED without it."
    )
    webhook_retry_seconds: float = Field(10.0, ge=0, description="Pause between the three tries of a webhook.")
    pictures: Literal["painted", "stamped"] = Field(
        "painted", description="stamped: one base per size, marked per job."
    )
    picture_bytes: int | None = Field(None, gt=0, description="Pad stamped pictures to this size.")
    result_keep_seconds: float = Field(60.0, ge=0, description="How long a result stays in memory after it was used.")
    result_memory_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="Memory for painted results; older are dropped."
    )
    paint_wait_seconds: float = Field(2.0, gt=0, description="A poll waits so long for a picture, then IN_PROGRESS.")
    painters: int = Field(min(4, os.cpu_count() or 1), ge=1, description="Threads that paint.")
    models_file: Path | None = Field(None, description="JSON of model files per loader; None: not checked.")
    faults_file: Path | None = Field(None, description="JSON list of fault rules.")
    faults: tuple[FaultRule, ...] = Field((), description="Fault rules, after those of the file.")
    seed: int = Field(0, description="Decides execution times and the draws of faults.")

    @field_validator("execution")
    @classmethod
    def _execution_can_be_read(cls, value: str) -> str:
        parse_execution(value)
        return value

    def terms(self) -> Terms:
        """The part of the settings that the books need."""
        return Terms(
            workers=self.workers,
            cold_start_seconds=self.cold_start_seconds,
            idle_timeout_seconds=self.idle_timeout_seconds,
            speed=self.speed,
            retention_seconds=self.retention_seconds,
            sync_retention_seconds=self.sync_retention_seconds,
            real_workers=self.real_workers,
            worker_lost_seconds=self.worker_lost_seconds,
            stalled=frozenset(self.zero_workers + self.throttled),
        )
