"""Keys in the forms of an order (docs/formats/order-output.md), opened on pyca/cryptography alone."""

from cryptography.hazmat.primitives import constant_time, keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keysets import cmac

# ANSI X9.143 (TR-31), version D: number of the protection key's algorithm in the derivation.
_ALGORITHMS = {16: 2, 24: 3, 32: 4}


def _protection_keys(protection_key: bytes) -> list[bytes]:
    """Encryption and MAC."""
    length = len(protection_key)
    terms = b"\0" + _ALGORITHMS[length].to_bytes(2) + (8 * length).to_bytes(2)

    def key(usage: int) -> bytes:
        blocks = (cmac(protection_key, bytes([counter]) + usage.to_bytes(2) + terms) for counter in (1, 2))
        return b"".join(blocks)[:length]

    return [key(usage) for usage in (0, 1)]


def open_key_block(protection_key: bytes, block: str) -> tuple[str, bytes]:
    """A key block of version D: its header with the optional blocks, and the key."""
    if block[0] != "D" or int(block[1:5]) != len(block):
        raise ValueError("not a key block of version D")
    at = 16
    for _ in range(int(block[12:14])):
        length = int(block[at + 2 : at + 4], 16)
        # A length of 00 announces the length of the length.
        if length == 0:
            digits = int(block[at + 4 : at + 6], 16)
            length = int(block[at + 6 : at + 6 + digits], 16)
        at += length
    header, body = block[:at], bytes.fromhex(block[at:])
    encryption, mac_key = _protection_keys(protection_key)
    ciphertext, mac = body[:-16], body[-16:]
    plain = Cipher(algorithms.AES(encryption), modes.CBC(mac)).decryptor().update(ciphertext)
    if not constant_time.bytes_eq(cmac(mac_key, header.encode() + plain), mac):
        raise ValueError("the MAC of the key block is wrong")
    return header, plain[2 : 2 + int.from_bytes(plain[:2]) // 8]


def open_cell(column_key: bytes, cell: bytes) -> bytes:
    """A cell of osmocom pySim's encrypted columns."""
    return Cipher(algorithms.AES(column_key), modes.CBC(b"\x23" * 16)).decryptor().update(cell)


OPENERS = {
    "jsonl-kwp": lambda key, text: keywrap.aes_key_unwrap_with_padding(key, bytes.fromhex(text)),
    "pskc": lambda key, text: keywrap.aes_key_unwrap(key, bytes.fromhex(text)),
    "tr31": lambda key, text: open_key_block(key, text)[1],
    "pysim-csv": lambda key, text: open_cell(key, bytes.fromhex(text)),
}
