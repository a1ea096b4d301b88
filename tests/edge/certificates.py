"""Real certificates, good and bad ones, as files."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)


class Authority:
    """A certificate authority, and the files of what it issues.

    Attributes:
        ca: the file of its own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._authority = trustme.CA()
        self.ca = str(self._folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, file: str = "leaf", **options: Any) -> str:
        """One file with key and chain for these names; returns its path."""
        path = self._folder / f"{file}.pem"
        self._authority.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(
            path
        )
        return str(path)

    def expired(self, *names: str) -> str:
        return self.issue(*names, file="expired", not_before=NOW - 2 * DAY, not_after=NOW - DAY)

    def not_yet_valid(self, *names: str) -> str:
        return self.issue(*names, file="early", not_before=NOW + DAY, not_after=NOW + 2 * DAY)

    def cn_only(self, name: str) -> str:
        """A certificate whose one name is its common name."""
        return self.sign(name)

    def with_uri(self, dns: str, uri: str) -> str:
        """A certificate for a DNS name and a URI, which trustme knows nothing of."""
        return self.sign("", x509.DNSName(dns), x509.UniformResourceIdentifier(uri))

    def with_undecodable(self, kind: Any) -> str:
        """A certificate with an alternative name that is not UTF-8."""
        good, bad = b"spiffe://XXXX/", b"spiffe://\xff\xff\xff\xff/"
        path = Path(self.sign("", kind(good.decode())))
        key, _, certificate = path.read_bytes().partition(b"-----BEGIN CERTIFICATE")
        parsed = x509.load_pem_x509_certificate(b"-----BEGIN CERTIFICATE" + certificate)
        assert good in parsed.tbs_certificate_bytes
        body = parsed.tbs_certificate_bytes.replace(good, bad)
        signer: Any = serialization.load_pem_private_key(
            self._authority.private_key_pem.bytes(), password=None
        )
        signature = signer.sign(body, ec.ECDSA(hashes.SHA256()))
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
        whole = _der(0x30, body + algorithm + _der(0x03, b"\0" + signature))
        path.write_bytes(key + ssl.DER_cert_to_PEM_cert(whole).encode())
        return str(path)

    def sign(self, common_name: str, *names: x509.GeneralName) -> str:
        """A file with key and certificate, made without trustme."""
        authority = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
        signer: Any = serialization.load_pem_private_key(
            self._authority.private_key_pem.bytes(), password=None
        )
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), not subject)
        certificate = builder.sign(signer, hashes.SHA256())
        path = self._folder / "signed.pem"
        path.write_bytes(_key_pem(key) + certificate.public_bytes(PEM))
        return str(path)

    def client_context(self, cert: str | None = None) -> ssl.SSLContext:
        """For peers that are no gtcp clients."""
        context = ssl.create_default_context(cafile=self.ca)
        if cert is not None:
            context.load_cert_chain(cert)
        return context

    def server_context(self, cert: str) -> ssl.SSLContext:
        """For servers that are no gtcp servers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        return context


def self_signed(folder: Path, name: str) -> str:
    """A certificate that nobody but itself has signed."""
    other = Authority(folder, "self")
    key = Path(other._folder / "self.pem")
    key.write_bytes(other._authority.private_key_pem.bytes() + other._authority.cert_pem.bytes())
    return str(key)


def encrypted(pem: bytes) -> bytes:
    """The same key with a password, and the rest."""
    key: Any = serialization.load_pem_private_key(pem, password=None)
    return _key_pem(key, b"password") + pem[pem.index(b"-----BEGIN CERTIFICATE") :]


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(size)]) + size + content


def _key_pem(key: Any, password: bytes = b"") -> bytes:
    how: Any = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    pem: bytes = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, how)
    return pem
