"""A virtual machine that boots Debian's own kernel and runs one shell script.

The machine sees this one's files, so what is installed here is there too. Its python is the one
that runs this module, which must have the development dependencies (scripts/bootstrap).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
_MARKER = "virtual machine: the command ended with status "


class BootError(Exception):
    """No machine can be made here; the text says what to install."""


def run(
    command: Sequence[str], modules: Sequence[str], timeout: float, show: Callable[[str], object]
) -> int | None:
    """Run a command in the repository's directory; ``show`` gets each line that it prints.

    ``modules`` are loaded first where they exist; ``timeout`` is in seconds. The exit status, or
    None if the machine did not live to tell it. Raises BootError.
    """
    vm = _vm_command(_guest_script(command, modules))
    # The machine has no bytecode cache of its own, so that it writes nothing to this one's files.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(REPO / "rait")], check=True)
    process = subprocess.Popen(
        vm,
        # vng starts programs that are beside it and, like it, perhaps not on our PATH.
        env={**os.environ, "PATH": f"{Path(vm[0]).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    with _ended(process):
        timer = threading.Timer(timeout, _stop, (process,))
        timer.daemon = True  # else a SIGTERM would wait for it
        timer.start()
        status = _relay(process, show)
        timer.cancel()
    return status


def _vm_command(script: str) -> list[str]:
    kernel, vng = _newest_kernel(), _find_vng()
    if kernel is None:
        raise BootError("no Debian kernel in /boot: install linux-image-amd64")
    if vng is None:
        raise BootError("vng is not installed: install the development dependencies")
    if shutil.which("qemu-system-x86_64") is None:
        raise BootError("no qemu: install qemu-system-x86")
    options = ["--cpus", "2", "--memory", "2G", "--user", "root", "--rw"]
    if not has_kvm():
        options.append("--disable-kvm")
    return [vng, "-r", str(kernel), *options, "--", script]


def _newest_kernel() -> Path | None:
    """Debian's newest ordinary kernel with its modules; the cloud flavour lacks drivers."""

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name.removesuffix("-amd64"))]

    images = (path for path in Path("/boot").glob("vmlinuz-*-amd64") if "-cloud-" not in path.name)
    usable = [p for p in images if Path("/lib/modules", p.name.removeprefix("vmlinuz-")).is_dir()]
    return max(usable, key=version, default=None)


def _find_vng() -> str | None:
    beside = Path(sys.executable).with_name("vng")
    return str(beside) if beside.exists() else shutil.which("vng")


def has_kvm() -> bool:
    """Whether KVM works. The device alone says little: some sandboxes have one that hangs."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and bool(re.search(r"\b(vmx|svm)\b", flags))


def _guest_script(command: Sequence[str], modules: Sequence[str]) -> str:
    bin_dir = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if "CI" in os.environ:
        environment["CI"] = os.environ["CI"]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [f"modprobe {module} || echo no module {module}" for module in modules]
    lines += [f"cd {shlex.quote(str(REPO))}", shlex.join(command)]
    lines += [f'echo "{_MARKER}$?"']
    return "\n".join(lines)


def _relay(process: subprocess.Popen[str], show: Callable[[str], object]) -> int | None:
    status = None
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_MARKER):
            status = int(line.removeprefix(_MARKER))
        else:
            show(line)
    process.wait()
    return status


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no virtual machine behind, however this program ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
