"""Certificates made for a test, and HTTPS on loopback with them."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class Authority:
    """Signs certificates; `client` is what trusts them."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's authority")])
        self._itself = (
            _draft(self._name, self._key, days=1)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def client(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cadata=self._itself.public_bytes(Encoding.PEM).decode())

    def server(self, folder: Path, *names: str, days: int = 1) -> ssl.SSLContext:
        """With a certificate for names and addresses; it has expired where `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        known = x509.SubjectAlternativeName(list(map(_general, names)))
        signed = (
            _draft(x509.Name([]), key, days=days)
            .issuer_name(self._name)
            .add_extension(known, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        file = folder / "certificate.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + signed.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _draft(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Https:
    """A server that gives one body.

    Attributes:
        port: at 127.0.0.1.
        names: for which clients asked while they connected (SNI).
        paths: what they asked for then.
    """

    port: int = 0
    names: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def https(context: ssl.SSLContext, body: bytes) -> Iterator[Https]:
    """HTTPS until the end of the block."""

    seen = Https()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context.sni_callback = lambda _, name, __: seen.names.append(name)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        seen.port = server.server_address[1]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield seen
        server.shutdown()
        thread.join()
