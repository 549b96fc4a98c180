"""``rait port``: a free SendPort for a new node."""

from __future__ import annotations

import os
from argparse import Namespace

from rait.adapters.config import formats
from rait.adapters.config.source import Texts, display_name
from rait.app.options import Options
from rait.domain.config.decode_config import port_range
from rait.domain.config.decode_peers import read_entries
from rait.domain.config.keytext import canonical_key
from rait.domain.entry import PORTS, free_port
from rait.domain.errors import ConfigError, SourceError
from rait.terminal import DONE, print_either


def run(_: Options, arguments: Namespace) -> int:
    try:
        key = None if arguments.key is None else canonical_key(arguments.key)
    except ValueError as error:
        raise ConfigError(f"--key {error}") from None
    try:
        ports = PORTS if arguments.range is None else port_range(arguments.range)
    except ValueError as error:
        raise ConfigError(f"--range {error}") from None
    read = Texts().read
    documents = [formats.parse(read(url), display_name(url)) for url in arguments.peers]
    for document in documents:
        problems = read_entries(document.data)[1]
        if problems and problems[0].severity == "error":
            raise SourceError(document.describe(problems[0]))
    start = int.from_bytes(os.urandom(4), "big")
    port = free_port([d.data for d in documents], key, arguments.family, ports, start)
    if port is None:
        low, high = ports
        raise SourceError(f"no port from {low} to {high} is free: give another --range")
    print_either({"send_port": port}, [str(port)], as_json=arguments.json)
    return DONE
