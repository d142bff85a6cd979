"""The OpenAI protocol of the simulated server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

from aiohttp import web
from simulated_server import MODEL, Engine, Sequence, Settings

METRICS = (
    ("vllm:num_requests_running", "gauge"),
    ("vllm:num_requests_waiting", "gauge"),
    ("vllm:prompt_tokens_total", "counter"),
    ("vllm:prompt_tokens_cached_total", "counter"),
    ("vllm:generation_tokens_total", "counter"),
)


def tokens_of(text) -> tuple:
    """Split a prompt into tokens: words of a text, or the numbers of a list."""
    return tuple(text.split() if isinstance(text, str) else text)


class Protocol:
    """The routes of the server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self.number = 0
        self.ready_s = time.monotonic() + settings.start_s

    def app(self) -> web.Application:
        """Make the application; its engine runs while it does."""
        app = web.Application(middlewares=[self._refuse_before_start])
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.get("/metrics", self._metrics),
                web.get("/health", self._health),
                web.get("/truth", self._truth),
            ]
        )
        app.cleanup_ctx.append(self._run_engine)
        return app

    async def _run_engine(self, _):
        task = asyncio.create_task(self.engine.run())
        yield
        task.cancel()

    @web.middleware
    async def _refuse_before_start(self, request, handler):
        if time.monotonic() < self.ready_s:
            return web.json_response({"error": {"message": "Loading model"}}, status=503)
        return await handler(request)

    async def _health(self, _):
        return web.Response()

    async def _models(self, _):
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _tokenize(self, request):
        body = await request.json()
        tokens = tokens_of(body.get("prompt", body.get("content", "")))
        return web.json_response({"count": len(tokens), "tokens": list(range(len(tokens)))})

    async def _metrics(self, _):
        if not self.settings.has_metrics:
            raise web.HTTPNotFound
        engine, totals = self.engine, self.engine.totals
        values = (
            sum(one.generated < one.most_tokens for one in engine.running),
            len(engine.waiting),
            totals["prompt"],
            totals["cached"],
            totals["generated"],
        )
        lines = []
        for (name, kind), value in zip(METRICS, values, strict=True):
            lines += [f"# TYPE {name} {kind}", f'{name}{{engine="0",model_name="{MODEL}"}} {value}']
        return web.Response(text="\n".join(lines) + "\n")

    async def _truth(self, _):
        """Return the energies that a measurement must find."""
        requests = [
            {
                "number": one.number,
                "input_tokens": len(one.prompt),
                "cached_tokens": one.cached,
                "output_tokens": one.generated,
                "prefill_j": one.prefill_j,
                "decode_j": one.decode_j,
            }
            for one in sorted(self.engine.finished, key=lambda one: one.number)
        ]
        return web.json_response({**self.engine.totals, "requests": requests})

    async def _completions(self, request):
        body = await request.json()
        return await self._answer(request, body, tokens_of(body["prompt"]), is_chat=False)

    async def _chat(self, request):
        body = await request.json()
        text = " ".join(message["content"] for message in body["messages"])
        return await self._answer(request, body, tokens_of(text), is_chat=True)

    async def _answer(self, request, body, prompt, *, is_chat):
        self.number += 1
        settings, number = self.settings, self.number
        if self._is_nth(settings.fail_every, number):
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        ends_early = self._is_nth(settings.end_early_every, number)
        sequence = Sequence(number, prompt, wanted)
        if ends_early:
            sequence.most_tokens, sequence.finish_reason = max(1, wanted // 2), "stop"
        self.engine.add(sequence)
        try:
            if body.get("stream"):
                return await self._stream(request, body, sequence, is_chat=is_chat)
            while await sequence.tokens.get() < sequence.most_tokens:
                pass
            text = " word" * sequence.generated
            choice = {"index": 0, "finish_reason": sequence.finish_reason}
            choice |= {"message": {"content": text}} if is_chat else {"text": text}
            return web.json_response({"choices": [choice], **self._usage(sequence)})
        finally:
            self.engine.drop(sequence)

    async def _stream(self, request, body, sequence, *, is_chat):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(choices, **more):
            data = {"id": f"cmpl-{sequence.number}", "model": MODEL, "choices": choices, **more}
            await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")

        breaks = self._is_nth(self.settings.break_every, sequence.number)
        last, sent = sequence.most_tokens, 0
        while sent < last:
            arrived = await sequence.tokens.get()
            if arrived - sent < self.settings.tokens_per_chunk and arrived < last:
                continue
            text = " word" * (arrived - sent)
            sent = arrived
            await send(
                [
                    {
                        "index": 0,
                        "finish_reason": sequence.finish_reason if sent == last else None,
                        **({"delta": {"content": text}} if is_chat else {"text": text}),
                    }
                ]
            )
            if breaks and sent >= last / 2:
                request.transport.abort()
                return response
        usage = self._usage(sequence)
        if usage and (body.get("stream_options") or {}).get("include_usage"):
            await send([], **usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    def _usage(self, sequence) -> dict:
        """Return the counts that replies state."""
        if not self.settings.has_usage:
            return {}
        inputs, outputs = len(sequence.prompt), sequence.generated
        usage = {"prompt_tokens": inputs, "completion_tokens": outputs}
        usage["total_tokens"] = inputs + outputs
        return {"usage": usage | {"prompt_tokens_details": {"cached_tokens": sequence.cached}}}

    @staticmethod
    def _is_nth(every: int, number: int) -> bool:
        return bool(every) and number % every == 0


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and print the address first."""

    async def run():
        runner = web.AppRunner(Protocol(settings).app(), handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", settings.port)
        await site.start()
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        host, port = runner.addresses[0]
        sys.stdout.write(f"http://{host}:{port}\n")
        sys.stdout.flush()
        await stopped.wait()
        await runner.cleanup()

    asyncio.run(run())
