"""A peer that floods a TLS 1.3 connection with key updates, which ``ssl`` can't send."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

#: Hash and key length of a cipher suite (RFC 8446, appendix B.4).
_SUITES: dict[str, tuple[hashes.HashAlgorithm, int]] = {
    "TLS_AES_256_GCM_SHA384": (hashes.SHA384(), 32),
    "TLS_AES_128_GCM_SHA256": (hashes.SHA256(), 16),
}

#: A KeyUpdate message that requests one of the other side, and its record's content type.
_KEY_UPDATE = b"\x18\x00\x00\x01\x01" + b"\x16"


class KeyUpdates:
    """Encrypts key updates for a client's connection; the connection itself sends nothing any more.

    Args:
        tls: after its handshake, and before any application data.
        keylog: the file that its context was told to log its keys to.
    """

    def __init__(self, tls: ssl.SSLSocket | ssl.SSLObject, keylog: Path) -> None:
        cipher = tls.cipher()
        assert cipher is not None
        self._hash, self._key_length = _SUITES[cipher[0]]
        line = next(
            each
            for each in reversed(keylog.read_text().splitlines())
            if each.startswith("CLIENT_TRAFFIC_SECRET_0 ")
        )
        self._secret = bytes.fromhex(line.split()[2])

    def records(self, count: int) -> bytes:
        """Return so many key updates, each of which the peer has to answer."""
        return b"".join(self._record() for _ in range(count))

    def _record(self) -> bytes:
        key, iv = self._expand(b"key", self._key_length), self._expand(b"iv", 12)
        header = b"\x17\x03\x03" + (len(_KEY_UPDATE) + 16).to_bytes(2, "big")
        self._secret = self._expand(b"traffic upd", self._hash.digest_size)
        return header + AESGCM(key).encrypt(iv, _KEY_UPDATE, header)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\x00"
        return HKDFExpand(self._hash, length, info).derive(self._secret)
