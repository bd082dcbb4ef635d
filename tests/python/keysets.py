"""Keys by their published rules, on pyca/cryptography alone: derivation from a master, check values, SCP03 session keys, and
what a manufacturer finds in the output of its order.
"""

import json
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

SCP03, SCP80 = 0x03, 0x80
DOMAINS = {"ISD-R": 1, "ECASD": 2}
# GSMA SGP.02 §2.2.3.
AIDS = {1: bytes.fromhex("A0000005591010FFFFFFFF8900000100"), 2: bytes.fromhex("A0000005591010FFFFFFFF8900000200")}
USAGES = ("enc", "mac", "dek")


def cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()


class Keyset(NamedTuple):
    enc: bytes
    mac: bytes
    dek: bytes


def check_value(key: bytes) -> bytes:
    """GP Card Specification Amendment D §4.1.4: AES over 16 bytes of 01, the first three."""
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(b"\1" * 16)[:3]


def derived(
    master: bytes, eid: str, domain: int, key_version_number: int, bits: int, protocol: int = SCP03
) -> Keyset:
    """docs/formats/key-derivation.md. Of SCP80 ENC, MAC and DEK are KIc, KID and KIK."""

    def key(usage: int) -> bytes:
        kind = b"CHANCERY\0" + bytes([protocol, domain, usage, key_version_number]) + bits.to_bytes(2)
        blocks = (cmac(master, bytes([counter]) + kind + bytes.fromhex(eid)) for counter in (1, 2))
        return b"".join(blocks)[: bits // 8]

    return Keyset(*(key(usage) for usage in (1, 2, 3)))


class Session(NamedTuple):
    s_enc: bytes
    s_mac: bytes
    s_rmac: bytes
    card_cryptogram: bytes
    host_cryptogram: bytes


def _kdf(key: bytes, constant: int, bits: int, context: bytes) -> bytes:
    # Amendment D §4.1.5.
    blocks = (
        cmac(key, bytes(11) + bytes([constant, 0]) + bits.to_bytes(2) + bytes([counter]) + context)
        for counter in (1, 2)
    )
    return b"".join(blocks)[: bits // 8]


def session(keyset: Keyset, host_challenge: bytes, card_challenge: bytes) -> Session:
    """Amendment D §6.2.1, §6.2.2: cryptograms are as long as challenges."""
    context, bits = host_challenge + card_challenge, 8 * len(keyset.enc)
    s_mac = _kdf(keyset.mac, 0x06, bits, context)
    return Session(
        s_enc=_kdf(keyset.enc, 0x04, bits, context),
        s_mac=s_mac,
        s_rmac=_kdf(keyset.mac, 0x07, bits, context),
        card_cryptogram=_kdf(s_mac, 0x00, 8 * len(host_challenge), context),
        host_cryptogram=_kdf(s_mac, 0x01, 8 * len(host_challenge), context),
    )


def pseudo_random_challenge(keyset: Keyset, sequence_counter: bytes, aid: bytes, length: int) -> bytes:
    """Amendment D §6.2.2.1."""
    return _kdf(keyset.enc, 0x02, 8 * length, sequence_counter + aid)


def open_order(output: bytes, transport_key_pem: bytes, openers) -> dict[str, Keyset]:
    """The keysets in an order's output (docs/formats/order-output.md), each key with its check value right. `openers` open
    a key of each form under the transport key.
    """
    private_key = serialization.load_pem_private_key(transport_key_pem, password=None)
    hash_names = {"SHA-1": hashes.SHA1(), "SHA-256": hashes.SHA256()}
    transport_keys, devices = {}, {}
    for line in map(json.loads, output.splitlines()):
        if wrapped := line.get("wrapped"):
            algorithm = hash_names[line["oaep_hash"]]
            scheme = padding.OAEP(padding.MGF1(algorithm), algorithm, label=None)
            transport_key = private_key.decrypt(bytes.fromhex(wrapped), scheme)
            transport_keys[line["transport_key"]] = transport_key, openers[line["format"]]
            continue
        transport_key, open_key = transport_keys[line["transport_key"]]
        keys = [open_key(transport_key, line[usage]) for usage in USAGES]
        for usage, key in zip(USAGES, keys):
            if check_value(key).hex() != line["kcv"][usage]:
                raise ValueError(f"the check value of {usage} of {line['eid']} is wrong")
        devices[line["eid"]] = Keyset(*keys)
    return devices


def put_key(dek: bytes, keyset: Keyset, key_version_number: int, dialect: str) -> bytes:
    """GP Card Specification §11.8 for a new AES keyset, before secure messaging. Dialect b says the clear key's length in
    every block, a only where the block is longer than the key.
    """
    data = bytes([key_version_number])
    for key in keyset:
        padded = key + bytes(-len(key) % 16)
        block = Cipher(algorithms.AES(dek), modes.CBC(bytes(16))).encryptor().update(padded)
        if dialect == "b" or len(padded) != len(key):
            block = bytes([len(key)]) + block
        data += bytes([0x88, len(block)]) + block + b"\3" + check_value(key)
    return bytes([0x80, 0xD8, 0x00, 0x81, len(data)]) + data + b"\0"
