"""BER-TLV with definite lengths, as the objects of remote SIM provisioning are written."""

from typing import NamedTuple


class Object(NamedTuple):
    tag: int
    value: bytes
    # Tag and length included: what signatures are over.
    whole: bytes


def header(tag: int, length: int) -> bytes:
    octets = tag.to_bytes((tag.bit_length() + 7) // 8)
    if length < 0x80:
        return octets + bytes([length])
    number = length.to_bytes((length.bit_length() + 7) // 8)
    return octets + bytes([0x80 | len(number)]) + number


def tlv(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    return header(tag, len(value)) + value


class Reader:
    """The objects in some bytes, one after the other."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def next(self) -> Object:
        start = self._at
        tag = self._take(1)
        if tag[0] & 0x1F == 0x1F:
            tag += self._take(1)
        length = self._take(1)[0]
        if length >= 0x80:
            length = int.from_bytes(self._take(length & 0x7F))
        value = self._take(length)
        return Object(int.from_bytes(tag), value, self._data[start : self._at])

    def expect(self, tag: int) -> Object:
        found = self.next()
        if found.tag != tag:
            raise ValueError(f"tag {found.tag:x} where {tag:x} belongs")
        return found

    def optional(self, tag: int) -> Object | None:
        before = self._at
        if self and (found := self.next()).tag == tag:
            return found
        self._at = before
        return None

    def end(self) -> None:
        if self:
            raise ValueError("more than belongs there")

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise ValueError("cut off")
        self._at += count
        return taken


def inside(data: bytes, tag: int) -> Reader:
    """The content of the one object that fills the bytes."""
    reader = Reader(data)
    content = reader.expect(tag).value
    reader.end()
    return Reader(content)
