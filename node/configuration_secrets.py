"""Which values of a configuration nobody is shown, in messages, on the page and by `lungnode config show`."""

from __future__ import annotations

import re

SECRET_WORDS = ("password", "token", "secret", "webhook")
PLAIN = "token_url"
HIDDEN = "***"


def is_secret(key: str) -> bool:
    """Whether the value of a key, given alone or with its sections before it, is hidden."""
    own = key.rpartition(".")[2]
    return own != PLAIN and any(word in own for word in SECRET_WORDS)


def without_password(text: str) -> str:
    """The same text, where it is a URL without the password in it."""
    return re.sub(r"://([^:/@\s]*):[^@/\s]*@", rf"://\1:{HIDDEN}@", text)
