"""A server on loopback that speaks the OpenAI protocol, with the faults that a test asks for."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

from joulelab.llm.openai_client import OpenAIClient


@dataclass
class StreamingServer:
    models: tuple = ("tiny",)
    paths: tuple = ("/v1/completions", "/v1/chat/completions")
    refused_fields: tuple = ()
    overhead: int = 0
    stops_after: int | None = None
    usage: bool = True
    cached: int | None = None
    breaks_after: int | None = None
    status: int = 200
    error_in_stream: str = ""
    key: str = ""
    token_s: float = 0.0
    bodies: list = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    hold: asyncio.Event | None = None

    @asynccontextmanager
    async def serve(self):
        app = web.Application()
        app.router.add_get("/v1/models", self.list_models)
        for path in self.paths:
            app.router.add_post(path, self.complete)
        server = TestServer(app)
        await server.start_server()
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            await server.close()

    async def list_models(self, request):
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        return web.json_response({"data": [{"id": one} for one in self.models]})

    async def complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        if wrong := [name for name in self.refused_fields if name in body]:
            return web.json_response({"error": {"message": f"unknown {wrong}"}}, status=400)
        if self.status != 200 and len(self.bodies) > 1:
            return web.json_response({"error": {"message": "out of memory"}}, status=self.status)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.stream(request, body)
        finally:
            self.in_flight -= 1

    async def stream(self, request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        is_chat = request.path.endswith("/chat/completions")
        text = body["messages"][0]["content"] if is_chat else body["prompt"]

        async def send(**chunk):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        if is_chat:
            await send(choices=[{"delta": {"role": "assistant", "content": ""}}])
        tokens = body["max_tokens"]
        if self.stops_after is not None:
            tokens = min(tokens, self.stops_after)
        for i in range(tokens):
            if self.hold is not None:
                await self.hold.wait()
            if i == self.breaks_after:
                request.transport.abort()
                return response
            await asyncio.sleep(self.token_s)
            word = f" w{i}"
            await send(choices=[{"delta": {"content": word}} if is_chat else {"text": word}])
        if self.error_in_stream:
            await send(error={"message": self.error_in_stream})
        await send(choices=[{"finish_reason": "length", "delta": {}}], usage=None)
        if self.usage and "stream_options" in body:
            counts = {
                "prompt_tokens": len(text.split()) + self.overhead,
                "completion_tokens": tokens,
            }
            if self.cached is not None:
                counts["prompt_tokens_details"] = {"cached_tokens": self.cached}
            await send(choices=[], usage=counts)
        await response.write(b"data: [DONE]\n\n")
        return response


def ask(server, work, **options):
    """Serve, connect a client, and return what ``work`` makes of it."""

    async def run():
        async with server.serve() as url, OpenAIClient(url, **options) as client:
            await client.connect()
            return await work(client)

    return asyncio.run(run())
