"""The health page, as text and in a real browser: narrow and wide, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.app import health as module
from rait.app.health_page import MAX_TEXT, page, problem_page
from rait.app.tally import LastSync
from rait.domain.errors import MachineError
from rait.domain.status import LinkStatus, PeersAge
from tests.unit.browser import Tab, browser
from tests.unit.test_commands_status import ALL, LIVE, NOW
from tests.unit.test_health import Machine, served

SYNC = LastSync(at=NOW - 5.5, seconds=0.25, outcome="unchanged", cause="look")
HOSTILE = '<script>document.title="taken"</script><img src=http://192.0.2.9/x onerror=alert(1)>'
NAMES = (HOSTILE, "x" * 5000, "a\u202eb", '" onload="alert(1)', "\ud800", "日本" * 40, "a b " * 400)
LINKS = tuple(
    structs.replace(LIVE, name=f"rait4x{50000 + number}", peer=name)
    for number, name in enumerate(NAMES)
)
MANY = structs.replace(ALL, links=(*ALL.links, *LINKS, *(LIVE,) * 100), peers=PeersAge(90000, True))
TAGS = set(re.findall(r"<(/?[a-z0-9]+)", page("node", ALL, SYNC)))


@given(st.text(), st.text())
def test_whatever_a_peer_and_a_node_are_called_it_is_text(name: str, node: str) -> None:
    status = structs.replace(ALL, links=(structs.replace(LIVE, peer=name, why=name),))
    assert set(re.findall(r"<(/?[a-z0-9]+)", page(node, status))) <= TAGS
    assert set(re.findall(r"<(/?[a-z0-9]+)", problem_page(node, NOW, name))) <= TAGS
    page(node, status).encode()


def test_a_name_has_a_bound_and_what_turns_the_direction_of_text_is_spelt_out() -> None:
    text = page("node", MANY)
    assert "x" * MAX_TEXT not in text
    assert "a\\u202eb" in text


def test_links_that_need_a_look_come_first() -> None:
    names = re.findall(r'<th role="rowheader" scope="row">(\w+)', page("node", ALL))
    assert names == ["w4", "w2", "w3", "w5", "w1"]


def test_what_a_link_has_not_is_a_dash() -> None:
    def cells(link: LinkStatus) -> list[str]:
        row = page("node", structs.replace(ALL, links=(link,))).partition('scope="row">')[2]
        found = re.sub(r"<[^>]*>", "|", row.partition("</tr>")[0]).split("|")
        return [cell for cell in found if cell]

    bare = structs.replace(LIVE, peer="", public_key="", endpoint=None, endpoint_is=None)
    what = ["1m ago", "1.5 KiB", "5 B"]
    assert cells(LIVE) == [
        *("w1", "● live", "gate", LIVE.public_key[:8], "192.0.2.1:50153", "roamed"),
        *what,
        *("cost 128, RTT 0.5 ms", "reach ffff"),
    ]
    assert cells(structs.replace(bare, babel=None)) == ["w1", "● live", "-", "-", *what, "-"]


def test_what_is_wrong_is_said_on_top() -> None:
    assert "✓ All is well." in page("node", structs.replace(ALL, links=(LIVE,)))
    text = page("node", MANY)
    assert "w4 is missing: there is no such interface" in text
    assert "the peers list is older than max_peers_age" in text
    lost = page("node", structs.replace(ALL, links=(), problem="no permission"))
    assert "which links are missing is not known: no permission" in lost
    assert "cannot be looked at: no &lt;way&gt;" in problem_page("node", NOW, "no <way>")


def test_a_change_that_waits_is_said_before_all_else() -> None:
    waiting = structs.replace(ALL, links=(LIVE,), waiting=("run 7 waits",))
    assert "All is well" not in page("node", waiting)
    assert "This needs a look:<ul><li>run 7 waits</li></ul>" in page("node", waiting)
    many = page("node", structs.replace(MANY, waiting=("run 7 waits",)))
    assert "This needs a look:<ul><li>run 7 waits</li>" in many


def test_where_nothing_ever_changed_no_change_is_told() -> None:
    assert "last change" not in page("node", structs.replace(ALL, last_change=None))


def test_the_last_sync_and_the_last_change_are_there() -> None:
    text = page("node", ALL, SYNC)
    assert "unchanged, because of look, in 0.25 s" in text
    assert "run 7: up, done" in text


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(MANY)


@pytest.fixture(scope="module")
def address(machine: Machine) -> Iterator[str]:
    with served(machine) as (health, port, call):
        call(health.synced, SYNC, None)
        yield f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 800, 1000, 1280])
def test_it_fits_and_can_be_read(tab: Tab, address: str, width: int, scheme: str) -> None:
    tab.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    tab.ask(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    tab.open(address)
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.run(SPILLS) == []
    assert min(contrast(*colours) for colours in tab.run(COLOURS)) >= 4.5  # WCAG 2, level AA
    lightness = sum(rgb(tab.run("getComputedStyle(document.body).backgroundColor")))
    assert (lightness > 382) == (scheme == "light")


SPILLS = """[...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width > 1 && (box.right > innerWidth + 1 || box.left < 0);
}).map(e => e.outerHTML.slice(0, 200))"""
"""What reaches beyond the window."""

COLOURS = """[...document.querySelectorAll('main *')].filter(e => e.innerText).map(e => {
  let behind = e, clear = 'rgba(0, 0, 0, 0)';
  while (behind.parentElement && getComputedStyle(behind).backgroundColor === clear)
    behind = behind.parentElement;
  const back = getComputedStyle(behind).backgroundColor;
  return [getComputedStyle(e).color, back === clear ? 'rgb(255, 255, 255)' : back];
})"""
"""The colours of each text and of what is behind it."""


def rgb(colour: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours (WCAG 2.2, "contrast ratio")."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in rgb(colour)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_hostile_name_is_text_and_nothing_comes_from_elsewhere(tab: Tab, address: str) -> None:
    tab.events.clear()
    tab.open(address)
    assert tab.run("document.title").startswith("108/")
    assert HOSTILE in tab.run("document.querySelector('table').textContent")
    assert tab.run("document.scripts.length") == 1
    asked = [each["request"]["url"] for each in tab.told("Network.requestWillBeSent")]
    assert asked[0] == address
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    # Its own style and script are allowed, and nothing that is not.
    assert tab.told("Log.entryAdded") == []
    assert tab.run("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"


def test_it_is_a_table_to_a_screen_reader_whatever_its_width(tab: Tab, address: str) -> None:
    for width in (360, 1280):
        tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        tab.open(address)
        nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
        roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
        assert roles.count("table") == 1
        assert roles.count("columnheader") == 8
        assert roles.count("rowheader") == len(MANY.links)


def test_it_refreshes_itself_and_keeps_its_place(
    tab: Tab, address: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    tab.open(address)
    tab.run("scrollTo(0, 900)")
    machine.status = structs.replace(MANY, links=(*MANY.links, structs.replace(LIVE, name="new1")))
    tab.run("refresh()")
    assert tab.run("document.querySelector('table').textContent.includes('new1')")
    assert tab.run("document.title").startswith("109/")
    assert tab.run("scrollY") == 900
    machine.problem = MachineError("no way")
    tab.run("refresh()")
    assert "no way" in tab.run("document.querySelector('main').textContent")
    machine.problem = None
    tab.run("refresh()")
    assert tab.run("document.querySelectorAll('#gone:not([hidden])').length") == 0


def test_without_an_answer_it_says_that_it_is_old(tab: Tab) -> None:
    with served(Machine()) as (_, port, _call):
        tab.open(f"http://127.0.0.1:{port}/")
        assert not tab.run("document.getElementById('gone').checkVisibility()")
    tab.run("refresh()")
    assert tab.run("document.getElementById('gone').checkVisibility()")
    assert "w4" in tab.run("document.querySelector('table').textContent")


def test_it_refreshes_itself_without_script_too(tab: Tab, address: str) -> None:
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(address)
        nodes = tab.ask("DOM.getDocument", depth=-1)["root"]
        assert "http-equiv" in str(nodes)
    finally:
        tab.ask("Emulation.setScriptExecutionDisabled", value=False)
