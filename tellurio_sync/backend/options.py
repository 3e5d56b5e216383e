"""The options of the backend process.  No other library is needed: read before anything else is imported."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

from ..addresses import path_prefix

DEFAULT_HEARTBEAT_INTERVAL = 5.0

DEFAULT_SESSION_GRACE = 600.0


ANY_NAMESPACE = "*"


@dataclass(frozen=True)
class BackendOptions:
    """How one backend is set up.

    Attributes:
        host: address to bind to. Anything but a loopback address opens the backend to the network.
        port: 0 to 65535; 0 takes any free port.
        tls_cert: file with the certificate and its chain, as PEM, so that all connections are encrypted; None: none is.
        tls_key: file with its private key; None: it is in ``tls_cert``.
        allow_hosts: names by which browsers may reach it, besides those of this machine: of a reverse proxy, say.
            Empty: only those of this machine, if ``host`` is a loopback address, else any, as on a JupyterHub. ``*``:
            any.
        path_prefix: the path under which a reverse proxy serves it, for one that passes on whole paths, such as
            ``/tellurio``; without it everything is served, too. Empty: there is none, or the proxy takes it away.
        data_dir: where projects, runs and metrics are kept; None: a temporary directory, removed at exit.
        api_key: the key that clients must send; None: a new random one.
        username: the user of this backend.
        email: the address of that user; empty: ``username@localhost``.
        namespaces: the namespaces that exist, the user's own first; empty: one with the user's name. With ``*`` among
            them every namespace exists.
        lm_base_url: address of the OpenAI-compatible endpoint for models that name none; None: ``OPENAI_BASE_URL``,
            else OpenAI itself.
        lm_api_key: key for models that have none; None: ``OPENAI_API_KEY``.
        lm_cache: keep the answers of models on disk, beside the other data, for all models that do not say otherwise.
        lm_max_concurrency: questions to endpoints at a time, of all models; None: each model has a limit of its own.
        lm_requests_per_minute: requests to endpoints, of all models; None: any number.
        heartbeat_interval: seconds, > 0, between two heartbeats of a running request.
        session_grace: seconds, >= 0, for which the objects of a client are kept after its last connection has ended.
        questions_mb: how much is kept of questions to language models for the pages, in MiB; 0: none.
        questions_days: for how many days, > 0.
        opened_file: receives one JSON object once the data and the port are open, which is before the backend serves:
            what comes until then waits. That it serves is then said on standard error. None: none is written.
        ready_file: receives the same object once the backend serves; None: none is written.
        exit_with_stdin: stop when standard input reaches its end, that is, when the parent is gone.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    data_dir: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    username: str = "local"
    email: str = ""
    namespaces: tuple[str, ...] = ()
    lm_base_url: str | None = None
    lm_api_key: str | None = field(default=None, repr=False)
    lm_cache: bool = False
    lm_max_concurrency: int | None = None
    lm_requests_per_minute: float | None = None
    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    questions_mb: float = 256.0
    questions_days: float = 90.0
    session_grace: float = DEFAULT_SESSION_GRACE
    opened_file: Path | None = None
    ready_file: Path | None = None
    exit_with_stdin: bool = False
    path_prefix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path_prefix", path_prefix(self.path_prefix))
        if not self.email:
            object.__setattr__(self, "email", f"{self.username}@localhost")
        if not self.namespaces:
            object.__setattr__(self, "namespaces", (self.username,))

    def has_namespace(self, name: str) -> bool:
        """Whether this namespace exists."""
        return name in self.namespaces or ANY_NAMESPACE in self.namespaces

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> BackendOptions:
        """The options parsed by a parser that went through :func:`add_arguments`."""
        names = [name.strip() for text in args.namespace or [] for name in text.split(",")]
        return cls(
            host=args.host,
            port=args.port,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            allow_hosts=tuple(args.allow_host or ()),
            path_prefix=args.path_prefix,
            data_dir=args.data_dir,
            api_key=args.api_key or args.api_key_file,
            username=args.username,
            email=args.email,
            namespaces=tuple(name for name in names if name),
            lm_base_url=args.lm_base_url,
            lm_api_key=args.lm_api_key or args.lm_api_key_file,
            lm_cache=args.lm_cache,
            lm_max_concurrency=args.lm_max_concurrency,
            lm_requests_per_minute=args.lm_requests_per_minute,
            heartbeat_interval=args.heartbeat_interval,
            questions_mb=args.questions_mb,
            questions_days=args.questions_days,
            session_grace=args.session_grace,
            opened_file=args.opened_file,
            ready_file=args.ready_file,
            exit_with_stdin=args.exit_with_stdin,
        )


def arguments_parser(program: str) -> argparse.ArgumentParser:
    """What reads the backend's options, also from files."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Run a local backend until it is interrupted. @FILE reads arguments from a file, one per line.",
        fromfile_prefix_chars="@",
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the backend's options to ``parser``."""
    defaults = BackendOptions()
    add = parser.add_argument
    add("--host", default=defaults.host, help="address to bind to (default: %(default)s)")
    add("--port", type=_port, default=0, metavar="N", help="port; 0 takes any free one (default)")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate and its chain (PEM): encrypt all connections")
    add("--tls-key", type=Path, metavar="FILE", help="its private key (default: in the same file)")
    add(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name by which browsers may reach it, of a reverse proxy, say; * for any; may be repeated",
    )
    add(
        "--path-prefix",
        type=_path,
        default="",
        metavar="/PATH",
        help="where a reverse proxy serves it that passes on whole paths; none is needed if it takes the prefix away",
    )
    add("--data-dir", type=Path, metavar="DIR", help="where projects, runs and metrics are kept (default: temporary)")
    add("--api-key", type=_text, metavar="KEY", help="key that clients must send (default: a new random one)")
    add("--api-key-file", type=_key_in, metavar="FILE", help="the same, from a file: not in the list of processes")
    add("--username", type=_text, default=defaults.username, help="whose backend this is (default: %(default)s)")
    add("--email", default="", help="e-mail address of that user (default: USERNAME@localhost)")
    add(
        "--namespace",
        action="append",
        metavar="NAME",
        help="a namespace that exists, * for any; may be repeated or a comma list (default: the user's name)",
    )
    add("--lm-base-url", metavar="URL", help="OpenAI-compatible endpoint for models that name none")
    add(
        "--lm-api-key", metavar="KEY", help="key for that endpoint, where a model brings none (default: OPENAI_API_KEY)"
    )
    add("--lm-api-key-file", type=_key_in, metavar="FILE", help="the same, from a file")
    add("--lm-cache", action="store_true", help="keep answers in the data directory, and ask no question twice")
    add("--lm-max-concurrency", type=_count, metavar="N", help="questions to endpoints at a time, of all models")
    add("--lm-requests-per-minute", type=_seconds, metavar="N", help="questions to endpoints a minute, of all models")
    add(
        "--heartbeat-interval",
        type=_seconds,
        default=defaults.heartbeat_interval,
        metavar="S",
        help="seconds between heartbeats of a running request (default: %(default)s)",
    )
    add(
        "--session-grace",
        type=_seconds,
        default=defaults.session_grace,
        metavar="S",
        help="seconds for which a client that has left finds its objects again (default: %(default)s)",
    )
    add(
        "--questions-mb",
        type=_size,
        default=defaults.questions_mb,
        metavar="MB",
        help="how much is kept of questions to language models for the page; 0 keeps none (default: %(default)g)",
    )
    add(
        "--questions-days",
        type=_seconds,
        default=defaults.questions_days,
        metavar="N",
        help="for how many days questions are kept (default: %(default)g)",
    )
    add("--opened-file", type=Path, metavar="PATH", help="receives one JSON object once data and port are open")
    add("--ready-file", type=Path, metavar="PATH", help="receives one JSON object once the backend serves")
    add("--exit-with-stdin", action="store_true", help="stop when standard input reaches its end")


def flags() -> list[tuple[str, str]]:
    """The options as they are written, with what they are for: for completion."""
    actions = arguments_parser("")._actions
    return [(flag, action.help or "") for action in actions for flag in action.option_strings]


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text}")
    return port


def _size(text: str) -> float:
    size = float(text)
    if not (math.isfinite(size) and size >= 0):
        raise argparse.ArgumentTypeError(f"not a size: {text}")
    return size


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"not a length of time in seconds: {text}")
    return seconds


def _key_in(path: str) -> str:
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise argparse.ArgumentTypeError(f"cannot be read: {getattr(exc, 'strerror', None) or exc}: {path}") from None
    if not key or len(key.splitlines()) > 1:
        raise argparse.ArgumentTypeError(f"must hold one key on one line: {path}")
    return key


def _path(text: str) -> str:
    try:
        return path_prefix(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} {exc}; an example: /tellurio") from None


def _text(text: str) -> str:
    # With an empty key, every client that sends an empty one would be accepted.
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text
