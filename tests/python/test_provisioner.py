"""A provisioning server in another language, against a running authority and the simulated cards.

The whole-system test tests/tests/system/python.rs founds the authority and starts this with CHANCERY_SCENE.
"""

import json
import os
import secrets
import unittest
from pathlib import Path

import grpc
from cryptography.exceptions import InvalidTag

import stubs  # makes the modules below importable
from authority import Identity, refusal, unseal_session_keys
from chancery.v1 import common_pb2, operation_pb2, operation_pb2_grpc, rotation_pb2, rotation_pb2_grpc
from chancery.v1 import session_keys_pb2, session_keys_pb2_grpc
from scp03 import Card, Channel, initialize_update

SCENE = json.loads(Path(os.environ["CHANCERY_SCENE"]).read_text())
GET_EID = bytes.fromhex("bf3e035c015a")
ISD_R, SCP03 = 1, 3
C_MAC_C_ENC, ALL_PROTECTION = 0x03, 0x33


def card(eid: str, *options: str) -> Card:
    arguments = ["--order", SCENE["order"], "--transport-key", SCENE["transport_key"], "--eid", eid]
    return Card(SCENE["card_program"], [*arguments, *options])


def request(eid: str, initialized, host_challenge: bytes, purpose: str = SCENE["purpose"]):
    name = common_pb2.KeysetName(
        security_domain=ISD_R, protocol=SCP03, key_version_number=initialized.key_version_number
    )
    return session_keys_pb2.FetchSessionKeysRequest(
        idempotency_key=secrets.token_hex(16),
        eid=eid,
        keyset=name,
        host_challenge=host_challenge,
        card_challenge=initialized.challenge,
        card_cryptogram=initialized.cryptogram,
        purpose=purpose,
    )


class Provisioner(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.identity = Identity(Path(SCENE["provisioner"]))
        cls.channel = cls.enterClassContext(cls.identity.connect())
        cls.service = session_keys_pb2_grpc.SessionKeyServiceStub(cls.channel)

    def ask(self, chip: Card, eid: str, **terms):
        host_challenge = secrets.token_bytes(8)
        asked = request(eid, initialize_update(chip, SCENE["kvn"], host_challenge), host_challenge, **terms)
        return asked, self.service.FetchSessionKeys(asked, timeout=30)

    def refused(self, chip: Card, eid: str, **terms):
        with self.assertRaises(grpc.RpcError) as raised:
            self.ask(chip, eid, **terms)
        return refusal(raised.exception)

    def test_session_keys_open_a_channel_with_a_card_at_every_level(self):
        for level, i in [(C_MAC_C_ENC, "00"), (ALL_PROTECTION, "60")]:
            with self.subTest(level=level), card(SCENE["granted"], "--i", i) as chip:
                asked, answer = self.ask(chip, SCENE["granted"])
                keys = unseal_session_keys(self.identity, asked, answer)
                self.assertEqual(answer.key_bits, 8 * len(keys.s_enc))
                channel = Channel(chip, keys, level)
                self.assertEqual(channel.external_authenticate(answer.host_cryptogram), 0x9000)
                # STORE DATA with ES10c.GetEID: the card decrypts it, or would close the channel.
                eid = bytes.fromhex("bf3e125a10" + SCENE["granted"])
                for _ in range(2):
                    self.assertEqual(channel.send(bytes.fromhex("80e29100"), GET_EID), (eid, 0x9000))

    def test_keys_of_one_session_open_no_other(self):
        with card(SCENE["granted"]) as chip:
            asked, answer = self.ask(chip, SCENE["granted"])
            keys = unseal_session_keys(self.identity, asked, answer)
            initialize_update(chip, SCENE["kvn"], secrets.token_bytes(8))
            status = Channel(chip, keys, C_MAC_C_ENC).external_authenticate(answer.host_cryptogram)
            self.assertNotEqual(status, 0x9000)

    def test_an_answer_opens_only_as_the_answer_to_its_request(self):
        with card(SCENE["granted"]) as chip:
            asked, answer = self.ask(chip, SCENE["granted"])
        asked.idempotency_key += "x"
        with self.assertRaises(InvalidTag):
            unseal_session_keys(self.identity, asked, answer)

    def test_a_repeat_brings_the_same_keys_sealed_anew(self):
        with card(SCENE["granted"]) as chip:
            asked, answer = self.ask(chip, SCENE["granted"])
        again = self.service.FetchSessionKeys(asked, timeout=30)
        self.assertNotEqual(again.ciphertext, answer.ciphertext)
        self.assertGreater(again.entry_index, answer.entry_index)
        unsealed = [unseal_session_keys(self.identity, asked, each) for each in (answer, again)]
        self.assertEqual(unsealed[0], unsealed[1])

    def test_refusals_carry_their_reason_and_the_index_of_their_entry(self):
        denied = grpc.StatusCode.PERMISSION_DENIED
        with card(SCENE["granted"], "--wrong-cryptogram") as chip:
            wrong = self.refused(chip, SCENE["granted"])
            self.assertEqual(wrong[:2], (denied, "CARD_CRYPTOGRAM_MISMATCH"))
        with card(SCENE["not_granted"]) as chip:
            not_granted = self.refused(chip, SCENE["not_granted"])
            self.assertEqual(not_granted[:2], (denied, "NOT_GRANTED"))
        with card(SCENE["granted"]) as chip:
            purpose = self.refused(chip, SCENE["granted"], purpose="curiosity")
            self.assertEqual(purpose[:2], (denied, "NOT_GRANTED"))
        self.assertTrue(wrong.entry_index < not_granted.entry_index < purpose.entry_index)

    def test_lists_come_to_those_whose_role_may_read_them(self):
        rotations = rotation_pb2_grpc.RotationServiceStub(self.channel)
        self.assertEqual(len(rotations.ListRotations(rotation_pb2.ListRotationsRequest()).rotations), 0)
        operations = operation_pb2_grpc.OperationServiceStub(self.channel)
        with self.assertRaises(grpc.RpcError) as raised:
            operations.ListOperations(operation_pb2.ListOperationsRequest())
        self.assertEqual(refusal(raised.exception).reason, "ROLE_NOT_ALLOWED")
        with Identity(Path(SCENE["officer"])).connect() as channel:
            operations = operation_pb2_grpc.OperationServiceStub(channel)
            listed = operations.ListOperations(operation_pb2.ListOperationsRequest()).operations
            self.assertGreaterEqual(len(listed), 3)

    def test_a_caller_without_a_certificate_gets_no_connection(self):
        root = (Path(SCENE["provisioner"]) / "authority-ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(root_certificates=root)
        with grpc.secure_channel(self.identity.server, credentials) as channel:
            rotations = rotation_pb2_grpc.RotationServiceStub(channel)
            with self.assertRaises(grpc.RpcError) as raised:
                rotations.ListRotations(rotation_pb2.ListRotationsRequest(), timeout=10)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)


if __name__ == "__main__":
    unittest.main(verbosity=2)
