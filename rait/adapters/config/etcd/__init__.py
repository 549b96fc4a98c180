"""etcd as the source of the peers list: each key under a prefix is the entry of one node.

It is spoken to by the JSON gateway of its API, version 3, which each member serves beside gRPC
(https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/).
"""
