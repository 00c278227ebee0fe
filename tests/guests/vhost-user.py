"""A vhost-user program for tests: answers ARP questions and echoes for one address.

    python3 vhost-user.py SOCKET

It connects to the emulator, maps guest memory, serves the receive queue 0 and the transmit queue 1
(split rings), and ends when the emulator hangs up. Source: QEMU's documentation, "Vhost-user
Protocol"; virtio 1.3, 2.7.
"""

import array
import mmap
import os
import select
import socket
import struct
import sys

OWN = bytes([2, 0, 0, 0, 0, 0x99])
HEADER = 12
FEATURES = 1 << 32 | 1 << 30


class Memory:
    def __init__(self):
        self.regions = []

    def set(self, body, fds):
        (count,) = struct.unpack_from("<I", body)
        for n in range(count):
            guest, size, user, offset = struct.unpack_from("<QQQQ", body, 8 + 32 * n)
            self.regions.append((guest, size, user, offset, mmap.mmap(fds[n], offset + size)))

    def at(self, address, user=False):
        for guest, size, virtual, offset, area in self.regions:
            start = virtual if user else guest
            if start <= address < start + size:
                return area, address - start + offset
        raise ValueError(hex(address))


class Ring:
    def __init__(self):
        self.size = self.last = 0
        self.parts = self.kick = self.call = None

    def unpack(self, part, form, skip):
        area, at = self.parts[part]
        return struct.unpack_from("<" + form, area, at + skip)

    def take(self, memory):
        """The next chain: its number, and its buffers as (area, place, length, device writes)."""
        (ready,) = self.unpack(2, "H", 2)
        if ready == self.last:
            return None
        (head,) = self.unpack(2, "H", 4 + 2 * (self.last % self.size))
        self.last = (self.last + 1) & 0xFFFF
        buffers, number = [], head
        while True:
            address, length, flags, following = self.unpack(0, "QIHH", 16 * number)
            buffers.append((*memory.at(address), length, flags & 2))
            if not flags & 1:
                return head, buffers
            number = following

    def give(self, head, written):
        area, at = self.parts[1]
        (index,) = struct.unpack_from("<H", area, at + 2)
        struct.pack_into("<II", area, at + 4 + 8 * (index % self.size), head, written)
        struct.pack_into("<H", area, at + 2, (index + 1) & 0xFFFF)
        if self.call is not None:
            os.eventfd_write(self.call, 1)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", total ^ 0xFFFF)


def answer(frame):
    kind, ip = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and ip[6:8] == b"\0\1":
        reply = ip[:6] + b"\0\2" + OWN + ip[24:28] + ip[8:18]
    elif kind == b"\x08\0" and ip[9] == 1 and ip[20] == 8:
        echo = b"\0\0\0\0" + ip[24:]
        echo = b"\0\0" + checksum(echo) + echo[4:]
        reply = ip[:12] + ip[16:20] + ip[12:16] + echo
    else:
        return None
    return frame[6:12] + OWN + kind + reply


class Program:
    def __init__(self, path):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.memory, self.rings, self.poll = Memory(), {}, select.poll()
        self.poll.register(self.stream, select.POLLIN)
        self.kicks = {}

    def ring(self, body):
        return self.rings.setdefault(struct.unpack_from("<I", body)[0] & 0xFF, Ring())

    def message(self):
        control = socket.CMSG_SPACE(16 * 4)
        head, extra, _, _ = self.stream.recvmsg(12, control)
        if len(head) < 12:
            sys.exit(0)
        request, _, size = struct.unpack("<III", head)
        fds = array.array("i")
        for _, kind, data in extra:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) // 4 * 4])
        self.handle(request, self.stream.recv(size) if size else b"", fds)

    def reply(self, request, body):
        self.stream.sendall(struct.pack("<III", request, 5, len(body)) + body)

    def handle(self, request, body, fds):
        if request == 1:
            self.reply(request, struct.pack("<Q", FEATURES))
        elif request == 15:
            self.reply(request, struct.pack("<Q", 0))
        elif request == 5:
            self.memory.set(body, fds)
        elif request == 8:
            self.ring(body).size = struct.unpack("<II", body)[1]
        elif request == 9:
            _, _, descriptors, used, available, _ = struct.unpack("<IIQQQQ", body)
            places = (descriptors, used, available)
            self.ring(body).parts = [self.memory.at(place, True) for place in places]
        elif request == 10:
            self.ring(body).last = struct.unpack("<II", body)[1]
        elif request == 11:
            ring = self.ring(body)
            self.reply(request, body[:4] + struct.pack("<I", ring.last))
            self.poll.unregister(ring.kick)
            ring.parts = None
        elif request == 12:
            ring = self.ring(body)
            ring.kick = fds[0]
            self.kicks[fds[0]] = ring
            self.poll.register(fds[0], select.POLLIN)
        elif request == 13:
            self.ring(body).call = fds[0]

    def serve(self):
        sends, receives = self.rings.get(1), self.rings.get(0)
        if not sends or not receives or not sends.parts or not receives.parts:
            return
        while chain := sends.take(self.memory):
            head, buffers = chain
            data = b"".join(area[at : at + length] for area, at, length, _ in buffers)
            sends.give(head, 0)
            reply = answer(data[HEADER:])
            room = reply and receives.take(self.memory)
            if room:
                head, [(area, at, _, _), *_] = room
                reply = bytes(10) + b"\1\0" + reply
                area[at : at + len(reply)] = reply
                receives.give(head, len(reply))

    def run(self):
        while True:
            for fd, _ in self.poll.poll():
                if fd == self.stream.fileno():
                    self.message()
                else:
                    os.eventfd_read(fd)
            self.serve()


Program(sys.argv[1]).run()
