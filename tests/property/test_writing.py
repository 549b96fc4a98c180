"""What `rait pub` prints is read back as it was meant, whatever a rait.conf has."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import hcl2
from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.config import formats
from rait.adapters.config.writing import WRITERS
from rait.domain.check import examine
from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import decode_peers
from rait.domain.entry import own_entry, plain
from tests.property.test_hcl import OPTIONS

KEY = b64encode(bytes(range(1, 33))).decode()
TEXTS = st.text(max_size=12) | st.text("\"\\$%{}~\n\t\r`'#=[]\x7f\u2028é😀\u200b", max_size=8)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats() | st.datetimes(),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(TEXTS | st.sampled_from(["a", "b-c", "null"]), values, max_size=3)
    ),
    max_leaves=6,
)
MERE = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(-9, 9),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=6,
)
"""Without the numbers that python-hcl2 takes for expressions."""

REMARKS = st.dictionaries(st.sampled_from(["a", "_b", "c-d", "for", "é", "e f", ""]), VALUES)
NAMES = TEXTS.filter(lambda text: text and text.isprintable() and not text.isspace())
TRANSPORTS = st.lists(
    st.fixed_dictionaries(
        {
            "address_family": st.sampled_from(["ip4", "ip6"]),
            "send_port": st.integers(1024, 32767),
            "mtu": st.just(1400),
            "ifprefix": st.sampled_from(["a", "b", "c"]),
        },
        optional={"address": st.sampled_from(["", "a.example.net"])},
    ),
    min_size=1,
    max_size=3,
    unique_by=(lambda t: t["ifprefix"], lambda t: t["send_port"]),
)


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    document = {"transport": draw(TRANSPORTS), "remarks": draw(REMARKS)}
    name = draw(st.none() | NAMES)
    config, problems = decode_config(
        document | ({} if name is None else {"name": name}), key_required=False
    )
    assert config is not None, problems
    return dict(own_entry(config, KEY)[0])


def without_null(value: Any) -> Any:
    """As TOML has a value: it has no null."""
    if isinstance(value, dict):
        return {k: without_null(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_null(item) for item in value if item is not None]
    return value


@given(entries(), st.sampled_from(list(WRITERS)))
def test_a_check_finds_nothing_in_an_entry(entry, kind):
    document = formats.parse(WRITERS[kind](entry), f"x.{kind}").data
    assert examine(document).findings == ()
    assert formats.parse(WRITERS[kind](entry), "-").data == document


@given(entries(), st.sampled_from(list(WRITERS)))
def test_all_formats_say_the_same_of_the_node(entry, kind):
    (expected,), _ = decode_peers({"peers": [entry]})
    (peer,), _ = decode_peers(formats.parse(WRITERS[kind](entry), f"x.{kind}").data)
    assert (peer.public_key, peer.name, peer.remarks) == (KEY, expected.name, expected.remarks)
    reach = [(e.address_family, e.send_port, e.address) for e in peer.endpoints]
    assert reach == [(e.address_family, e.send_port, e.address) for e in expected.endpoints]
    assert len({family for family, _, _ in reach}) == len(reach)


@given(entries())
def test_remarks_are_read_back_whole(entry):
    remarks = entry.get("remarks")
    documents = {kind: formats.parse(WRITERS[kind](entry), f"x.{kind}").data for kind in WRITERS}
    found = documents["hcl"]["peers"][0].get("remarks")
    assert (found[0] if isinstance(found, list) else found) == remarks
    assert documents["json"]["peers"][0].get("remarks") == remarks
    tables = documents["toml"]["Peers"]
    assert tables[0].get("Remarks") == without_null(remarks)
    assert not any("Remarks" in table for table in tables[1:])


@given(NAMES, st.dictionaries(st.sampled_from(["a", "b-c"]), MERE, min_size=1))
def test_another_reader_of_hcl_reads_the_same(name, remarks):
    text = WRITERS["hcl"]({"public_key": KEY, "name": name, "endpoint": [], "remarks": remarks})
    (block,) = hcl2.loads(text, serialization_options=OPTIONS)["peers"]
    assert block == {"public_key": KEY, "name": name, "remarks": [remarks]}


@given(VALUES)
def test_a_plain_value_stays_what_it_is(value):
    assert plain(plain(value)) == plain(value)
