"""Settings of the delivery of alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from esper.core.errors import ConfigError
from esper.core.settings.config import NOT_SHOWN, require_positive
from esper.nissa.delivery import Pace
from esper.nissa.receivers import Command, Receiver, Webhook


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryConfig:
    """Where Nissa's alerts go beside the bus; without a webhook and a command, nowhere."""

    webhook_url: str | None = None  # alerts are posted there as JSON; often a secret, so it is never shown
    webhook_url_file: Path | None = None  # a file that holds that URL
    webhook_token_file: Path | None = None  # a file that holds a bearer token for it
    command: tuple[str, ...] = ()  # a program and its arguments, given the JSON on its standard input
    timeout_s: float = 10.0  # longest wait for a receiver
    retry_s: float = 1.0  # pause after a failure; doubles up to max_retry_s, less up to half of it
    max_retry_s: float = 60.0
    max_age_s: float = 3600.0  # what could not be delivered for so long is given up
    max_queued: int = 256  # notifications that may wait for a receiver; then the oldest is given up

    def __post_init__(self) -> None:
        require_positive(self, "timeout_s", "retry_s", "max_retry_s", "max_age_s", "max_queued")
        if self.webhook_url is not None and self.webhook_url_file is not None:
            raise ConfigError(
                "webhook_url_file", self.webhook_url_file, "give the URL or a file that holds it, not both"
            )
        if self.webhook_url is not None:
            require_url("webhook_url", self.webhook_url)
        if self.command and not self.command[0]:
            raise ConfigError("command", self.command, "the first word must be a program")

    @property
    def pace(self) -> Pace:
        """How deliveries are tried again."""
        return Pace(
            retry_s=self.retry_s,
            max_retry_s=self.max_retry_s,
            max_age_s=self.max_age_s,
            max_queued=self.max_queued,
        )

    def receivers(self, environ: Mapping[str, str]) -> tuple[Receiver, ...]:
        """The receivers. Raises ConfigError for a file that can't be read or holds nothing of use."""
        found: list[Receiver] = []
        url = self.webhook_url
        if self.webhook_url_file is not None:
            url = _secret("webhook_url_file", self.webhook_url_file)
            require_url("webhook_url_file", url)
        if url is not None:
            token = self.webhook_token_file and _secret("webhook_token_file", self.webhook_token_file)
            found.append(Webhook(url, token or None, self.timeout_s))
        if self.command:
            found.append(Command(self.command, self.timeout_s, environ))
        return tuple(found)


def require_url(key: str, url: str) -> None:
    """Raises ConfigError, which doesn't repeat what may be a secret."""
    try:
        parts = urlsplit(url)
        is_usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        is_usable = False
    if not is_usable or any(not "!" <= letter <= "~" for letter in url):
        raise ConfigError(key, NOT_SHOWN, "give a URL, http://HOST[:PORT]/PATH or https://...")


def _secret(key: str, path: Path) -> str:
    """The one line of a file."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(key, str(path), f"can't be read: {why}") from error
    if not text or "\n" in text:
        raise ConfigError(key, str(path), "must hold one line")
    return text
