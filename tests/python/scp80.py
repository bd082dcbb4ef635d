"""SCP80 for AES keys, both ends: secured packets (ETSI TS 102 225, 3GPP TS 31.115) as a card takes them, and its proofs of
receipt. Always with a checksum of 8 bytes, which is what the authority makes.
"""

from typing import NamedTuple

from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keysets import cmac

AES = 0x02
CHECKSUM, CIPHERED = 0x02, 0x04
_USER_DATA_HEADER = bytes.fromhex("027100")


def _cbc(key: bytes) -> Cipher:
    return Cipher(algorithms.AES(key), modes.CBC(bytes(16)))


class Header(NamedTuple):
    """What stands before the counter."""

    key_version_number: int
    # SPI, 2 bytes.
    parameters: bytes
    tar: bytes


def command_packet(kic: bytes, kid: bytes, header: Header, counter: int, data: bytes) -> bytes:
    """From CPL on."""
    first, _ = header.parameters
    padding = -(5 + 1 + 8 + len(data)) % 16 if first & CIPHERED else 0
    key_byte = bytes([header.key_version_number << 4 | AES])
    head = bytes([21]) + header.parameters + key_byte + key_byte + header.tar
    numbered = counter.to_bytes(5) + bytes([padding])
    padded = data + bytes(padding)
    length = (len(head) + len(numbered) + 8 + len(padded)).to_bytes(2)
    body = numbered + cmac(kid, length + head + numbered + padded)[:8] + padded
    if first & CIPHERED:
        body = _cbc(kic).encryptor().update(body)
    return length + head + body


def response_packet(kic: bytes, kid: bytes, header: Header, counter: int, status: int, data: bytes) -> bytes:
    """From RPL on, protected as the second byte of SPI asks."""
    _, second = header.parameters
    is_ciphered = bool(second & 0x10)
    padding = -(5 + 1 + 1 + 8 + len(data)) % 16 if is_ciphered else 0
    head = bytes([18]) + header.tar
    numbered = counter.to_bytes(5) + bytes([padding, status])
    padded = data + bytes(padding)
    length = (len(head) + len(numbered) + 8 + len(padded)).to_bytes(2)
    check = cmac(kid, _USER_DATA_HEADER + length + head + numbered + padded)[:8]
    body = numbered + check + padded
    if is_ciphered:
        body = _cbc(kic).encryptor().update(body)
    return length + head + body


def opened(kic: bytes, kid: bytes, packet: bytes) -> tuple[Header, int, bytes]:
    """A command packet at the card's end: header, counter, data."""
    if int.from_bytes(packet[:2]) + 2 != len(packet) or packet[2] != 21:
        raise ValueError("not a command packet with a checksum")
    header = Header(packet[5] >> 4, packet[3:5], packet[7:10])
    body = packet[10:]
    if header.parameters[0] & CIPHERED:
        body = _cbc(kic).decryptor().update(body)
    numbered, check, padded = body[:6], body[6:14], body[14:]
    if not constant_time.bytes_eq(cmac(kid, packet[:10] + numbered + padded)[:8], check):
        raise ValueError("the checksum is wrong")
    return header, int.from_bytes(numbered[:5]), padded[: len(padded) - numbered[5]]
