"""A call with itself by aiortc, through the relay only: a data channel, a picture and a sound.

Arguments: URL, user, password, the address of the URL's host, bytes of data, frames of the picture.
Trusted authorities are those that OpenSSL finds (SSL_CERT_FILE).
"""

import asyncio
import json
import re
import socket
import sys

from aiortc import (
    AudioStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    VideoStreamTrack,
)

URL, USER, PASSWORD, ADDRESS, BYTES, FRAMES = sys.argv[1:]
NAME = re.match(r"turns?:([^:?]+)", URL).group(1)
CHUNK = 16_384
# Nobody has to send faster than a Python program reads.
MOST_BUFFERED = 16 * CHUNK
PATIENCE_SECS = 100

# URLs of aiortc hold no IPv6 addresses, so that a name stands for the relay's, as a resolver would say.
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **options: resolve(ADDRESS if host == NAME else host, *rest, **options)


def data_from(offset):
    return bytes((offset // CHUNK + index) % 256 for index in range(CHUNK))


async def send(channel):
    low = asyncio.Event()
    channel.bufferedAmountLowThreshold = MOST_BUFFERED // 2
    channel.on("bufferedamountlow", low.set)
    for offset in range(0, int(BYTES), CHUNK):
        channel.send(data_from(offset))
        if channel.bufferedAmount > MOST_BUFFERED:
            low.clear()
            await low.wait()


async def take_data(connection, seen):
    messages = asyncio.Queue()

    @connection.on("datachannel")
    def opened(channel):
        channel.on("message", messages.put_nowait)

    while seen["received"] < int(BYTES):
        message = await messages.get()
        seen["wrong"] += message != data_from(seen["received"])
        seen["received"] += len(message)


async def take_frames(connection, seen):
    tracks = asyncio.Queue()
    connection.on("track", tracks.put_nowait)
    for _ in range(2):
        track = await tracks.get()
        for _ in range(int(FRAMES)):
            await track.recv()
            seen[track.kind] += 1


async def connect(one, other):
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)


async def main():
    server = RTCIceServer(urls=URL, username=USER, credential=PASSWORD)
    configuration = RTCConfiguration(
        iceServers=[server],
        iceTransportPolicy=RTCIceTransportPolicy.RELAY,
    )
    one, other = RTCPeerConnection(configuration), RTCPeerConnection(configuration)
    seen = {"received": 0, "wrong": 0, "video": 0, "audio": 0}
    channel = one.createDataChannel("data")
    channel.on("open", lambda: asyncio.ensure_future(send(channel)))
    one.addTrack(VideoStreamTrack())
    one.addTrack(AudioStreamTrack())
    taking = asyncio.gather(take_data(other, seen), take_frames(other, seen))
    await connect(one, other)
    try:
        await asyncio.wait_for(taking, PATIENCE_SECS)
    except asyncio.TimeoutError:
        pass
    gatherer = one.sctp.transport.transport.iceGatherer
    seen["candidates"] = sorted({candidate.type for candidate in gatherer.getLocalCandidates()})
    print(json.dumps(seen), flush=True)
    await one.close()
    await other.close()


asyncio.run(main())
