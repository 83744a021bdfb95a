"""Sends numbered datagrams through the relay by aioice over TCP or TLS, and reports what its peer sent back.

Arguments: server, port, user, password, peer, peer port, "tcp" or a file of trusted certificates, number.
"""

import asyncio
import ssl
import sys

from aioice import turn

SERVER, PORT, USER, PASSWORD, PEER, PEER_PORT, TRUST, NUMBER = sys.argv[1:]


class Receiver(asyncio.DatagramProtocol):
    """Collects what comes back."""

    def __init__(self):
        self.seen = set()
        self.is_complete = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        pass

    def datagram_received(self, data, address):
        self.seen.add(bytes(data))
        if len(self.seen) == int(NUMBER):
            self.is_complete.set()


async def main():
    context = False if TRUST == "tcp" else ssl.create_default_context(cafile=TRUST)
    transport, receiver = await turn.create_turn_endpoint(
        Receiver,
        server_addr=(SERVER, int(PORT)),
        username=USER,
        password=PASSWORD,
        ssl=context,
        transport="tcp",
    )
    sent = {bytes([length % 256]) * length for length in range(1, int(NUMBER) + 1)}
    for payload in sorted(sent, key=len):
        transport.sendto(payload, (PEER, int(PEER_PORT)))
        # The echo is UDP: no more of it at once than a small queue takes.
        await asyncio.sleep(0.002)
    await asyncio.wait_for(receiver.is_complete.wait(), 60)
    print(f"same {receiver.seen == sent} received {len(receiver.seen)}", flush=True)
    transport.close()
    await asyncio.sleep(0.5)


asyncio.run(main())
