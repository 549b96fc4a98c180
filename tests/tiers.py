"""What a machine needs for the tiers that make real tunnels, and for single tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_TOOLS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "wg": "wireguard-tools",
    "ping": "iputils-ping",
    "systemd-run": "systemd",
}
_USERSPACE_TOOLS = {"wireguard-go": "wireguard-go", "strace": "strace"}
_KERNEL_KINDS = ("wireguard", "nlmon")


def need(tool: str, package: str) -> str:
    """The path of a program; where it is missing, the test is skipped, and fails with CI set."""
    path = shutil.which(tool)
    if path is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{tool} is missing: install the Debian package {package}")
    return path


def why_not(tier: str) -> str | None:
    """Why the tier cannot run on this machine, or None if it can."""
    if os.geteuid() != 0:
        return "it makes network namespaces and needs root"
    tools = _TOOLS | (_USERSPACE_TOOLS if tier == "userspace" else {})
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if missing:
        return f"install the Debian package(s) {', '.join(sorted(set(missing)))}"
    if tier == "userspace":
        return None if Path("/dev/net/tun").exists() else "/dev/net/tun is missing (modprobe tun)"
    for kind in _KERNEL_KINDS:
        error = _cannot_make(kind)
        if error is not None:
            return f"the kernel makes no {kind} interface ({error}); try `just test-kernel`"
    return None


def _cannot_make(kind: str) -> str | None:
    command = ["unshare", "--net", "ip", "link", "add", "name", "probe0", "type", kind]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else result.stderr.strip()
