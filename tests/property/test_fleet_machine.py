"""Fleets of nodes that sync, lag behind, crash in the midst of a sync, roll back and roam."""

from __future__ import annotations

from hypothesis import settings

from rait.testing import FleetMachine

TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(max_examples=max(50, settings().max_examples // 4))
