"""The metrics, in Prometheus's text format and in OpenMetrics 1.0.

What is unknown is absent, never zero; ``rait_up`` says whether all could be looked at. Names
of peers come from a registry's author, so their length has a bound, and what terminals would obey
in them is spelt out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from rait.app.tally import LastSync, Tally
from rait.domain.status import LinkStatus, Status
from rait.terminal import bounded, clean

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
MAX_LABEL = 128
"""In characters, of a peer's name."""

_LINK = ("link", "peer")


def exposed(
    status: Status | None, tally: Tally | None = None, *, as_openmetrics: bool = False
) -> tuple[bytes, str]:
    """The metrics and their content type.

    ``status`` is None if the links could not be looked at, and ``tally`` where nobody counts.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(status, tally))
    form, content_type = (openmetrics, OPENMETRICS) if as_openmetrics else (exposition, TEXT)
    return form.generate_latest(registry), content_type


class _Families(Collector):
    """The families of metrics, which are made when they are asked for."""

    def __init__(self, status: Status | None, tally: Tally | None) -> None:
        self._status = status
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        known = self._status is not None and not self._status.problem
        yield _gauge("rait_up", "Whether the links and the journal could be looked at.", known)
        if self._status is not None:
            yield from _of_links(self._status)
            yield from _of_each(self._status.links)
        if self._tally is not None:
            yield from _of_syncs(self._tally)


def _of_links(status: Status) -> Iterator[Metric]:
    counts = status.counts()
    yield _gauge("rait_links_live", "Links with a handshake within three minutes.", counts["live"])
    if not status.problem:  # else only what is there is known
        yield _gauge("rait_links_wanted", "Links that there should be.", len(status.links))
        yield _gauge(
            "rait_links_failed", "Links that could not be made, read or used.", counts["failed"]
        )
    if status.peers is not None and status.peers.age is not None:
        yield _gauge(
            "rait_peers_list_age_seconds",
            "Time since a server last said that the peers list is its newest.",
            status.peers.age,
        )


def _of_each(links: tuple[LinkStatus, ...]) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "rait_link_handshake_age_seconds",
        "Time since the last handshake; absent if there was none.",
        labels=_LINK,
    )
    received = CounterMetricFamily(
        "rait_link_received_bytes", "Bytes received since the link was made.", labels=_LINK
    )
    sent = CounterMetricFamily(
        "rait_link_sent_bytes", "Bytes sent since the link was made.", labels=_LINK
    )
    for link in links:
        labels = clean(link.name), bounded(link.peer or link.public_key, MAX_LABEL)
        if link.age is not None:
            age.add_metric(labels, link.age)
        if link.state not in ("failed", "missing"):
            received.add_metric(labels, link.received)
            sent.add_metric(labels, link.sent)
    yield from (age, received, sent)


def _of_syncs(tally: Tally) -> Iterator[Metric]:
    if tally.last is not None:
        yield from _of_last(tally.last)
    yield _counter("rait_events", "Events that happened to links.", "kind", tally.events)
    yield _counter("rait_runs", "Runs that the journal has.", "outcome", tally.runs)


def _of_last(last: LastSync) -> Iterator[Metric]:
    yield _gauge(
        "rait_last_sync_timestamp_seconds", "Unix time at which the last sync ended.", last.at
    )
    yield _gauge("rait_last_sync_duration_seconds", "How long the last sync took.", last.seconds)
    yield _gauge(
        "rait_last_sync_success", "Whether the last sync left all as it should be.", last.success
    )
    yield InfoMetricFamily(
        "rait_last_sync",
        "How the last sync ended, and why it began.",
        {"result": last.outcome, "cause": last.cause},
    )


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value)


def _counter(name: str, what: str, by: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, what, labels=(by,))
    for value, count in sorted(counts.items()):
        family.add_metric((value,), count)
    return family
