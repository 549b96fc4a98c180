"""rait: redundant array of inexpensive tunnels.

One WireGuard interface for each peer, so that a routing daemon may route over all of them.
"""

__version__ = "0.1.0"
