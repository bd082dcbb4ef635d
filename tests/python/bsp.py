"""The BPP protection protocol (SGP.22 §2.6.4, annex G) and the bound profile package (§2.5.4), at both of its ends."""

from typing import Iterator, NamedTuple

from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from tlv import Object, Reader, header, inside, tlv

AES, KEY_LENGTH = 0x88, 16
# A segment has at most 1020 bytes: four are tag and length, eight the MAC, and padding adds one at least to whole blocks.
DATA_MAX = (1020 - 4 - 8) // 16 * 16 - 1


class Keys(NamedTuple):
    s_enc: bytes
    s_mac: bytes
    chaining_value: bytes

    @classmethod
    def agreed(cls, shared_secret: bytes, host_id: bytes, eid: bytes) -> "Keys":
        """From the x-coordinate of the agreement."""
        info = bytes([AES, KEY_LENGTH, len(host_id)]) + host_id + bytes([len(eid)]) + eid
        data = X963KDF(algorithm=hashes.SHA256(), length=48, sharedinfo=info).derive(shared_secret)
        return cls(chaining_value=data[:16], s_enc=data[16:32], s_mac=data[32:])


class Stretch:
    """What is protected under one set of keys; both ends count alike."""

    def __init__(self, keys: Keys):
        self._keys, self._chain, self._counter = keys, keys.chaining_value, 0

    def encrypt(self, tag: int, data: bytes) -> bytes:
        def segment(part: bytes) -> bytes:
            padded = part + b"\x80"
            padded += bytes(-len(padded) % 16)
            return self._mac(tag, self._cbc().encryptor().update(padded))

        return b"".join(segment(part) for part in _parts(data))

    def authenticate(self, tag: int, data: bytes) -> bytes:
        def segment(part: bytes) -> bytes:
            self._counter += 1
            return self._mac(tag, part)

        return b"".join(segment(part) for part in _parts(data))

    def decrypt(self, segment: Object) -> bytes:
        padded = self._cbc().decryptor().update(self._verified(segment)).rstrip(b"\0")
        if padded[-1:] != b"\x80":
            raise ValueError("the padding of a segment is wrong")
        return padded[:-1]

    def check(self, segment: Object) -> bytes:
        self._counter += 1
        return self._verified(segment)

    def _mac(self, tag: int, data: bytes) -> bytes:
        maced = header(tag, len(data) + 8) + data
        return maced + self._next_mac(maced)

    def _verified(self, segment: Object) -> bytes:
        if len(segment.whole) > 1020:
            raise ValueError("the segment is too long")
        if not constant_time.bytes_eq(self._next_mac(segment.whole[:-8]), segment.whole[-8:]):
            raise ValueError("the MAC of a segment is wrong")
        return segment.value[:-8]

    def _next_mac(self, maced: bytes) -> bytes:
        mac = CMAC(algorithms.AES(self._keys.s_mac))
        mac.update(self._chain + maced)
        self._chain = mac.finalize()
        return self._chain[:8]

    def _cbc(self) -> Cipher:
        self._counter += 1
        ecb = Cipher(algorithms.AES(self._keys.s_enc), modes.ECB()).encryptor()
        icv = ecb.update(self._counter.to_bytes(16))
        return Cipher(algorithms.AES(self._keys.s_enc), modes.CBC(icv))


def _parts(data: bytes) -> Iterator[bytes]:
    return (data[at : at + DATA_MAX] for at in range(0, len(data), DATA_MAX))


class Profile(NamedTuple):
    # StoreMetadata, BF25.
    metadata: bytes
    # The unprotected profile package.
    elements: bytes


def bind(initialise_secure_channel: bytes, keys: Keys, profile_keys: Keys | None, profile: Profile) -> bytes:
    """The server's end. With keys of the profile, ReplaceSessionKeys (§5.5.4) brings them."""
    session = Stretch(keys)
    parts = [initialise_secure_channel]
    parts.append(tlv(0xA0, session.encrypt(0x87, tlv(0xBF24))))
    parts.append(tlv(0xA1, session.authenticate(0x88, profile.metadata)))
    if profile_keys is not None:
        fields = [(0x80, profile_keys.chaining_value), (0x81, profile_keys.s_enc), (0x82, profile_keys.s_mac)]
        request = tlv(0xBF26, *(tlv(tag, key) for tag, key in fields))
        parts.append(tlv(0xA2, session.encrypt(0x87, request)))
        session = Stretch(profile_keys)
    parts.append(tlv(0xA3, session.encrypt(0x86, profile.elements)))
    return tlv(0xBF36, *parts)


def open_segments(parts: Reader, keys: Keys) -> Profile:
    """The eUICC's end: what follows InitialiseSecureChannel in the package."""
    session = Stretch(keys)
    configure = _opened(parts.expect(0xA0).value, 0x87, session.decrypt)
    inside(configure, 0xBF24)
    metadata = _opened(parts.expect(0xA1).value, 0x88, session.check)
    inside(metadata, 0xBF25)
    if replace := parts.optional(0xA2):
        request = inside(_opened(replace.value, 0x87, session.decrypt), 0xBF26)
        chaining_value, s_enc, s_mac = (request.expect(tag).value for tag in (0x80, 0x81, 0x82))
        request.end()
        session = Stretch(Keys(s_enc, s_mac, chaining_value))
    elements = _opened(parts.expect(0xA3).value, 0x86, session.decrypt)
    parts.end()
    return Profile(metadata, elements)


def _opened(data: bytes, tag: int, open_segment) -> bytes:
    segments, opened = Reader(data), b""
    while segments:
        opened += open_segment(segments.expect(tag))
    return opened
