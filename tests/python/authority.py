"""A client of the authority: mutual TLS from an identity's folder, reasons of refusals, sealed answers opened.

Written from the contract (proto/) and docs/formats/ alone, with grpcio and pyca/cryptography; it shares no code with
the authority.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hpke, serialization
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Identity:
    """The folder that `chancery identity create` makes and `install` completes."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.server = tomllib.loads(self._read("profile.toml").decode())["server"]

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def connect(self) -> grpc.Channel:
        """A connection to the authority, both ends with certificates of its CA."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._read("authority-ca.pem"),
            private_key=self._read("tls-key.pem"),
            certificate_chain=self._read("tls.pem"),
        )
        return grpc.secure_channel(self.server, credentials)

    @property
    def principal(self) -> bytes:
        """What the authority knows the caller by: SHA-256 over the SubjectPublicKeyInfo of its TLS certificate."""
        certificate = x509.load_pem_x509_certificate(self._read("tls.pem"))
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).digest()

    def open(self, encapsulated_key: bytes, ciphertext: bytes, info: bytes) -> bytes:
        """Opens what was sealed to the registered encryption key (HPKE base mode, RFC 9180)."""
        suite = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
        key = serialization.load_pem_private_key(self._read("encryption-key.pem"), password=None)
        return suite.decrypt(encapsulated_key + ciphertext, key, info=info)


class SessionKeys(NamedTuple):
    """The plaintext of docs/formats/sealed-session-keys.md."""

    s_enc: bytes
    s_mac: bytes
    s_rmac: bytes


def unseal_session_keys(identity: Identity, request, answer) -> SessionKeys:
    """Opens the answer to FetchSessionKeys; fails when it was made for another request."""
    request_id = request.idempotency_key.encode()
    mode = b"" if len(request.host_challenge) == 8 else b"/s16"
    info = b"".join(
        [
            b"chancery-session-keys/v1" + mode + b"\0",
            identity.principal,
            bytes.fromhex(request.eid),
            bytes([request.keyset.key_version_number]),
            request.host_challenge,
            request.card_challenge,
            bytes([len(request_id)]),
            request_id,
        ]
    )
    plaintext = identity.open(answer.encapsulated_key, answer.ciphertext, info)
    version, length = plaintext[0], plaintext[1]
    if version != 1 or length not in (16, 24, 32) or len(plaintext) != 2 + 3 * length:
        raise ValueError("not the plaintext of session keys")
    return SessionKeys(*(plaintext[2 + i * length : 2 + (i + 1) * length] for i in range(3)))


class BoundKeys(NamedTuple):
    """The plaintext of docs/formats/sealed-bsp-keys.md: encryption key, MAC key, chaining value."""

    session: tuple[bytes, bytes, bytes]
    profile: tuple[bytes, bytes, bytes] | None


def unseal_bound_keys(identity: Identity, eid: str, transaction_id: bytes, answer) -> BoundKeys:
    """Opens the answer to BindProfile; fails when it was made for another eUICC or transaction."""
    request_id = answer.request_id.encode()
    context = identity.principal + bytes.fromhex(eid) + transaction_id
    info = b"chancery-bsp-keys/v1\0" + context + bytes([len(request_id)]) + request_id
    plaintext = identity.open(answer.encapsulated_key, answer.ciphertext, info)
    if (plaintext[0], plaintext[1], len(plaintext)) not in ((1, 1, 50), (1, 2, 98)):
        raise ValueError("not the plaintext of BSP keys")
    keys = [plaintext[at : at + 16] for at in range(2, len(plaintext), 16)]
    return BoundKeys(tuple(keys[:3]), tuple(keys[3:]) or None)


class Refusal(NamedTuple):
    """Why the authority said no, and where it wrote that down."""

    code: grpc.StatusCode
    reason: str
    entry_index: int
    # Subject and reason code of SGP.22 §5.2.6 where a party of RSP has to pass them on.
    sgp22: tuple[str, str] | None


def refusal(error: grpc.RpcError) -> Refusal:
    """The reason code from the google.rpc.Status in the trailers of a failed call."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        raise ValueError(f"a refusal without reason: {error}")
    trailers = {entry.key: entry.value for entry in error.trailing_metadata()}
    sgp22 = (info.metadata["sgp22_subject"], info.metadata["sgp22_reason"]) if "sgp22_subject" in info.metadata else None
    return Refusal(error.code(), info.reason, int(trailers["chancery-entry-index"]), sgp22)
