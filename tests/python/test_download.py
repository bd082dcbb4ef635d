"""A manufacturer, an SM-DP+ and eUICCs in another language, against a running authority: devices are ordered and certified,
then profiles downloaded to them with the SM-DP+'s keys in the authority's token.

The whole-system test tests/tests/system/python.rs founds the authority and starts this with CHANCERY_SCENE.
"""

import json
import os
import secrets
import unittest
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import stubs  # makes the modules below importable
import bsp
from authority import Identity, refusal, unseal_bound_keys
from bsp import Profile
from chancery.v1 import certificate_pb2, certificate_pb2_grpc, common_pb2, order_pb2, order_pb2_grpc, rsp_pb2, rsp_pb2_grpc
from euicc import Euicc, Refused, confirmation_code_digest
from tlv import Reader, tlv

SCENE = json.loads(Path(os.environ["CHANCERY_SCENE"]).read_text())
VECTORS = json.loads(Path(SCENE["vectors"], "bsp_sgp22.json").read_text())
ISD_R, SCP03 = 1, 3
HOST_ID = b"smdp"
SESSION_KEYS, PROFILE_KEYS = rsp_pb2.PROFILE_PROTECTION_SESSION_KEYS, rsp_pb2.PROFILE_PROTECTION_PROFILE_KEYS
METADATA = tlv(0xBF25, tlv(0x5A, b"\x98" * 10), tlv(0x91, b"Operator"), tlv(0x92, b"Profile"))
PROFILE = Profile(METADATA, secrets.token_bytes(3_000))


def order_euiccs(manufacturer: Identity) -> dict[str, Euicc]:
    """The keys are made here, as chips make theirs; the order brings their certificates."""
    keys = {eid: ec.generate_private_key(ec.SECP256R1()) for eid in SCENE["eids"]}
    ci = x509.load_pem_x509_certificate(Path(SCENE["ci"]).read_bytes())
    keyset = common_pb2.KeysetName(security_domain=ISD_R, protocol=SCP03, key_version_number=SCENE["kvn"])
    header = order_pb2.OrderHeader(order="in-python", issuer=SCENE["issuer"], keyset=keyset, key_bits=128)
    euiccs = {}
    with manufacturer.connect() as channel:

        def parts():
            yield order_pb2.PlaceOrderRequest(header=header)
            for line, (eid, key) in enumerate(keys.items(), 1):
                formats = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                public_key = key.public_key().public_bytes(*formats)
                yield order_pb2.PlaceOrderRequest(line=order_pb2.OrderLine(line=line, eid=eid, public_key=public_key))

        *lines, end = order_pb2_grpc.OrderServiceStub(channel).PlaceOrder(parts(), timeout=30)
        assert (end.summary.accepted, end.summary.refused) == (len(keys), 0), lines
        certificates = certificate_pb2_grpc.CertificateServiceStub(channel)
        for answer in lines:
            eid = SCENE["eids"][answer.line.line - 1]
            issuer = certificates.GetCertificate(certificate_pb2.GetCertificateRequest(eid=eid)).issuer_certificate
            euiccs[eid] = Euicc(eid, keys[eid], answer.line.certificate, issuer, ci)
    return euiccs


class Download:
    """One transaction of the SM-DP+ with one eUICC: the three calls of ES9+, and what goes between them."""

    def __init__(self, service, identity: Identity, eid: str, euicc: Euicc):
        self._service, self._identity, self.eid, self.euicc = service, identity, eid, euicc

    def initiate(self, **other):
        fields = {"server_address": SCENE["server_address"], "euicc_info1": self.euicc.info1()} | other
        request = rsp_pb2.InitiateAuthenticationRequest(
            idempotency_key=secrets.token_hex(16),
            euicc_challenge=self.euicc.challenge(),
            purpose=SCENE["purpose"],
            **fields,
        )
        self.offer = self._service.InitiateAuthentication(request, timeout=30)
        return self.offer

    def authenticate(self, code: str | None = None, response: bytes | None = None):
        request = rsp_pb2.AuthenticateClientRequest(
            idempotency_key=secrets.token_hex(16),
            transaction_id=self.offer.transaction_id,
            authenticate_server_response=response or self.euicc.authenticate_server(self.offer, "MATCH"),
            confirmation_code_digest=b"" if code is None else confirmation_code_digest(code),
            purpose=SCENE["purpose"],
        )
        return self._service.AuthenticateClient(request, timeout=30)

    def bind(self, prepared: bytes, protection: int = SESSION_KEYS):
        request = rsp_pb2.BindProfileRequest(
            idempotency_key=secrets.token_hex(16),
            transaction_id=self.offer.transaction_id,
            prepare_download_response=prepared,
            host_id=HOST_ID,
            protection=protection,
            purpose=SCENE["purpose"],
        )
        return self._service.BindProfile(request, timeout=30)

    def keys(self, bound):
        return unseal_bound_keys(self._identity, self.eid, self.offer.transaction_id, bound)

    def package(self, bound) -> bytes:
        keys = self.keys(bound)
        profile_keys = keys.profile and bsp.Keys(*keys.profile)
        return bsp.bind(bound.initialise_secure_channel, bsp.Keys(*keys.session), profile_keys, PROFILE)


class SmDpPlus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.euiccs = order_euiccs(Identity(Path(SCENE["eum"])))
        cls.identity = Identity(Path(SCENE["provisioner"]))
        channel = cls.enterClassContext(cls.identity.connect())
        cls.service = rsp_pb2_grpc.RspServiceStub(channel)

    def download(self, number: int = 0) -> Download:
        eid = SCENE["eids"][number]
        return Download(self.service, self.identity, eid, self.euiccs[eid])

    def refused(self, call, *arguments, **fields):
        with self.assertRaises(grpc.RpcError) as raised:
            call(*arguments, **fields)
        return refusal(raised.exception)

    def test_a_profile_comes_out_of_the_euicc_as_the_server_bound_it(self):
        for protection, code in [(SESSION_KEYS, None), (PROFILE_KEYS, None), (SESSION_KEYS, "1234")]:
            with self.subTest(protection=protection, code=code):
                download = self.download()
                download.initiate()
                offer = download.authenticate(code)
                self.assertEqual((offer.eid, offer.matching_id), (download.eid, "MATCH"))
                bound = download.bind(download.euicc.prepare_download(offer, code), protection)
                self.assertEqual(download.keys(bound).profile is not None, protection == PROFILE_KEYS)
                self.assertEqual(download.euicc.install(download.package(bound)), PROFILE)

    def test_one_key_of_the_euicc_gets_one_set_of_keys_and_a_new_one_others(self):
        download = self.download()
        download.initiate()
        offer = download.authenticate()
        prepared = download.euicc.prepare_download(offer, None)
        bound, again = download.bind(prepared), download.bind(prepared)
        self.assertEqual(download.keys(bound), download.keys(again))
        other = download.bind(download.euicc.prepare_download(offer, None))
        self.assertTrue(set(download.keys(other).session).isdisjoint(download.keys(bound).session))
        with self.assertRaises(Refused):
            download.euicc.install(download.package(bound))
        self.assertEqual(download.euicc.install(download.package(other)), PROFILE)

    def test_sealed_keys_open_for_their_euicc_and_transaction_alone(self):
        download = self.download()
        download.initiate()
        bound = download.bind(download.euicc.prepare_download(download.authenticate(), None))
        for eid, transaction_id in [
            (SCENE["eids"][1], download.offer.transaction_id),
            (download.eid, bytes(16)),
        ]:
            with self.assertRaises(InvalidTag):
                unseal_bound_keys(self.identity, eid, transaction_id, bound)

    def test_a_changed_segment_is_not_installed(self):
        download = self.download()
        download.initiate()
        bound = download.bind(download.euicc.prepare_download(download.authenticate(), None))
        package = download.package(bound)
        for at in (package.index(METADATA), len(package) - 20):
            changed = bytearray(package)
            changed[at + 12] ^= 1
            with self.assertRaises(ValueError):
                download.euicc.install(bytes(changed))

    def test_the_euicc_refuses_what_the_server_did_not_sign(self):
        download = self.download()
        stale = download.initiate()
        offer = download.initiate()
        changed = bytearray(offer.server_signed1)
        changed[-1] ^= 1
        offer.server_signed1 = bytes(changed)
        with self.assertRaises(Refused) as signature:
            download.euicc.authenticate_server(offer, "MATCH")
        download.euicc.challenge()
        with self.assertRaises(Refused) as challenge:
            download.euicc.authenticate_server(stale, "MATCH")
        self.assertEqual((signature.exception.args, challenge.exception.args), ((2,), (6,)))

    def test_refusals_say_what_the_device_is_to_be_told(self):
        download = self.download()
        wrong_address = self.refused(download.initiate, server_address="elsewhere.example")
        self.assertEqual(wrong_address[1:2] + wrong_address[3:], ("SERVER_ADDRESS_MISMATCH", ("8.8.1", "3.8")))
        keys = tlv(0x04, bytes(20))
        other_ci = tlv(0xBF20, tlv(0x82, b"\2\2\2"), tlv(0xA9, keys), tlv(0xAA, keys))
        unknown_ci = self.refused(download.initiate, euicc_info1=other_ci)
        self.assertEqual(unknown_ci[1:2] + unknown_ci[3:], ("CI_NOT_SUPPORTED", ("8.8.2", "3.1")))
        # The signature of another eUICC, over the right challenge.
        download.initiate()
        other = self.download(1)
        other.initiate()
        responses = [each.euicc.authenticate_server(each.offer, "MATCH") for each in (download, other)]
        mixed = [Reader(Reader(Reader(each).next().value).next().value) for each in responses]
        fields = [[reader.next().whole for _ in range(4)] for reader in mixed]
        forged = tlv(0xBF38, tlv(0xA0, fields[0][0], fields[1][1], *fields[0][2:]))
        wrong = self.refused(download.authenticate, response=forged)
        self.assertEqual(wrong[1:2] + wrong[3:], ("EUICC_SIGNATURE_MISMATCH", ("8.1", "6.1")))

    def test_a_wrong_confirmation_code_gets_no_keys(self):
        download = self.download(1)
        download.initiate()
        offer = download.authenticate("1234")
        wrong = self.refused(download.bind, download.euicc.prepare_download(offer, "4321"))
        self.assertEqual(wrong[1:2] + wrong[3:], ("CONFIRMATION_CODE_MISMATCH", ("8.2.7", "3.8")))
        bound = download.bind(download.euicc.prepare_download(offer, "1234"))
        self.assertEqual(download.euicc.install(download.package(bound)), PROFILE)


class PublishedExample(unittest.TestCase):
    """The judge is judged: this client's key derivation and segments are those of another SM-DP+'s trace."""

    def test_keys_and_segments_are_those_that_were_published(self):
        for example in VECTORS["kdf"]:
            fields = (bytes.fromhex(example[name]) for name in ("shared_secret", "host_id", "eid"))
            keys = bsp.Keys.agreed(*fields)
            published = [example[name] for name in ("s_enc", "s_mac", "initial_mac_chaining_value")]
            self.assertEqual([key.hex() for key in keys], published)
        server, chip = bsp.Stretch(keys), bsp.Stretch(keys)
        for example in VECTORS["segments"]:
            tag, data = int(example["tag"], 16), bytes.fromhex(example["data"])
            protect = {"encrypted": server.encrypt, "maced": server.authenticate}[example["protection"]]
            segment = protect(tag, data)
            self.assertEqual(segment.hex(), example["segment"])
            unprotect = {"encrypted": chip.decrypt, "maced": chip.check}[example["protection"]]
            self.assertEqual(unprotect(Reader(segment).next()), data)


if __name__ == "__main__":
    unittest.main(verbosity=2)
