"""What a run knows of the links of a machine."""

from __future__ import annotations

from msgspec import structs

from rait.domain.backend import Observation, ObservedLink
from tests.unit.command_line import link


def seen(name: str, netns: str) -> ObservedLink:
    made = link(name)
    return ObservedLink(
        link=structs.replace(made, origin=structs.replace(made.origin, netns=netns))
    )


def test_links_of_one_name_in_several_namespaces_are_all_found_and_no_others() -> None:
    here, there, another = seen("w1", "here"), seen("w1", "there"), seen("w2", "there")
    observation = Observation(now=0, links={"w1": here}).with_traced([there, another], {})
    twice = observation.with_traced([seen("w2", "elsewhere")], {})
    assert list(observation.named("w1")) == [here, there]
    assert list(observation.named("w2")) == [another]
    assert list(twice.named("w1")) == [here, there]
    assert list(twice.named("w2")) == [another, seen("w2", "elsewhere")]
    assert list(twice.named("w3")) == []
    assert len(twice.all_links()) == 4
