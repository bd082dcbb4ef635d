"""An eUICC as far as a download goes (SGP.22 §5.7), and the device that carries its objects; written from the standard.

What it refuses it raises: `Refused` with the number that ES10b has for it.
"""

import hashlib
import secrets

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from bsp import AES, KEY_LENGTH, Keys, Profile, open_segments
from tlv import Reader, inside, tlv

DP_AUTH, DP_PB = "2.23.146.1.2.1.4", "2.23.146.1.2.1.5"
_ECDSA = ec.ECDSA(hashes.SHA256())


class Refused(Exception):
    """The code of AuthenticateErrorCode, DownloadErrorCode or ErrorReason."""


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(message, _ECDSA))
    return tlv(0x5F37, r.to_bytes(32) + s.to_bytes(32))


def _verify(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes, code: int) -> None:
    if len(signature) != 64:
        raise Refused(code)
    signature = utils.encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    try:
        key.verify(signature, message, _ECDSA)
    except InvalidSignature:
        raise Refused(code) from None


def _registered_id(certificate: x509.Certificate) -> x509.ObjectIdentifier:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.RegisteredID)[0]


class Euicc:
    def __init__(self, eid: str, key, certificate: bytes, eum_certificate: bytes, ci: x509.Certificate):
        self._eid, self._key, self._ci = bytes.fromhex(eid), key, ci
        self._certificates = certificate + eum_certificate
        identifier = ci.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self._ci_key_id = identifier.digest
        self._challenge = self._transaction = self._server = self._one_time = None

    def info1(self) -> bytes:
        keys = tlv(0x04, self._ci_key_id)
        return tlv(0xBF20, tlv(0x82, b"\2\2\2"), tlv(0xA9, keys), tlv(0xAA, keys))

    def _info2(self) -> bytes:
        keys = tlv(0x04, self._ci_key_id)
        versions = [tlv(0x81, b"\2\3\1"), tlv(0x82, b"\2\2\2"), tlv(0x83, b"\1\0\0")]
        resources = tlv(0x84, bytes.fromhex("8101008204000800008302" + "2000"))
        capabilities = [tlv(0x85, b"\x01\x6a\x02"), tlv(0x86, b"\x09\0\0"), tlv(0x87, b"\2\3\0"), tlv(0x88, b"\x06\xc0")]
        lists = [tlv(0xA9, keys), tlv(0xAA, keys), tlv(0x8B, b"\2"), tlv(0x04, b"\1\0\0"), tlv(0x0C, b"TS-EU-0000")]
        return tlv(0xBF22, *versions, resources, *capabilities, *lists)

    def challenge(self) -> bytes:
        self._challenge = secrets.token_bytes(16)
        return self._challenge

    def authenticate_server(self, offer, matching_id: str) -> bytes:
        """AuthenticateServer (§5.7.13) with what the SM-DP+ answered to InitiateAuthentication."""
        challenge, self._challenge = self._challenge, None
        if offer.ci_key_id != self._ci_key_id:
            raise Refused(7)
        certificate = self._server_certificate(offer.server_certificate, DP_AUTH)
        _verify(certificate.public_key(), offer.server_signed1, offer.server_signature1, 2)
        signed = inside(offer.server_signed1, 0x30)
        transaction, euicc_challenge = signed.expect(0x80), signed.expect(0x81)
        address, server_challenge = signed.expect(0x83), signed.expect(0x84)
        signed.end()
        if euicc_challenge.value != challenge:
            raise Refused(6)
        device = tlv(0xA1, tlv(0x80, bytes.fromhex("35290611")), tlv(0xA1))
        context = tlv(0xA0, tlv(0x80, matching_id.encode()), device)
        signed1 = tlv(0x30, transaction.whole, address.whole, server_challenge.whole, self._info2(), context)
        self._signature1 = _sign(self._key, signed1)
        self._transaction, self._registered_id = transaction, _registered_id(certificate)
        return tlv(0xBF38, tlv(0xA0, signed1, self._signature1, self._certificates))

    def prepare_download(self, offer, confirmation_code: str | None) -> bytes:
        """PrepareDownload (§5.7.5) with what the SM-DP+ answered to AuthenticateClient; each makes a new one-time key."""
        certificate = self._server_certificate(offer.smdp_certificate, DP_PB)
        if _registered_id(certificate) != self._registered_id:
            raise Refused(1)
        signature2 = tlv(0x5F37, offer.smdp_signature2)
        message = offer.smdp_signed2 + self._signature1
        _verify(certificate.public_key(), message, offer.smdp_signature2, 2)
        signed = inside(offer.smdp_signed2, 0x30)
        if signed.expect(0x80) != self._transaction:
            raise Refused(5)
        wants_code = signed.expect(0x01).value != b"\0"
        if wants_code != (confirmation_code is not None):
            raise Refused(127)
        self._server, self._one_time = certificate.public_key(), ec.generate_private_key(ec.SECP256R1())
        fields = [self._transaction.whole, tlv(0x5F49, point(self._one_time.public_key()))]
        if wants_code:
            fields.append(tlv(0x04, hash_cc(confirmation_code, self._transaction.value)))
        signed2 = tlv(0x30, *fields)
        return tlv(0xBF21, tlv(0xA0, signed2, _sign(self._key, signed2 + signature2)))

    def install(self, package: bytes) -> Profile:
        """LoadBoundProfilePackage, all of it at once: the profile that is now installed."""
        parts = inside(package, 0xBF36)
        fields = Reader(parts.expect(0xBF23).value)
        operation, transaction, template = fields.expect(0x82), fields.expect(0x80), fields.expect(0xA6)
        server_key, signature = fields.expect(0x5F49), fields.expect(0x5F37)
        fields.end()
        if operation.value != b"\x01" or transaction != self._transaction:
            raise Refused(3)
        own_key = tlv(0x5F49, point(self._one_time.public_key()))
        signed = [operation.whole, transaction.whole, template.whole, server_key.whole, own_key]
        _verify(self._server, b"".join(signed), signature.value, 2)
        terms = Reader(template.value)
        if (terms.expect(0x80).value, terms.expect(0x81).value) != (bytes([AES]), bytes([KEY_LENGTH])):
            raise Refused(4)
        host_id = terms.expect(0x84).value
        terms.end()
        server = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), server_key.value)
        shared_secret = self._one_time.exchange(ec.ECDH(), server)
        return open_segments(parts, Keys.agreed(shared_secret, host_id, self._eid))

    def _server_certificate(self, der: bytes, role: str) -> x509.Certificate:
        """§4.5.2: signed by our CI, for this role."""
        certificate = x509.load_der_x509_certificate(der)
        try:
            certificate.verify_directly_issued_by(self._ci)
        except (InvalidSignature, ValueError):
            raise Refused(1) from None
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
        if [policy.policy_identifier.dotted_string for policy in policies] != [role]:
            raise Refused(5)
        return certificate


def confirmation_code_digest(code: str) -> bytes:
    """What an SM-DP+ keeps of a confirmation code instead of the code."""
    return hashlib.sha256(code.encode()).digest()


def hash_cc(code: str, transaction_id: bytes) -> bytes:
    """The hash that proves the code in one transaction."""
    return hashlib.sha256(confirmation_code_digest(code) + transaction_id).digest()
