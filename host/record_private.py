"""What of a run must not be passed on: who made it, where, and in what environment."""

import getpass
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
"""A variable whose name contains one of these is never written, nor is its value."""
SHORTEST_SECRET = 8
"""Letters; a shorter value is not looked for in other texts, where it would be found by chance."""
HOME, USER, HOST, SECRET = "~", "<user>", "<host>", "<secret>"
NO_HOSTS = ("localhost", "")


@dataclass(frozen=True, kw_only=True)
class Private:
    """The words that stand for a person and a machine."""

    home: str
    user: str
    host: str
    environment: Mapping[str, str]

    def hidden(self, text: str) -> str:
        """Return ``text`` without home folder, user name in paths, host name, and values of secrets."""
        text = self._free_of_secrets(text)
        if self.home not in ("", "/"):
            text = re.sub(rf"(?<![\w.-]){re.escape(self.home)}(?![\w.-])", HOME, text)
        if self.user:
            text = re.sub(rf"(?<=[/\\]){re.escape(self.user)}(?=[/\\]|$|['\"])", USER, text)
        if self.host not in NO_HOSTS:
            # A machine may be called "lora": a plain word is hidden in addresses only.
            before = r"(?:(?<=//)|(?<=\\\\)|(?<=@))" if self.host.isalpha() else r"(?<![\w-])"
            text = re.sub(rf"{before}{re.escape(self.host)}(?![\w-])", HOST, text)
        return text

    def shown(self, text: str) -> str:
        """Return a path of a record as it is on this machine, for this user."""
        here = self.home + text[len(HOME) :] if re.match(r"~(?=[/\\]|$)", text) else text
        return here.replace(USER, self.user).replace(HOST, self.host)

    def shareable(self, document: Any) -> Any:
        """Return ``document`` with every text in it, also names of pictures, as ``hidden`` returns it."""
        if isinstance(document, str):
            return self.hidden(document)
        if isinstance(document, Mapping):
            return {
                self.hidden(name) if "/" in name else name: self.shareable(value)
                for name, value in document.items()
            }
        if isinstance(document, list | tuple):
            return [self.shareable(value) for value in document]
        return document

    def as_document(self, *, command: str) -> dict[str, Any]:
        """Return what only the local record says; secrets are not even there."""
        return {
            "command": self._free_of_secrets(command),
            "host": self.host,
            "user": self.user,
            "home": self.home,
            "working_directory": self._free_of_secrets(str(Path.cwd())),
            "environment": {
                name: self._free_of_secrets(value)
                for name, value in sorted(self.environment.items())
                if not is_secret(name)
            },
        }

    @cached_property
    def _secrets(self) -> list[str]:
        values = {value for name, value in self.environment.items() if is_secret(name)}
        return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)

    def _free_of_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, SECRET)
        return text


def is_secret(variable: str) -> bool:
    """Whether the name of an environment variable says that its value is a secret."""
    return any(word in variable.upper() for word in SECRETS)


def private_words() -> Private:
    """Return the words of this user on this machine."""
    return Private(home=str(Path.home()), user=_user(), host=platform.node(), environment=dict(os.environ))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
