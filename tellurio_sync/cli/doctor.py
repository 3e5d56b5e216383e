"""``doctor``: what is wrong between this program and the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .terminal import FAILED, NO_KEY, UNREACHABLE, show_json

if TYPE_CHECKING:
    from .stages import Stage

_SIGNS = {"ok": "ok", "failed": "FAILED", "skipped": "-"}
_CODES = {"configuration": FAILED, "local backend": FAILED, "key": NO_KEY, "language model": FAILED}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.option("--lm-model", metavar="MODEL", help="Also ask this language model one question, which may cost money.")
@click.option("--lm-base-url", metavar="URL", help="Its endpoint (default: OPENAI_BASE_URL, else OpenAI's).")
@click.option("--lm-timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="S")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Examine a local backend on this folder (default: the server of the environment).",
)
def doctor(
    as_json: bool, lm_model: str | None, lm_base_url: str | None, lm_timeout: float, data_dir: Path | None
) -> int:
    """Find out what is wrong between this machine and the server.

    Each stage is tried by itself: configuration, DNS, proxy, TCP, TLS, REST, key, handshake, greeting, round trip.
    Exit code 0: all is well; else that of the first stage that failed.
    """
    found = []
    for stage in _stages(lm_model, lm_base_url, lm_timeout, data_dir):
        found.append(stage)
        if not as_json:
            click.echo(f"{_SIGNS[stage.outcome]:<7} {stage.name:<14} {stage.text}")
            if stage.hint:
                click.echo(f"{'':<22} -> {stage.hint}")
    if as_json:
        show_json([dataclasses.asdict(stage) for stage in found])
    failed = [stage.name for stage in found if stage.outcome == "failed"]
    return _CODES.get(failed[0], UNREACHABLE) if failed else 0


def _stages(model: str | None, base_url: str | None, timeout: float, data_dir: Path | None) -> Iterator[Stage]:
    from ..secret import Secret
    from .stages import OK, Examination, LanguageModel, run_stage

    examination = Examination()
    if data_dir is None:
        yield from examination.stages()
    else:
        from ..local import default_local_backend

        stage = run_stage("local backend", lambda: repr(default_local_backend(data_dir=data_dir)))
        yield stage
        if stage.outcome == OK:
            backend = default_local_backend(data_dir=data_dir)
            yield from Examination(
                (backend.http_base_url, backend.http_port),
                (backend.ws_base_url, backend.ws_port),
                Secret(backend.api_key),
            ).stages()
    if model is not None:
        yield LanguageModel(model, base_url, timeout).stage()
