"""The environment and the command line → one frozen `Settings`. The only room that reads environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

MIB = 1 << 20
MOST_WORKERS = 1024
DAY_MS = 86_400_000
Amount = Annotated[int, Field(gt=0, le=1 << 53)]  # as good as no limit, and still a number that all arithmetic takes
Wait = Annotated[int, Field(ge=0, le=DAY_MS)]
PREFIX = "CONVOY_"
ELSEWHERE = re.compile("CONVOY_(CPUS|DATA|MEMORY|STOP_GRACE|TEST_.+)")  # of the compose file, training and the tests
VALUE = r"""('([^'\\]|\\.)*'|"([^"\\]|\\.)*"|[^\s'"#].*)?"""
LINE = re.compile(rf"\s*((export\s+)?[^\s=#]+\s*=\s*{VALUE}\s*)?(#.*)?")  # of a settings file
ORIGIN = re.compile(r"\*|https?://[^/\s,*?#@A-Z]+")  # as browsers say it (RFC 6454), or all of them
LINKS = re.compile("CONVOY_(PORT|SERVICE)_.*")  # what Kubernetes and Docker set for a service called convoy


class Settings(BaseSettings):
    """Each field is `CONVOY_<NAME>` in the environment and `--<name>` on `convoy serve`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",  # the environment is full of other things; `load` and `unknown_variables` look for slips
        ser_json_inf_nan="constants",  # workers get them as JSON, and hours may well be infinite
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    grpc_port: Annotated[
        int | None, Field(ge=0, le=65535), BeforeValidator(lambda given: None if given == "" else given)
    ] = Field(
        None, description="port of the Open Inference Protocol over gRPC; 0 takes a free one, without it there is none"
    )
    models_dir: Path = Field(Path("models"), description="the model repository: <name>/<version>/ folders")
    default_model: str = Field("cifar10", description="the model of requests that name none")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="execution provider: `auto` prefers CUDA and says what it took"
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto",
        description="which file of a model to run; `auto` takes fp16 on a GPU, int8 on a CPU with dot products of "
        "8-bit integers, else fp32",
    )
    workers: int = Field(
        0, ge=0, le=MOST_WORKERS, description="worker processes; 0 takes one per core on the CPU, or one per GPU"
    )
    threads: int = Field(
        0, ge=0, le=1024, description="threads per inference on the CPU; 0 shares the cores out among the workers"
    )
    api_keys_file: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = Field(
        None, description="a file with one key per line, one of which clients must send; without it anybody may ask"
    )
    admin_keys_file: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = Field(
        None, description="the same for the right to load, activate and unload models; without it nobody has it"
    )
    cors_origins: Annotated[str | None, BeforeValidator(lambda given: given or None)] = Field(
        None,
        description="origins of pages elsewhere whose scripts may ask and read the answers, with commas between: "
        "`https://shop.example`; `*` allows all",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="`auto` is text in a terminal and JSON lines elsewhere"
    )

    log_requests: Literal["all", "failed"] = Field(
        "failed", description="which requests have a line in the log; `failed` leaves out refusals (503, 504) too"
    )

    max_body_bytes: Amount = Field(64 * MIB, description="largest request body")
    max_images_per_request: Amount = Field(1024, description="most images in one request")
    max_image_bytes: Amount = Field(20 * MIB, description="largest encoded image")
    max_image_pixels: Amount = Field(
        40_000_000, description="largest image in pixels, read from its header before decoding"
    )
    max_batch_size: int = Field(
        0,
        ge=0,
        le=4096,
        description="most images in one inference; 0 takes the size with the most images per second, measured",
    )
    max_queue_delay_ms: float = Field(
        0, ge=0, le=DAY_MS, description="how long a batch may wait to fill while the engine is free"
    )
    queue_capacity: Amount = Field(4096, description="images that may wait; beyond that requests get 503")
    queue_bytes: Amount = Field(
        256 * MIB,
        description="most bytes of pixels that these images may have together; large bodies of requests under way may "
        "have as many besides",
    )
    client_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="part of the queue's images that one client may have under way in each worker: whoever sends the "
        "same key or, without keys, comes from the same address; 1 leaves it all to whoever comes first",
    )
    request_timeout_ms: int = Field(
        30_000, gt=0, le=DAY_MS, description="deadline of requests that set none, and the longest they may set"
    )
    jobs_dir: Path = Field(Path("jobs"), description="where batches are kept; made when the first one comes")
    max_batch_upload_bytes: Amount = Field(2048 * MIB, description="largest body of a batch")
    max_batch_images: Amount = Field(10_000_000, description="most images in one batch")
    jobs_max_bytes: Amount = Field(
        20480 * MIB,
        description="what all batches may take; the oldest finished ones go first, after an hour",
    )
    jobs_keep_hours: float = Field(168, gt=0, description="how long a finished batch is kept")
    lame_duck_ms: Wait = Field(
        0, description="how long SIGTERM leaves the service unready but answering, for balancers to notice"
    )
    drain_timeout_ms: Wait = Field(30_000, description="how long SIGTERM lets requests finish")
    keep_alive_ms: int = Field(
        65_000, ge=1000, le=DAY_MS, description="how long an idle connection stays open; whole seconds count"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, given: object) -> object:
        try:
            text = str(given).encode()
        except UnicodeEncodeError as exc:  # Python keeps other bytes of the environment; JSON and ONNX Runtime can't
            raise ValueError("This is no UTF-8 text; choose a name that is") from exc
        if 0 in text:  # only a file may have one
            raise ValueError("There is a NUL in it; take it out")
        return given

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, given: str | None) -> str | None:
        for origin in given.split(",") if given else ():
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; write it as browsers do, like https://shop.example")
        return given

    @model_validator(mode="after")
    def _a_full_request_fits_the_queue(self) -> Self:
        if self.max_images_per_request > self.client_images:
            raise ValueError(
                "--max-images-per-request must not exceed --queue-capacity, or --client-share of it, or such requests "
                "could never run."
            )
        return self

    @property
    def origins(self) -> list[str]:
        """Those of `cors_origins`."""
        return self.cors_origins.split(",") if self.cors_origins else []

    @property
    def client_images(self) -> int:
        """The most images that one client may have under way."""
        return int(self.queue_capacity * self.client_share)


def metavar(name: str) -> str | None:
    """What a setting's help says after its flag: its values where they can be listed, else None for argparse's own."""
    annotation = Settings.model_fields[name].annotation
    return f"{{{','.join(get_args(annotation))}}}" if get_origin(annotation) is Literal else None


def unknown(names: Iterable[str]) -> list[str]:
    """Those that look like settings and mean nothing to this project, each with the setting that may be meant."""
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    return [
        _with_suggestion(name)
        for name in names
        if name.upper().startswith(PREFIX) and name.upper() not in settings and not ELSEWHERE.fullmatch(name.upper())
    ]


def _with_suggestion(name: str) -> str:
    """A name that is no setting, and the nearest that is."""
    nearest = get_close_matches(name.upper(), [PREFIX + setting.upper() for setting in Settings.model_fields], 1, 0.8)
    return f"{name} (is {nearest[0]} meant?)" if nearest else name


def unknown_variables() -> list[str]:
    """The same of the environment, where others may have put names of their own."""
    variables = EnvSettingsSource(Settings, case_sensitive=True).env_vars
    return unknown(name for name in sorted(variables) if not LINKS.fullmatch(name))


def load(given: dict[str, str], file: Path | None = None) -> Settings:
    """The settings: `given` on the command line, before the environment, before `file` with its NAME=VALUE lines.

    Raises `ValueError` (one sentence) where they make no sense.
    """
    if slips := [_with_suggestion(PREFIX + name) for name in given if name not in Settings.model_fields]:
        raise ValueError(f"There is no setting {', '.join(slips)}; mend it or leave it out.")
    if file and not file.is_file():
        raise ValueError(f"There is no settings file {file}.")
    if file and not os.access(file, os.R_OK):
        raise ValueError(f"The settings file {file} can't be read; change who may.")
    if file:
        _check_lines(file)
    try:
        return Settings(**given, _env_file=file)  # type: ignore[arg-type]  # pydantic parses the text
    except ValidationError as exc:
        first = exc.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # between two settings
            raise ValueError(said) from exc
        name = str(first["loc"][0])
        raise ValueError(f"--{name.replace('_', '-')} (or CONVOY_{name.upper()}): {said}.") from exc


def _check_lines(file: Path) -> None:
    """Raise `ValueError` where a line would be passed over, or sets what is no setting."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise ValueError(f"The settings file {file} is no UTF-8 text; write NAME=VALUE lines.") from exc
    for number, line in enumerate(lines, 1):
        if not LINE.fullmatch(line):
            raise ValueError(f"Line {number} of {file} is not understood; write NAME=VALUE, or take it out.")
    if slips := unknown(DotEnvSettingsSource(Settings, file, case_sensitive=True).env_vars):
        raise ValueError(f"{file} sets what is no setting, {', '.join(slips)}; mend it or take it out.")
