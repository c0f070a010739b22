# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What a packet says of itself beyond its container's flags: where decoding starts clean, and where data are lost.

Containers mark key frames for seeking, and lose nothing that they know of. The streams themselves say more: H.264 which
key frames need no memory (IDR) and numbers its frames, MPEG-1 and MPEG-2 number their pictures. Other codecs count
nothing, or have a decoder that refuses a frame whose references are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from av.packet import Packet
from av.video.stream import VideoStream


class PacketFacts(NamedTuple):
    """What one packet, read in decoding order, shows."""

    clean: bool
    """Whether decoding can start here without a memory of earlier frames, if the container calls it a key frame."""
    gap: int | None = None
    """Where a frame is missing that later ones refer to: how many packets before this one it is first missed."""


def packet_reader(stream: VideoStream) -> Callable[[Packet[VideoStream]], PacketFacts]:
    """Return the function to show every packet of `stream` to, in decoding order."""
    codec, header = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    if codec == "h264":
        return _H264(header).read
    if codec in ("mpeg1video", "mpeg2video"):
        return _Mpeg2().read
    return lambda packet: PacketFacts(clean=True)


class _Sps(NamedTuple):
    frame_num_bits: int
    separate_planes: bool
    may_skip: bool
    """Whether the stream leaves out frame numbers on purpose, as streams with temporal layers do."""


_SLICES = frozenset({1, 2, 5})
_IDR, _SPS, _PPS = 5, 7, 8
_UNIT_BYTES = 512
"""Enough of any parameter set for what is read of it."""
_SLICE_HEADER_BYTES = 32
"""Enough of a slice for its frame number."""
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_ANNEX_B_UNIT = re.compile(rb"\x00\x00\x01([\x01-\xff])", re.DOTALL)


class _H264:
    """Follows frame_num (ITU-T H.264, 7.4.3): it rises by one after every frame that others may refer to."""

    def __init__(self, header: bytes) -> None:
        self._sets: dict[int, _Sps] = {}
        self._set_of_picture_set: dict[int, int] = {}
        self._length_bytes = 0
        self._last: int | None = None
        if header[:1] == b"\x01" and len(header) >= 7:
            self._length_bytes = (header[4] & 3) + 1
            units = _avcc_units(header)
        else:
            units = _annex_b_units(header)
        for unit in units:
            self._learn(unit)

    def read(self, packet: Packet[VideoStream]) -> PacketFacts:
        data = memoryview(packet)
        units = _sized_units(data, self._length_bytes) if self._length_bytes else _annex_b_units(data)
        for unit in units:
            if unit[0] & 31 in _SLICES:
                return self._slice(unit)
            self._learn(unit)
        return PacketFacts(clean=False)

    def _learn(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind not in (_SPS, _PPS):
            return
        try:
            if kind == _SPS:
                number, found = _sequence_set(_Bits(unit[1:]))
                self._sets[number] = found
            else:
                bits = _Bits(unit[1:])
                self._set_of_picture_set[bits.golomb()] = bits.golomb()
        except IndexError:
            return  # The decoder says what is wrong with it.

    def _slice(self, unit: bytes) -> PacketFacts:
        is_idr = unit[0] & 31 == _IDR
        bits = _Bits(unit[1:_SLICE_HEADER_BYTES])
        try:
            bits.golomb()  # first_mb_in_slice
            bits.golomb()  # slice_type
            sps = self._sets.get(self._set_of_picture_set.get(bits.golomb(), -1))
            if sps is None:
                return PacketFacts(clean=is_idr)
            bits.take(2 if sps.separate_planes else 0)
            number = bits.take(sps.frame_num_bits)
        except IndexError:
            return PacketFacts(clean=is_idr)
        following = None if self._last is None else (self._last + 1) % (1 << sps.frame_num_bits)
        gap = not (is_idr or sps.may_skip or self._last is None or number in (self._last, following))
        if unit[0] >> 5 & 3 or is_idr:
            self._last = number
        return PacketFacts(clean=is_idr, gap=0 if gap else None)


def _sequence_set(bits: _Bits) -> tuple[int, _Sps]:
    """Read seq_parameter_set_data (ITU-T H.264, 7.3.2.1.1) up to gaps_in_frame_num_value_allowed_flag."""
    profile = bits.take(8)
    bits.take(16)
    number = bits.golomb()
    separate_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        separate_planes = chroma == 3 and bool(bits.take(1))
        bits.golomb()
        bits.golomb()
        bits.take(1)
        if bits.take(1):
            for position in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if position < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    if frame_num_bits > 16:
        raise IndexError("log2_max_frame_num out of range")
    return number, _Sps(frame_num_bits, separate_planes, may_skip=bool(bits.take(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


class _Mpeg2:
    """Follows temporal_reference (ITU-T H.262, 6.3.9): the pictures of a group are numbered in the order of display.

    After a predicted picture come as many bidirectional ones as its number leaves room for since the one it refers to:
    fewer or others, and something is lost. Those before an intra picture may be cut away; nothing refers to them.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._last_between: int | None = None
        self._missing = 0
        self._packets_since = 0

    def read(self, packet: Packet[VideoStream]) -> PacketFacts:
        self._packets_since += 1
        gap = None
        for found in _PICTURE_OR_GROUP.finditer(memoryview(packet)):
            if found[1]:
                number, kind = -1, _INTRA
            else:
                number, kind = found[2][0] << 2 | found[2][1] >> 6, found[2][1] >> 3 & 7
            if kind == _BIDIRECTIONAL:
                if number != self._last_between:  # Else the second field of the same picture.
                    self._last_between, self._missing = number, self._missing - 1
                if self._last is not None and 0 < (number - self._last) % 1024 < 512:
                    gap = 0
                continue
            if number == self._last:
                continue
            if self._missing > 0:
                gap = self._packets_since
            if self._last is None or kind == _INTRA:
                self._missing = 0
            else:
                self._missing = (number - self._last - 1) % 1024
            self._last, self._packets_since = number, 0
        return PacketFacts(clean=True, gap=gap)


_INTRA, _BIDIRECTIONAL = 1, 3
_PICTURE_OR_GROUP = re.compile(rb"\x00\x00\x01(?:(\xb8)|\x00(..))", re.DOTALL)


class _Bits:
    """Reads bits and Exp-Golomb numbers of a NAL unit, without the bytes that prevent start codes."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the unit ends here")
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _avcc_units(header: bytes) -> Iterator[bytes]:
    """The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3): so many SPS, so many PPS."""
    position = 5
    for mask in (31, 255):
        count = header[position] & mask if position < len(header) else 0
        position += 1
        for _ in range(count):
            size = int.from_bytes(header[position : position + 2], "big")
            if unit := header[position + 2 : position + 2 + size]:
                yield unit
            position += 2 + size


def _sized_units(data: memoryview, length_bytes: int) -> Iterator[bytes]:
    position = 0
    while position + length_bytes < len(data):
        size = int.from_bytes(data[position : position + length_bytes], "big")
        position += length_bytes
        if size:
            yield bytes(data[position : position + min(size, _UNIT_BYTES)])
        position += size


def _annex_b_units(data: bytes | memoryview) -> Iterator[bytes]:
    for found in _ANNEX_B_UNIT.finditer(data):
        yield bytes(data[found.start(1) : found.start(1) + _UNIT_BYTES])
