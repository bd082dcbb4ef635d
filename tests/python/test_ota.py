"""An OTA platform in another language that lets the authority do its cryptography: packets and scripts come out byte for byte
as the rules give them under a published test master, and what a card answers is opened.

The whole-system test tests/tests/system/python.rs founds the authority, has the master imported and the keysets ordered, and
starts this with CHANCERY_SCENE.
"""

import json
import os
import secrets
import unittest
from pathlib import Path

import grpc

import keysets
import scp80
import stubs  # makes the modules below importable
from authority import Identity, refusal
from chancery.v1 import common_pb2, ota_pb2, ota_pb2_grpc
from keysets import AIDS, SCP03, SCP80, cmac
from scp03 import Channel

SCENE = json.loads(Path(os.environ["CHANCERY_SCENE"]).read_text())
MASTER, EID = bytes.fromhex(SCENE["master"]), SCENE["eid"]
ISD_R, C_MAC_C_ENC, ALL_PROTECTION = 1, 0x03, 0x33
GET_STATUS, GET_DATA = bytes.fromhex("80f24002024f00"), bytes.fromhex("80ca00660155")


class Rules(unittest.TestCase):
    """The judge is judged."""

    def test_packets_are_those_of_real_cards_and_of_other_software(self):
        vectors = json.loads(Path(SCENE["vectors"], "scp80_packets.json").read_text())
        compared = 0
        for vector in vectors["commands"]:
            parameters = bytes.fromhex(vector["spi"])
            if vector["algorithm"] not in (128, 192, 256) or parameters[0] & 3 != scp80.CHECKSUM:
                continue
            kic, kid, tar, data = (bytes.fromhex(vector[name]) for name in ("kic", "kid", "tar", "data"))
            header = scp80.Header(vector["kvn"], parameters, tar)
            packet = scp80.command_packet(kic, kid, header, vector["counter"], data)
            self.assertEqual(packet.hex(), vector["packet"])
            self.assertEqual(scp80.opened(kic, kid, packet), (header, vector["counter"], data))
            compared += 1
        self.assertGreaterEqual(compared, 4)


class Card:
    """The far end of a script: keeps what it is sent, and answers under the protection of the level."""

    def __init__(self, session: keysets.Session, level: int, answers: list[bytes]):
        self._session, self._level, self._answers = session, level, iter(answers)
        self._chain, self._counter, self.commands, self.answers = bytes(16), 0, [], []

    def send(self, command: bytes) -> tuple[bytes, int]:
        self.commands.append(command)
        self._chain = cmac(self._session.s_mac, self._chain + command[:-8])
        if len(self.commands) == 1:
            return b"", 0x9000
        self._counter += 1
        answer = next(self._answers)
        if self._level & 0x20:
            answer = Channel.encrypted(self._session.s_enc, self._counter, answer)
        if self._level & 0x10:
            answer += cmac(self._session.s_rmac, self._chain + answer + b"\x90\0")[:8]
        self.answers.append(answer + b"\x90\0")
        return answer, 0x9000


class Platform(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        channel = cls.enterClassContext(Identity(Path(SCENE["provisioner"])).connect())
        cls.service = ota_pb2_grpc.OtaServiceStub(channel)
        cls.scp80 = keysets.derived(MASTER, EID, ISD_R, SCENE["scp80_kvn"], 128, SCP80)
        cls.scp03 = keysets.derived(MASTER, EID, ISD_R, SCENE["scp03_kvn"], 128)

    def keyset(self, protocol: int, key_version_number: int):
        return common_pb2.KeysetName(
            security_domain=ISD_R, protocol=protocol, key_version_number=key_version_number
        )

    def packet_request(self, **fields):
        return ota_pb2.SecurePacketRequest(
            idempotency_key=secrets.token_hex(16),
            eid=EID,
            keyset=self.keyset(SCP80, SCENE["scp80_kvn"]),
            tar=bytes.fromhex(SCENE["tar"]),
            commands=[GET_STATUS],
            format=ota_pb2.SCRIPT_FORMAT_COMPACT,
            purpose=SCENE["purpose"],
            **fields,
        )

    def test_packets_follow_the_rule_with_a_counter_that_is_never_used_twice(self):
        counters = []
        for when, ciphered in [(None, False), (ota_pb2.RECEIPT_WHEN_ALWAYS, True), (ota_pb2.RECEIPT_WHEN_ALWAYS, False)]:
            receipt = when and ota_pb2.PacketReceipt(when=when, ciphered=ciphered)
            request = self.packet_request(receipt=receipt)
            answer, again = (self.service.SecurePacket(request, timeout=30) for _ in range(2))
            self.assertEqual((answer.packet, answer.counter), (again.packet, again.counter))
            tar = bytes.fromhex(SCENE["tar"])
            header = scp80.Header(SCENE["scp80_kvn"], answer.security_parameters, tar)
            kic, kid = self.scp80.enc, self.scp80.mac
            expected = scp80.command_packet(kic, kid, header, answer.counter, GET_STATUS)
            self.assertEqual(answer.packet.hex(), expected.hex())
            counters.append(answer.counter)
            if receipt is None:
                continue
            said = bytes.fromhex("019000") + b"what the card says"
            response = scp80.response_packet(kic, kid, header, answer.counter, 0, said)
            packet = ota_pb2.PacketAnswer(
                response_packet=response, security_parameters=answer.security_parameters
            )
            opening = ota_pb2.OpenResponseRequest(
                eid=EID, keyset=request.keyset, purpose=SCENE["purpose"], packet=packet
            )
            opened = self.service.OpenResponse(opening, timeout=30).packet
            self.assertEqual((opened.counter, opened.status, opened.data), (answer.counter, 0, said))
            opening.packet.response_packet = response[:-1] + bytes([response[-1] ^ 1])
            with self.assertRaises(grpc.RpcError):
                self.service.OpenResponse(opening, timeout=30)
        self.assertEqual(counters, sorted(set(counters)))

    def test_what_no_grant_names_is_not_made(self):
        other_tar, key_management = self.packet_request(), self.packet_request()
        other_tar.tar = bytes.fromhex("abcdef")
        key_management.commands.append(bytes.fromhex("80e60000"))
        for request, reason in [(other_tar, "TAR_NOT_GRANTED"), (key_management, "KEY_MANAGEMENT_COMMAND")]:
            with self.assertRaises(grpc.RpcError) as raised:
                self.service.SecurePacket(request, timeout=30)
            self.assertEqual(refusal(raised.exception).reason, reason)

    def test_scripts_are_what_a_channel_would_send_and_answers_to_them_open(self):
        for number, level in enumerate([C_MAC_C_ENC, ALL_PROTECTION]):
            with self.subTest(level=hex(level)):
                counter = (5 + number).to_bytes(3)
                request = ota_pb2.WrapScriptRequest(
                    idempotency_key=secrets.token_hex(16),
                    eid=EID,
                    keyset=self.keyset(SCP03, SCENE["scp03_kvn"]),
                    commands=[GET_STATUS, GET_DATA],
                    i_parameter=0x70,
                    security_level=level,
                    sequence_counter=counter,
                    purpose=SCENE["purpose"],
                )
                script = self.service.WrapScript(request, timeout=30)
                challenge = keysets.pseudo_random_challenge(self.scp03, counter, AIDS[ISD_R], 8)
                session = keysets.session(self.scp03, script.host_challenge, challenge)
                expected = (challenge, session.card_cryptogram)
                self.assertEqual((script.card_challenge, script.card_cryptogram), expected)
                initialize = bytes([0x80, 0x50, SCENE["scp03_kvn"], 0, 8]) + script.host_challenge
                self.assertEqual(script.initialize_update[:13], initialize)
                said = [b"the state of an application", b"card data"]
                card = Card(session, level, said)
                channel = Channel(card, session, level)
                channel.external_authenticate(session.host_cryptogram)
                for command in request.commands:
                    channel.send(command[:4], command[5:])
                self.assertEqual([script.external_authenticate, *script.commands], card.commands)
                answers = ota_pb2.ScriptAnswers(
                    host_challenge=script.host_challenge,
                    sequence_counter=counter,
                    security_level=level,
                    commands=script.commands,
                    answers=card.answers,
                )
                opening = ota_pb2.OpenResponseRequest(
                    eid=EID, keyset=request.keyset, purpose=SCENE["purpose"], script=answers
                )
                opened = self.service.OpenResponse(opening, timeout=30).script.answers
                self.assertEqual([answer.data for answer in opened], said)
                self.assertEqual([answer.proved for answer in opened], [bool(level & 0x10)] * 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
