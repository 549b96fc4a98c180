"""VRF isolation: which VRFs and policy routing rules there should be, and which of them are ours.

Ours are those that rait made, as the journal knows. A VRF or rule that was there before rait came
is used, and never removed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec import structs

from rait.domain.backend import Interface, Observation, ObservedVrf
from rait.domain.config.schema import Config
from rait.domain.errors import Problem, few
from rait.domain.history import LastKnown
from rait.domain.topology import Family, Link, Rule, Topology

RULE_PRIORITY = 900
"""Before the kernel's own rule for VRFs, l3mdev-table at 1000 (vrf.rst), and so before main."""

FAMILIES: tuple[Family, ...] = ("ip4", "ip6")

ACCEPT = "net.ipv4.udp_l3mdev_accept"
"""With this switch on, a socket bound to no VRF gets packets that arrive through one; IPv6 too."""

VRF_MARK = "made by rait"
"""The description (ifalias) of a VRF that rait made: one that others make has another, or none."""

T = TypeVar("T")


def vrfs_among(interfaces: Iterable[Interface]) -> dict[str, ObservedVrf]:
    """The VRFs among all the interfaces of a namespace, by name."""
    tables: dict[str, tuple[int, str]] = {}
    members: dict[str | None, list[str]] = {}
    for interface in interfaces:
        if interface.table is not None:
            tables[interface.name] = interface.table, interface.alias
        members.setdefault(interface.master, []).append(interface.name)
    return {
        name: ObservedVrf(table, tuple(sorted(members.get(name, ()))), alias == VRF_MARK)
        for name, (table, alias) in tables.items()
    }


def wanted_vrfs(config: Config) -> dict[str, int]:
    """The VRF that the configuration wants, by name, with its table."""
    name, table = config.isolation.target_vrf, config.isolation.table
    return {} if name is None or table is None else {name: table}


def wanted_rules(config: Config, transit_table: int | None) -> dict[str, Rule]:
    """The rules by which marked packets find the table of the transit VRF, if there is one.

    There is one for each mark in each family, whatever the family of its transport or policy, so
    that no marked packet is looked up in another table.
    """
    if transit_table is None or not has_transit(config):
        return {}
    marks = {transport.fwmark for transport in config.transports}
    marks |= {policy.fwmark for policy in config.policies if policy.fwmark is not None}
    rules = (
        Rule(family, mark, transit_table, RULE_PRIORITY)
        for mark in sorted(marks - {0})
        for family in FAMILIES
    )
    return {rule.name: rule for rule in rules}


def has_transit(config: Config) -> bool:
    """Whether a VRF carries the underlay."""
    return bool(config.isolation.transit_vrf)


def missing_transit(name: str, kind: str | None) -> str:
    """The text for a transit VRF that is not there, or is an interface of another kind."""
    if kind is not None:
        return (
            f'transit = "{name}" is an interface of kind {kind or "physical"}, and in VRF '
            "isolation must be a VRF"
        )
    return (
        f'transit = "{name}": there is no VRF {name}, and rait does not make the one that carries '
        f"the underlay. Make it with `ip link add {name} type vrf table NUMBER` and "
        f"`ip link set {name} up`, and put the underlay's interface into it with "
        f"`ip link set INTERFACE master {name}`"
    )


def reconcile_isolation(
    observation: Observation,
    desired: Topology,
    known: LastKnown,
    desired_links: Mapping[str, Link],
    our_links: Iterable[str],
) -> tuple[Topology, Topology, list[Problem]]:
    """The VRFs and rules that there are of ours, those that should be, and what is in the way.

    A problem that is an error means that nothing at all may be touched; a warning is for the user.
    A VRF or rule that others made is used as if it were ours, but belongs to neither topology. A
    VRF of ours stays while an interface is in it that stays, and a rule while a link that is not
    ours has its mark.
    """
    observed = Topology(vrfs=_our_vrfs(observation, known), rules=_our_rules(observation, known))
    problems = list(_obstacles(observation, desired.vrfs))
    ours = frozenset(our_links)
    vrfs = _without_those_of_others(desired.vrfs, observed.vrfs, observation.vrfs)
    for name in observed.vrfs.keys() - vrfs.keys():
        staying = [
            member
            for member in observation.vrfs[name].members
            if member not in ours
            or ((link := desired_links.get(member)) is not None and link.settings.master == name)
        ]
        if staying:
            vrfs[name] = observed.vrfs[name]
            problems.append(Problem(_kept(name, staying), "warning"))
    rules = _without_those_of_others(desired.rules, observed.rules, observation.rules)
    needed = _needed_by_others(observed.rules, rules, observation, ours)
    for name, links in needed.items():
        rules[name] = observed.rules[name]
        problems.append(Problem(_rule_kept(name, links), "warning"))
    return observed, structs.replace(desired, vrfs=vrfs, rules=rules), problems


def _without_those_of_others(
    desired: Mapping[str, T], ours: Container[str], there: Container[str]
) -> dict[str, T]:
    return {name: each for name, each in desired.items() if name in ours or name not in there}


def with_needs_of(staying: Iterable[Link], observed: Topology, desired: Topology) -> Topology:
    """The desired topology, with the VRFs and rules of ours that these links need to stay.

    Where desired links or rules have the mark of a staying link, they decide over its rules.
    """
    links = tuple(staying)
    masters = {link.settings.master for link in links}
    marks = {link.device.fwmark for link in links}
    marks -= {link.device.fwmark for link in desired.links.values()}
    marks -= {rule.fwmark for rule in desired.rules.values()}
    vrfs = {name: table for name, table in observed.vrfs.items() if name in masters}
    rules = {name: rule for name, rule in observed.rules.items() if rule.fwmark in marks}
    return structs.replace(desired, vrfs={**vrfs, **desired.vrfs}, rules={**rules, **desired.rules})


def _needed_by_others(
    observed: Mapping[str, Rule],
    desired: Mapping[str, Rule],
    observation: Observation,
    ours: frozenset[str],
) -> dict[str, list[str]]:
    """The rules of ours that would go, each with the links of others that have its mark.

    Such a link may be another configuration's, which found our rule and made none. Where the mark
    gets another rule, the links need ours no more.
    """
    replaced = {(rule.family, rule.fwmark) for rule in desired.values()}
    marked: dict[int, list[str]] = {}
    for name, seen in observation.links.items():
        if name not in ours:
            marked.setdefault(seen.link.device.fwmark, []).append(name)
    return {
        name: marked[rule.fwmark]
        for name, rule in observed.items()
        if name not in desired
        and rule.fwmark in marked
        and (rule.family, rule.fwmark) not in replaced
    }


def _our_vrfs(observation: Observation, known: LastKnown) -> dict[str, int]:
    """The VRFs that rait made, with their tables.

    A VRF that others made in the place of ours bears no mark. But an unfinished run may not have
    marked the VRF that it made, and earlier versions of rait marked none.
    """
    made = {**known.leftover_vrfs, **known.topology.vrfs}
    return {
        name: table
        for name, table in made.items()
        if (seen := observation.vrfs.get(name)) is not None
        and seen.table == table
        and (seen.marked or name in known.leftover_vrfs or not known.home)
    }


def _our_rules(observation: Observation, known: LastKnown) -> dict[str, Rule]:
    made = known.leftover_rules | known.topology.rules.keys()
    names = made - observation.rules_of_others
    return {name: rule for name, rule in observation.rules.items() if name in names}


def _obstacles(observation: Observation, wanted: Mapping[str, int]) -> Iterator[Problem]:
    for name, table in wanted.items():
        seen = observation.vrfs.get(name)
        kind = "wireguard" if name in observation.links else observation.others.get(name)
        if seen is not None and seen.table != table:
            yield Problem(
                f"VRF {name} has table {seen.table}, and the configuration says {table}: a VRF "
                "keeps the table it was made with. Set `table` to what it has, or, to have it made "
                f"anew, `rait down` and, if it is still there, `ip link delete {name}`"
            )
        elif seen is None and kind is not None:
            yield Problem(
                f"an interface of kind {kind or 'physical'} already has the name {name}, which the "
                "configuration gives to the VRF (isolation, target): rename one of the two"
            )


def _kept(name: str, members: Iterable[str]) -> str:
    return (
        f"VRF {name} stays, as other interfaces are in it: {', '.join(sorted(members))}; "
        f"`ip link set INTERFACE nomaster` takes one out, `ip link delete {name}` removes it"
    )


def _rule_kept(name: str, links: list[str]) -> str:
    return f"the rule `{name}` stays, as links that are not ours have its fwmark: {few(links)}"
