"""The provisioning server's end of an SCP03 channel (GP Card Specification Amendment D), mode S8, from session keys."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC


class Card:
    """A card at the end of a pipe: a command APDU in hex on each line in, data and status word on each line out."""

    def __init__(self, program: Path, arguments: list[str]):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([program, *arguments], **pipes)

    def __enter__(self) -> "Card":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=10)

    def send(self, command: bytes) -> tuple[bytes, int]:
        """The answer's data and its status word."""
        self._process.stdin.write(command.hex() + "\n")
        self._process.stdin.flush()
        answer = bytes.fromhex(self._process.stdout.readline())
        return answer[:-2], int.from_bytes(answer[-2:])


class Initialized(NamedTuple):
    """What INITIALIZE UPDATE tells (Amendment D §7.1.1)."""

    key_version_number: int
    challenge: bytes
    cryptogram: bytes


def initialize_update(card: Card, key_version_number: int, host_challenge: bytes) -> Initialized:
    data, status = card.send(bytes([0x80, 0x50, key_version_number, 0x00, 0x08]) + host_challenge + b"\0")
    if status != 0x9000 or len(data) != 29:
        raise ValueError(f"INITIALIZE UPDATE: {status:04x}")
    # 10 bytes of diversification data, version, 03, i, challenge, cryptogram.
    return Initialized(data[10], data[13:21], data[21:29])


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(algorithms.AES(key))
    mac.update(message)
    return mac.finalize()


def _pad(data: bytes) -> bytes:
    padded = data + b"\x80"
    return padded + bytes(-len(padded) % 16)


class Channel:
    """The channel of one session; `level` is P1 of EXTERNAL AUTHENTICATE."""

    def __init__(self, card: Card, keys, level: int):
        self._card, self._keys, self._level = card, keys, level
        self._chain, self._counter = bytes(16), 0

    def external_authenticate(self, host_cryptogram: bytes) -> int:
        """The card's status word."""
        return self._card.send(self._mac(bytes([0x84, 0x82, self._level, 0x00]), host_cryptogram))[1]

    def send(self, header: bytes, data: bytes) -> tuple[bytes, int]:
        """Sends one command under the channel's protection and takes the protection off the answer."""
        self._counter += 1
        if self._level & 0x02 and data:
            data = self._cbc(0x00).encryptor().update(_pad(data))
        header = bytes([header[0] | 0x04]) + header[1:]
        answer, status = self._card.send(self._mac(header, data))
        if self._level & 0x10:
            answer, tag = answer[:-8], answer[-8:]
            expected = _cmac(self._keys.s_rmac, self._chain + answer + status.to_bytes(2))
            if tag != expected[:8]:
                raise ValueError("the R-MAC is wrong")
        if self._level & 0x20 and answer:
            padded = self._cbc(0x80).decryptor().update(answer).rstrip(b"\0")
            if padded[-1:] != b"\x80":
                raise ValueError("the padding of the answer is wrong")
            answer = padded[:-1]
        return answer, status

    @staticmethod
    def encrypted(s_enc: bytes, counter: int, answer: bytes) -> bytes:
        """An answer as the card encrypts it (§6.2.7)."""
        block = b"\x80" + counter.to_bytes(15)
        icv = Cipher(algorithms.AES(s_enc), modes.ECB()).encryptor().update(block)
        return Cipher(algorithms.AES(s_enc), modes.CBC(icv)).encryptor().update(_pad(answer))

    def _mac(self, header: bytes, data: bytes) -> bytes:
        command = header + bytes([len(data) + 8]) + data
        self._chain = _cmac(self._keys.s_mac, self._chain + command)
        return command + self._chain[:8]

    def _cbc(self, direction: int) -> Cipher:
        # §6.2.6, §6.2.7: the counter encrypted is the ICV; for answers its first byte is 80.
        block = bytes([direction]) + self._counter.to_bytes(15)
        encryptor = Cipher(algorithms.AES(self._keys.s_enc), modes.ECB()).encryptor()
        return Cipher(algorithms.AES(self._keys.s_enc), modes.CBC(encryptor.update(block)))
