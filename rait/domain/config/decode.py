"""The one door by which documents of any format become domain values."""

from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import decode_peers

__all__ = ["decode_config", "decode_peers"]
