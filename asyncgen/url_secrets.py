"""URLs without what may be secret in them: a signature in the query, a user's name and password. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

#: Stands where a part of a URL was left out.
HIDDEN: Final = "[hidden]"
#: Ends a URL that had more to it.
SECRET_PART: Final = f"?{HIDDEN}"
_IN_TEXT: Final = re.compile(
    r"""\b([a-z][a-z0-9+.-]*://)([^\s/?#@"'<>]*@)?([^\s?#"'<>]*)(\?[^\s"'<>]*)?""", re.IGNORECASE
)


def has_secrets(url: str) -> bool:
    """Whether a URL has a query, or a user's name: a signature, a token or a password stands there."""
    try:
        parts = urlsplit(url)
        return bool(parts.query) or "@" in parts.netloc
    except ValueError:
        return True


def without_secrets(url: str) -> str:
    """The URL without query, user and fragment."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return HIDDEN


def recordable(url: str) -> str:
    """The URL as it may be written down: what may be secret is left out, and that it was there is told."""
    return f"{without_secrets(url)}{SECRET_PART}" if has_secrets(url) and not url.endswith(SECRET_PART) else url


def redacted(text: str) -> str:
    """A text with the secrets of all URLs in it left out: servers and libraries quote what they were sent."""
    if "://" not in text:
        return text
    return _IN_TEXT.sub(lambda url: f"{url[1]}{url[3]}{SECRET_PART if url[4] else ''}", text)
