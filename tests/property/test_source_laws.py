"""A password is not in the name of a URL in messages, however badly the URL is written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.config.source import display_name

WORDS = ("1066", "hunter", "", "2")
BETWEEN = (
    "/",
    "?",
    "#",
    "@",
    ":",
    ",",
    "[",
    "]",
    "\\",
    "%",
    "&",
    "=",
    "//",
    "://",
    " ",
    "\n",
    "\u2100",
)
BEGINNINGS = (
    "{}://",
    "{}:/",
    "{}:",
    "{}//",
    "{}:\\\\",
    " {}://",
    "//",
    "",
    "https://{}://",
    "/etc/{}:/",
)
ENDS = ("h", "h/list", "h:80/list?x=y#z", "h:1,[::1]:2/p?ca=/a", "[::1", "[::1]/p", "")


@given(
    st.sampled_from(BEGINNINGS),
    st.sampled_from(("https", "ETCDS", "etcd", "htps", "h t")),
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(BETWEEN)), max_size=3),
    st.sampled_from(ENDS),
)
def test_a_password_is_in_no_name(
    beginning: str, scheme: str, parts: list[tuple[str, str]], end: str
) -> None:
    """It is so too where the password makes a port, a path or a query of what comes before it."""
    password = "".join(word + between for word, between in parts) + "4711"
    name = display_name(f"{beginning.format(scheme)}me:{password}@{end}")
    assert not any(word in name for word in ("1066", "hunter", "4711"))
