"""Known answers through the public API: a published test master is in the token, and what the authority gives out is compared
with vectors and with the rules computed here, which are compared with other people's vectors first.

The whole-system test tests/tests/system/python.rs founds the authority, has the master imported by its ceremony, and starts
this with CHANCERY_SCENE.
"""

import json
import os
import secrets
import unittest
from pathlib import Path

import stubs  # makes the modules below importable
import keysets
from authority import Identity, unseal_session_keys
from chancery.v1 import common_pb2, order_pb2, order_pb2_grpc, session_keys_pb2, session_keys_pb2_grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from key_forms import OPENERS, open_cell, open_key_block
from keysets import AIDS, DOMAINS, SCP03, Keyset

SCENE = json.loads(Path(os.environ["CHANCERY_SCENE"]).read_text())
MASTER = bytes.fromhex(SCENE["master"])


def vectors(name: str):
    return json.loads(Path(SCENE["vectors"], name).read_text())


DERIVATION, TRACES = vectors("chancery_derivation.json"), vectors("scp03.json")


def public_key() -> bytes:
    formats = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*formats)


def published(bits: int, domain: str) -> Keyset:
    keys = [
        bytes.fromhex(vector["key"])
        for vector in DERIVATION["vectors"]
        if (vector["algorithm"], vector["security_domain"]) == (f"AES-{bits}", domain)
    ]
    return Keyset(*keys)


class Rules(unittest.TestCase):
    """The judge is judged."""

    def test_derivation_gives_the_published_keys(self):
        for vector in DERIVATION["vectors"]:
            bits, domain = int(vector["algorithm"][4:]), DOMAINS[vector["security_domain"]]
            keyset = keysets.derived(MASTER, DERIVATION["eid"], domain, vector["kvn"], bits)
            key = getattr(keyset, vector["usage"])
            self.assertEqual((key.hex(), keysets.check_value(key).hex()), (vector["key"], vector["kcv"]))

    def test_sessions_are_those_that_real_cards_had(self):
        for trace in TRACES["pysim"]:
            keyset = Keyset(*(bytes.fromhex(trace[usage]) for usage in keysets.USAGES))
            challenges = (bytes.fromhex(trace[name]) for name in ("host_challenge", "card_challenge"))
            for name, value in keysets.session(keyset, *challenges)._asdict().items():
                self.assertEqual(value.hex(), trace[name], name)
            counter = bytes.fromhex(trace["sequence_counter"])
            challenge = keysets.pseudo_random_challenge(keyset, counter, AIDS[1], 8)
            self.assertEqual(challenge.hex(), trace["card_challenge"])


    def test_key_blocks_and_cells_of_other_software_open(self):
        for case in vectors("tr31_version_d.json")["cases"]:
            key = open_key_block(bytes.fromhex(case["kbpk"]), case["block"])[1]
            self.assertEqual(key.hex(), case["key"])
        for case in vectors("pysim_csv_cells.json")["cases"]:
            key = open_cell(*(bytes.fromhex(case[name]) for name in ("column_key", "cell")))
            self.assertEqual(key.hex(), case["key"])


class Authority(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.manufacturer, cls.provisioner = (Identity(Path(SCENE[name])) for name in ("eum", "provisioner"))
        orders = order_pb2_grpc.OrderServiceStub(cls.enterClassContext(cls.manufacturer.connect()))
        channel = cls.enterClassContext(cls.provisioner.connect())
        cls.sessions = session_keys_pb2_grpc.SessionKeyServiceStub(channel)
        # (EID, domain, bits): the device of the vectors first, with a further keyset on its ECASD.
        cls.keysets = {}
        for bits, eid in zip((128, 192, 256), [DERIVATION["eid"], *SCENE["eids"]]):
            cls.order(orders, f"isd-r-{bits}", eid, "ISD-R", 0x30, bits)
        cls.order(orders, "ecasd", DERIVATION["eid"], "ECASD", 0x3F, 128)
        # The same key version on three more devices, in the forms of other systems.
        forms = [order_pb2.ORDER_FORMAT_TR31, order_pb2.ORDER_FORMAT_PSKC, order_pb2.ORDER_FORMAT_PYSIM_CSV]
        for form, eid in zip(forms, SCENE["form_eids"]):
            cls.order(orders, f"form-{form}", eid, "ISD-R", 0x30, 256, form)

    @classmethod
    def order(
        cls, orders, name: str, eid: str, domain: str, key_version_number: int, bits: int, form: int = 0
    ) -> None:
        keyset = common_pb2.KeysetName(
            security_domain=DOMAINS[domain], protocol=SCP03, key_version_number=key_version_number
        )
        is_further = domain != "ISD-R"
        header = order_pb2.OrderHeader(
            order=name, issuer="" if is_further else SCENE["issuer"], keyset=keyset, key_bits=bits, format=form
        )
        header.further_keysets = is_further
        line = order_pb2.OrderLine(line=1, eid=eid, public_key=b"" if is_further else public_key())
        if is_further:
            line.ClearField("key")
        parts = [order_pb2.PlaceOrderRequest(header=header), order_pb2.PlaceOrderRequest(line=line)]
        *_, end = orders.PlaceOrder(iter(parts), timeout=30)
        assert end.summary.accepted == 1, end
        answers = orders.FetchOrderOutput(order_pb2.FetchOrderOutputRequest(order=name), timeout=30)
        output = b"".join(answer.lines for answer in answers)
        pem = Path(SCENE["eum"], "transport-key.pem").read_bytes()
        cls.keysets[eid, domain, bits] = keysets.open_order(output, pem, OPENERS)[eid]

    def test_keysets_are_the_published_ones(self):
        self.assertEqual(self.keysets[DERIVATION["eid"], "ISD-R", 128], published(128, "ISD-R"))
        self.assertEqual(self.keysets[DERIVATION["eid"], "ECASD", 128], published(128, "ECASD"))

    def test_keysets_of_every_length_and_in_every_form_follow_the_rule(self):
        self.assertEqual(len(self.keysets), 4 + 3)
        for (eid, domain, bits), keyset in self.keysets.items():
            key_version_number = 0x30 if domain == "ISD-R" else 0x3F
            expected = keysets.derived(MASTER, eid, DOMAINS[domain], key_version_number, bits)
            self.assertEqual(keyset, expected)

    def fetch(self, eid: str, i: int, length: int, counter: bytes, keyset: Keyset):
        host_challenge = secrets.token_bytes(length)
        if i & 0x10:
            card_challenge = keysets.pseudo_random_challenge(keyset, counter, AIDS[1], length)
        else:
            card_challenge = secrets.token_bytes(length)
        expected = keysets.session(keyset, host_challenge, card_challenge)
        request = session_keys_pb2.FetchSessionKeysRequest(
            idempotency_key=secrets.token_hex(16),
            eid=eid,
            keyset=common_pb2.KeysetName(security_domain=1, protocol=SCP03, key_version_number=0x30),
            host_challenge=host_challenge,
            card_challenge=card_challenge,
            card_cryptogram=expected.card_cryptogram,
            purpose=SCENE["purpose"],
            i_parameter=i,
            sequence_counter=counter if i & 0x10 else b"",
        )
        answer = self.sessions.FetchSessionKeys(request, timeout=30)
        return expected, answer, unseal_session_keys(self.provisioner, request, answer)

    def test_session_keys_of_every_length_and_mode_follow_the_rule(self):
        for number, (bits, eid) in enumerate(zip((128, 192, 256), [DERIVATION["eid"], *SCENE["eids"]])):
            keyset = self.keysets[eid, "ISD-R", bits]
            for i, length in [(0x00, 8), (0x01, 16), (0x70, 8), (0x71, 16)]:
                with self.subTest(bits=8 * len(keyset.enc), i=hex(i)):
                    counter = (0x100 * number + i).to_bytes(3)
                    expected, answer, keys = self.fetch(eid, i, length, counter, keyset)
                    self.assertEqual(tuple(keys), expected[:3])
                    self.assertEqual(answer.host_cryptogram, expected.host_cryptogram)
                    self.assertEqual(answer.key_bits, 8 * len(keyset.enc))


if __name__ == "__main__":
    unittest.main(verbosity=2)
