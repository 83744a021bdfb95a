"""Holds a call through the relay by aioice, and reports what arrived from the peer.

Arguments: server, port, user, password, peer, peer port, seconds, seconds between channel refreshes.
"""

import asyncio
import sys
import time

from aioice import turn

SERVER, PORT, USER, PASSWORD, PEER, PEER_PORT, SECONDS, CHANNEL_REFRESH = sys.argv[1:]
# aioice's consent checks go out every five seconds; nothing else is sent while the peer talks.
CONSENT_SECONDS = 5 if float(SECONDS) > 60 else 1


class Receiver(asyncio.DatagramProtocol):
    """Counts numbered datagrams and the longest silence between two."""

    def __init__(self):
        self.numbers = set()
        self.last = None
        self.longest = 0.0

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        pass

    def datagram_received(self, data, address):
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        self.numbers.add(int(data))


async def main():
    transport, receiver = await turn.create_turn_endpoint(
        Receiver,
        server_addr=(SERVER, int(PORT)),
        username=USER,
        password=PASSWORD,
        channel_refresh_time=float(CHANNEL_REFRESH),
    )
    end = time.monotonic() + float(SECONDS)
    while time.monotonic() < end:
        transport.sendto(b"consent", (PEER, int(PEER_PORT)))
        await asyncio.sleep(CONSENT_SECONDS)
    transport.sendto(b"end", (PEER, int(PEER_PORT)))
    await asyncio.sleep(1)
    print(f"received {len(receiver.numbers)} longest {receiver.longest:.3f}", flush=True)
    transport.close()
    await asyncio.sleep(0.5)


asyncio.run(main())
