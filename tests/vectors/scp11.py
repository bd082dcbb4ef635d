"""Writes scp11.json: SCP11a and SCP11c by the Python package cryptography (GP Card Specification Amendment F)."""

import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def key(name):
    """A private key that anybody can make again."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1
    return ec.derive_private_key(number, ec.SECP256R1())


def point(private):
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def shared(private, other):
    return private.exchange(ec.ECDH(), other.public_key())


def tlv(tag, value):
    return bytes.fromhex(tag) + bytes([len(value)]) + value


vectors = []
for parameter in (1, 3):
    for usage in (0x3C, 0x34):
        for length in (16, 24, 32):
            name = f"{parameter}-{usage:02x}-{length}"
            one_time, oce, card = key("esk-oce " + name), key("sk-oce " + name), key("sk-sd " + name)
            card_one_time = key("esk-sd " + name) if parameter == 1 else card
            template = (
                tlv("90", bytes([0x11, parameter]))
                + tlv("95", bytes([usage]))
                + tlv("80", b"\x88")
                + tlv("81", bytes([length]))
            )
            command = tlv("a6", template) + tlv("5f49", point(one_time))
            static_secret = shared(oce, card)
            kdf = X963KDF(hashes.SHA256(), 5 * length, bytes([usage, 0x88, length]))
            material = kdf.derive(shared(one_time, card_one_time) + static_secret)
            card_key = tlv("5f49", point(card_one_time))
            mac = CMAC(algorithms.AES(material[:length]))
            mac.update(command + card_key)
            receipt = mac.finalize()
            vectors.append(
                {
                    "parameter": parameter,
                    "key_usage": usage,
                    "key_bytes": length,
                    "one_time_private": f"{one_time.private_numbers().private_value:064x}",
                    "command": command.hex(),
                    "answer": (card_key + tlv("86", receipt)).hex(),
                    "static_secret": static_secret.hex(),
                    "keys_and_receipt": (material[length:] + receipt).hex(),
                }
            )
with open("scp11.json", "w", encoding="ascii") as out:
    json.dump(vectors, out, indent=1)
    out.write("\n")
