"""Whether two paths name one configuration, however each of them is spelt."""

from __future__ import annotations

import os


def normal(path: str) -> str:
    """The path made absolute, without ``.`` and ``..``.

    Links stay as they are spelt: a configuration manager may let one lead to another file at each
    change, and it names the same configuration all the time. Only what ``..`` leaves is followed,
    as the system itself would follow it.
    """
    parts: list[str] = []
    whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    for part in whole.split("/"):
        if part == "..":
            parts = _resolved(parts)[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def is_same(one: str, other: str) -> bool:
    """Whether two absolute paths are spellings of each other, or lead to one file now."""
    try:
        return normal(one) == normal(other) or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def is_link(path: str) -> bool:
    """Whether an absolute path leads through a symbolic link, so that it may lead elsewhere."""
    try:
        return os.path.realpath(path) != path
    except (OSError, ValueError):
        return False


def _resolved(parts: list[str]) -> list[str]:
    path = "/" + "/".join(parts)
    if not os.path.islink(path):
        return parts
    return os.path.realpath(path).strip("/").split("/")
