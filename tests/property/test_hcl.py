"""rait's reader of HCL beside python-hcl2: what both take is the same document.

python-hcl2 evaluates nothing either, and gives expressions back as text; so documents of values
that are written out are drawn here, in as many spellings as the language has.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import hcl2
import pytest
from hcl2.utils import SerializationOptions
from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.config import hcl
from rait.domain.config.keytext import brief

OPTIONS = SerializationOptions(
    with_comments=False, explicit_blocks=False, strip_string_quotes=True, preserve_heredocs=False
)
NAMES = st.sampled_from(["a", "b", "_c", "d-e", "in", "for", "if", "true", "null", "send_port"])
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"\\$%')
ESCAPES = st.sampled_from(["\\n", "\\t", '\\"', "\\\\", "\\u00e9", "\\U0001F600", "$", "%", "$$"])
TEXTS = (
    st.lists(CHARACTERS | ESCAPES, max_size=8)
    .map(lambda parts: f'"{"".join(parts)}"')
    .filter(lambda text: "${" not in text and "%{" not in text)  # with which an expression begins
)
NUMBERS = st.integers().map(str) | st.sampled_from(["-1.5", "0.25", "007"])
GAPS = st.sampled_from(["", " ", "\n", "\r\n", " # remark\n", "// remark\n", "\n/* re\nmark */\n"])
BLANKS = st.sampled_from(["", " ", "\t", "  "])
ENDS = st.sampled_from(["\n", "\r\n", " # remark\n", "\n\n", " "])


@st.composite
def lists(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(values, max_size=3))
    return f"[{draw(GAPS)}{f',{draw(GAPS)}'.join(items)}{draw(GAPS)}]"


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    names = draw(st.lists(st.sampled_from(["a", "b", "c-d", '"e f"']), max_size=3, unique=True))
    members = [f"{name}{draw(BLANKS)}={draw(BLANKS)}{draw(values)}" for name in names]
    return f"{{{draw(GAPS)}{f',{draw(GAPS)}'.join(members)}{draw(GAPS)}}}"


VALUES = st.recursive(
    TEXTS | NUMBERS | st.sampled_from(["true", "false", "null"]),
    lambda values: lists(values) | objects(values),
    max_leaves=5,
)


@st.composite
def attributes(draw: st.DrawFn, names: list[str]) -> str:
    lines = (f"{name}{draw(BLANKS)}={draw(BLANKS)}{draw(VALUES)}{draw(ENDS)}" for name in names)
    return "".join(lines)


@st.composite
def bodies(draw: st.DrawFn, inner: st.SearchStrategy[str] = st.just("")) -> str:  # noqa: B008
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    blocks = draw(st.lists(st.sampled_from(["peers", "endpoint"]), max_size=3))
    texts = (f"{name}{draw(BLANKS)}{{{draw(GAPS)}{draw(inner)}}}{draw(ENDS)}" for name in blocks)
    return f"{draw(GAPS)}{draw(attributes(names))}{''.join(texts)}"


DOCUMENTS = bodies(bodies(bodies()))


def _read(text: str) -> tuple[Any, hcl.HclError | None]:
    try:
        return hcl.parse(text), None
    except hcl.HclError as error:
        return None, error


@given(DOCUMENTS)
def test_both_read_the_same(text: str) -> None:
    assert hcl.parse(text) == hcl2.loads(text, serialization_options=OPTIONS)


@given(DOCUMENTS, st.data())
def test_a_text_with_a_mistake_is_a_document_or_an_error_with_its_place(
    text: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(text)))
    noise = data.draw(st.text('{}[]()"=,\\$%#/*<->\n aE1', max_size=4))
    broken = text[:place] + noise + text[place + data.draw(st.integers(0, 2)) :]
    document, error = _read(broken)
    if error is not None:
        lines = broken.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        return
    for path, line in hcl.lines(broken).items():
        value: Any = document
        for part in path:
            value = value[part]
        if isinstance(path[-1], str):
            assert path[-1] in broken.split("\n")[line - 1]


@given(st.binary(min_size=32, max_size=32), st.text("ab+/= \n#", max_size=120), st.integers(1, 90))
def test_what_is_cut_short_holds_no_part_of_a_key(raw: bytes, around: str, most: int) -> None:
    key = b64encode(raw).decode()
    for text in (f"{around} {key} {around}", f"{key} {key} {key} {key} {around}", f"{around}{key}"):
        assert key[:20] not in brief(text, most)
        assert len(brief(text, most)) <= most + 1


@pytest.mark.parametrize("text", ["", "a = 1", "a {}", "# remark", "/* remark */", "\r\n"])
def test_a_text_may_end_without_a_newline(text: str) -> None:
    assert hcl.parse(text) == hcl2.loads(text, serialization_options=OPTIONS)
