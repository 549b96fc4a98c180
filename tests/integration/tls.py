"""Certificates of the tests' own (X.509, RFC 5280)."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

_DAY = timedelta(days=1)


class Authority:
    """Signs certificates, which it writes into a directory. ``path`` is its own."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self._signed(made))

    def certificate(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """The paths of a certificate and of its key, for a server at these hosts and as a client.

        They are made anew only if they are not there.
        """
        cert, key_path = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        if not cert.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            usage = x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            )
            made = self._builder(_name(name), key).add_extension(usage, critical=False)
            if hosts:
                names = x509.SubjectAlternativeName([_host(each) for each in hosts])
                made = made.add_extension(names, critical=False)
            key_path.touch(mode=0o600)
            key_path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            cert.write_bytes(self._signed(made))
        return cert, key_path

    def context(self, name: str) -> ssl.SSLContext:
        """A client of this authority's servers, whatever they are called."""
        context = ssl.create_default_context(cafile=str(self.path))
        context.check_hostname = False
        context.load_cert_chain(*self.certificate(name))
        return context

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ip_address(text))
    return x509.DNSName(text)
