"""The floor of callbacks: a bare uvloop Protocol with msgspec."""

NAME = "bare uvloop Protocol"
REQUIRES = ("uvloop",)
PATCHED = False


def serve(port: int) -> None:
    import asyncio

    import uvloop

    from benchmarks.echo import HOST
    from benchmarks.peers.lines import Cutter, answer

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.cutter = transport, Cutter()

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer(self.cutter.lines(data)))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, HOST, port, backlog=1024)
        await server.serve_forever()

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
