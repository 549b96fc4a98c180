"""Tiers of the test suite.

A test without a marker is pure: it needs no root and leaves the machine alone. A test marked
``userspace`` makes tunnels with wireguard-go, one marked ``kernel`` with the kernel's WireGuard,
and one marked with both runs in whichever of these tiers was asked for.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.tiers import why_not

# How many examples hypothesis tries: hundreds in CI.
settings.register_profile(
    "quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "ci",
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "mutate",
    max_examples=100,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.target),
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "quick"))

REAL_TIERS = ("userspace", "kernel")

_REASON = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier",
        choices=("pure", *REAL_TIERS),
        default="pure",
        help="pure (the default), or one that makes real tunnels as root: userspace, kernel",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Who runs the tests in the background may have SIGINT ignored, and what they start as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tier = config.getoption("--tier")
    if tier == "pure" or config.option.collectonly:
        return
    reason = why_not(tier)
    if reason is None:
        return
    if os.environ.get("CI"):
        raise pytest.UsageError(f"the {tier} tier cannot run here: {reason}")
    config.stash[_REASON] = reason


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("--tier")
    wanted = [item for item in items if _belongs(item, tier)]
    if len(wanted) < len(items):
        unwanted = [item for item in items if not _belongs(item, tier)]
        config.hook.pytest_deselected(items=unwanted)
        items[:] = wanted
    reason = config.stash.get(_REASON, None)
    if reason is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


def _belongs(item: pytest.Item, tier: str) -> bool:
    real = [name for name in REAL_TIERS if item.get_closest_marker(name)]
    return tier in real if real else tier == "pure"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reason = config.stash.get(_REASON, None)
    if reason is not None:
        tier = config.getoption("--tier").upper()
        terminalreporter.write_line(f"THE {tier} TIER DID NOT RUN: {reason}", red=True, bold=True)
