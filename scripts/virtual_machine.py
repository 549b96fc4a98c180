"""A virtual machine that boots Debian's own kernel and runs one shell script.

The machine sees this one's files, so what is installed here is there too. Its python is the one
that runs this module, which must have the development dependencies (scripts/bootstrap).

With RAIT_VM_KERNEL in the environment it boots that image, with the modules that lie beside it as
in Debian's packages: dpkg-deb -x unpacks one anywhere, and nothing has to be installed.
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
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
_BUNDLE = REPO / "build" / "guest.tar"
_SCRIPT = REPO / "build" / "guest.sh"
_ROOT = "/mnt"
_TAG = "cached"
_SHARED = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/cache", "/var/tmp")  # noqa: S108
"""What the machine has of its own, and its programs write to."""

_LIBRARY = Path(sysconfig.get_path("stdlib"))
_PACKAGES = Path(sysconfig.get_path("purelib"))
_OTHERS_PACKAGES = _LIBRARY / "site-packages"
_PYTHON = (
    _LIBRARY,
    _PACKAGES,
    *(REPO / name for name in ("rait", "tests", "bench", "scripts")),
)
_UNUSED = (
    "ensurepip",
    "grimp",
    "idlelib",
    "importlinter",
    "lib2to3",
    "mypy",
    "mypyc",
    "pip",
    "setuptools",
    "turtledemo",
    "virtme",
    "python3.*/test",
)
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
    # The machine writes no bytecode: it is to find it.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(REPO / "rait")], check=True)
    vm = _vm_command(_guest_script(command, modules))
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
    kernel, vng = _kernel(), _find_vng()
    if vng is None:
        raise BootError("vng is not installed: install the development dependencies")
    if shutil.which("qemu-system-x86_64") is None:
        raise BootError("no qemu: install qemu-system-x86")
    options = ["--cpus", "2", "--memory", "2G", "--user", "root", "--rw"]
    share = f"-fsdev local,id={_TAG},path=/,security_model=none,multidevs=remap,readonly=on"
    options.append(f"--qemu-opts={share} -device virtio-9p-pci,fsdev={_TAG},mount_tag={_TAG}")
    if not has_kvm():
        options.append("--disable-kvm")
    return [vng, "-r", str(kernel), *options, "--", script]


def _kernel() -> Path:
    """The kernel that was asked for, or else Debian's newest. Raises BootError."""
    asked = os.environ.get("RAIT_VM_KERNEL")
    if asked is None:
        newest = _newest_kernel()
        if newest is None:
            raise BootError("no Debian kernel in /boot: install linux-image-amd64")
        return newest
    if not Path(asked).is_file():
        raise BootError(f"RAIT_VM_KERNEL: there is no file {asked}")
    return Path(asked).resolve()


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
    lines += _fast_root()
    inside = f"cd {shlex.quote(str(REPO))} && {shlex.join(command)}"
    lines += [f"chroot {_ROOT} sh -c {shlex.quote(inside)}", f'echo "{_MARKER}$?"']
    _SCRIPT.parent.mkdir(exist_ok=True)
    _SCRIPT.write_text("\n".join(lines) + "\n")
    return f"sh {shlex.quote(str(_SCRIPT))}"


def _fast_root() -> list[str]:
    """Commands that make a root directory in which programs start ten times faster.

    The machine reads this one's files over 9p, where each look-up and read takes milliseconds: too
    long for Python, which makes thousands of them. So the files are mounted once more, with a
    cache, and over that comes in memory what Python reads, copied in one piece.
    """
    places = [place for place in _PYTHON if place.is_dir()]
    exclude = [f"--exclude={name}" for name in _UNUSED]
    if _OTHERS_PACKAGES != _PACKAGES:
        exclude.append(f"--exclude={str(_OTHERS_PACKAGES).lstrip('/')}")
    paths = [str(place).lstrip("/") for place in places]
    tar = ["tar", "-C", "/", "-cf", str(_BUNDLE), *exclude, *paths]
    _BUNDLE.parent.mkdir(exist_ok=True)
    subprocess.run(tar, check=True)
    options = "trans=virtio,version=9p2000.L,cache=loose,msize=524288,access=any,ro"
    return [
        f"mount -t 9p -o {options} {_TAG} {_ROOT} || exit 1",
        # The tables of the HCL grammar take the machine most of a minute to make.
        f"cp -a {_ROOT}/var/cache/rait /var/cache/ 2>/dev/null",
        *(f"mount --rbind {place} {_ROOT}{place}" for place in _SHARED),
        *(f"mount -t tmpfs tmpfs {shlex.quote(f'{_ROOT}{place}')}" for place in places),
        f"tar -C {_ROOT} -xf {shlex.quote(str(_BUNDLE))}",
    ]


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
