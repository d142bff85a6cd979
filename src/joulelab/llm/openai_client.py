"""Requests to a server that speaks the OpenAI protocol, and the times of the chunks of its replies.

A chunk costs one time stamp, one search for line ends and one typed JSON decoding, because the
client may run on the machine whose energy is measured.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec

from joulelab.errors import JoulelabError, UserError, optional_packages
from joulelab.format import join_words, shorten
from joulelab.llm.server_counters import ReplyCounts, reply_counts

with optional_packages("cannot send requests to a server", "llm"):
    import aiohttp

Api = Literal["completions", "chat"]
PATHS: Mapping[Api, str] = {"completions": "completions", "chat": "chat/completions"}
CONNECT_S = 10.0
"""Longest time to wait for a connection."""
LOADING_POLL_S = 0.5
NO_COUNTS = reply_counts({})
_WRONG_PATH = frozenset({404, 405, 501})
_WRONG_FIELD = frozenset({400, 422})
_WITHOUT = {
    "ignore_eos": "the server does not take ignore_eos, so replies may be shorter than requested",
    "stream_options": "the server does not take stream_options, so tokens are counted by chunks",
}
"""Fields that a server may refuse, in the order in which they are left out, and what that means."""
_SHOWN = 300
"""Characters of a server's own text that an error shows."""


class ServerError(JoulelabError):
    """The server cannot be reached, or refuses what the benchmark needs."""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None

    @property
    def has_text(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.reasoning_content or delta.reasoning)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Reply:
    """The reply to one request. Times are CLOCK_MONOTONIC, ns."""

    prompt: str = ""  # The prompt.
    wanted_tokens: int = 0  # Number of tokens to generate.
    start_ns: int = 0  # When the request was sent.
    stop_ns: int = 0  # When the last chunk with a choice arrived, or the request failed.
    chunk_ns: list[int] = field(default_factory=list)  # When each chunk with text arrived.
    counts: ReplyCounts = NO_COUNTS  # The tokens that the server counted; NaN where it did not.
    error: str = ""  # Why it failed; empty if it did not.
    was_answered: bool = False  # Whether the server began to answer: a failure before is free.
    status: int = 0  # HTTP status; 0 if there was none.

    @property
    def output_tokens(self) -> int:
        """Generated tokens by the server's count; without one, the number of chunks."""
        counted = self.counts.output_tokens
        return len(self.chunk_ns) if math.isnan(counted) else int(counted)

    def take(self, chunk: _Chunk, now_ns: int) -> None:
        """Note what a chunk reports."""
        if chunk.error is not None:
            self.error = f"the server reported: {_server_text(chunk.error)}"
        if chunk.choices:
            self.stop_ns = now_ns
            if chunk.choices[0].has_text:
                self.chunk_ns.append(now_ns)
        if chunk.usage or chunk.timings:
            self.counts = reply_counts({"usage": chunk.usage or {}, "timings": chunk.timings or {}})


def base_url(url: str) -> str:
    """Return a server's URL without ``/v1`` and what follows it.

    Raises:
        UserError: It is not an HTTP URL, or contains a password.

    Example:
        >>> base_url("http://127.0.0.1:8080/v1/"), base_url("localhost:8000")
        ('http://127.0.0.1:8080', 'http://localhost:8000')
    """
    full = url if "://" in url else f"http://{url}"
    full = re.sub(r"/v1(/.*)?$", "", full).rstrip("/")
    if not re.fullmatch(r"https?://[^\s@?#]+", full):
        raise UserError(
            f"{url!r} is not the URL of a server",
            hint="give one such as http://127.0.0.1:8000, without a password or parameters",
        )
    return full


class OpenAIClient:
    """A client of one server. Use it as an asynchronous context manager.

    Args:
        url: The server's URL, with or without ``/v1``.
        model: Name of the model. Default: the only one that the server has.
        api: The kind of requests. Default: completions if the server has them, else chat.
        api_key_variable: Environment variable with the key of the server, if it needs one.
        timeout_s: Longest time without any data from the server before a request has failed.

    Attributes:
        url: The server's URL without ``/v1``.
        model: Name of the model; empty until :meth:`connect`.
        notes: What the server does not support.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api: Api | None = None,
        api_key_variable: str | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        self.url = base_url(url)
        self.model = model or ""
        self.notes: list[str] = []
        self._api = api
        self._headers = _authorization(api_key_variable)
        self._timeout_s = timeout_s
        self._optional = set(_WITHOUT)
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened = aiohttp.ClientSession(
            headers=self._headers,
            connector=self._connector(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, sock_read=self._timeout_s
            ),
        )
        return self

    def _connector(self) -> aiohttp.TCPConnector:
        """Open a connection for each request, except where that takes a handshake.

        Servers close connections that are not in use (llama.cpp after a reply, uvicorn after 5 s),
        and a request that meets one would fail.
        """
        if self.url.startswith("https:"):
            return aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        return aiohttp.TCPConnector(limit=0, force_close=True)

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections to the server."""
        assert self._opened is not None, "the client is not entered"
        return self._opened

    @property
    def api(self) -> Api:
        """The kind of requests."""
        return self._api or "completions"

    async def connect(self) -> None:
        """Choose the model, and find what the server supports by short requests.

        Raises:
            UserError: The server has several models, or not the chosen one.
            ServerError: It cannot be reached, or answers none of the requests.
        """
        await self._choose_model()
        await self._choose_requests()

    async def complete(self, prompt: str, output_tokens: int, reply: Reply | None = None) -> Reply:
        """Send one request and read its reply to the end. Failures are in the reply.

        Args:
            prompt: The text.
            output_tokens: Number of tokens to generate; the server may stop earlier.
            reply: What to fill, so that the caller has what came before it was cancelled.
        """
        reply = Reply() if reply is None else reply
        reply.prompt, reply.wanted_tokens = prompt, output_tokens
        reply.start_ns = time.monotonic_ns()
        try:
            await self._send(self._body(prompt, output_tokens), reply)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # A server that was sent the request and then says nothing has worked on it.
            reply.was_answered |= isinstance(error, aiohttp.SocketTimeoutError)
            reply.error = _reason(error, self._timeout_s)
        except asyncio.CancelledError:
            reply.was_answered = True
            reply.error = "interrupted"
            raise
        finally:
            if reply.error or not reply.stop_ns:
                reply.stop_ns = time.monotonic_ns()
        return reply

    async def count_tokens(self, text: str) -> int | None:
        """Count the tokens of a text by ``/tokenize`` of vLLM and llama.cpp; ``None`` without."""
        body = {"model": self.model, "prompt": text, "content": text}
        try:
            async with self.session.post(f"{self.url}/tokenize", json=body) as response:
                if response.status != 200:
                    return None
                return len((await response.json())["tokens"])
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError, ValueError):
            return None

    async def _read_models(self) -> tuple[int, bytes]:
        """Return status and body of the list of models, once the server has loaded its model."""
        stop_s = time.monotonic() + self._timeout_s
        while True:
            async with self.session.get(f"{self.url}/v1/models") as response:
                # llama.cpp answers 503 while it loads.
                if response.status != 503 or time.monotonic() > stop_s:
                    return response.status, await response.read()
            await asyncio.sleep(LOADING_POLL_S)

    async def _choose_model(self) -> None:
        try:
            status, body = await self._read_models()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerError(
                f"no server answers at {self.url}",
                why=_reason(error),
                hint="start the server, or check the URL",
            ) from error
        if status in (401, 403):
            raise ServerError(
                f"{self.url} refuses access",
                why=f"HTTP {status}",
                hint="name the environment variable with your key: --api-key-env NAME",
            )
        try:
            names = [one.id for one in msgspec.json.decode(body, type=_Models).data]
        except msgspec.DecodeError:
            names = []
        if self.model:
            if names and self.model not in names:
                raise UserError(
                    f"the server has no model {self.model!r}", why=f"it has {join_words(names)}"
                )
            return
        if len(names) != 1:
            raise UserError(
                f"the server does not report one model at {self.url}/v1/models",
                why=f"it reports {join_words(names)}" if names else f"HTTP {status}",
                hint="choose one with --model",
            )
        self.model = names[0]

    async def _choose_requests(self) -> None:
        """Find the kind of requests and the fields that the server takes."""
        for api in [self._api] if self._api else list(PATHS):
            self._api = api
            reply = await self._reply_with_fewer_fields()
            if not reply.error:
                return
            if reply.status not in _WRONG_PATH:
                break
        raise ServerError(f"{self.url} does not answer requests for {self.model}", why=reply.error)

    async def _reply_with_fewer_fields(self) -> Reply:
        """Return the reply to a short request, leaving out optional fields if they are refused."""
        reply = await self.complete("Hello", 2)
        for name, note in _WITHOUT.items():
            if reply.status not in _WRONG_FIELD:
                break
            self._optional.remove(name)
            self.notes.append(note)
            reply = await self.complete("Hello", 2)
        return reply

    def _body(self, prompt: str, output_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": output_tokens, "stream": True,
        }  # fmt: skip
        if "ignore_eos" in self._optional:
            body |= {"ignore_eos": True, "min_tokens": output_tokens}
        if "stream_options" in self._optional:
            body["stream_options"] = {"include_usage": True}
        if self.api == "chat":
            return body | {"messages": [{"role": "user", "content": prompt}]}
        return body | {"prompt": prompt}

    async def _send(self, body: dict[str, Any], reply: Reply) -> None:
        """Send one request and fill its reply."""
        url = f"{self.url}/v1/{PATHS[self.api]}"
        async with self.session.post(url, json=body) as response:
            reply.status = response.status
            if response.status != 200:
                text = _server_text(await response.read())
                reply.error = f"HTTP {response.status}: {text}"
                return
            reply.was_answered = True
            await _read_stream(response.content, reply)


async def _read_stream(content: aiohttp.StreamReader, reply: Reply) -> None:
    """Read server-sent events up to the end of the reply."""
    rest = b""
    is_done = False
    async for data in content.iter_any():
        now_ns = time.monotonic_ns()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                is_done = True
                continue
            try:
                reply.take(_decode_chunk(text), now_ns)
            except msgspec.DecodeError as error:
                reply.error = f"the server sent a chunk that is not understood: {error}"
                return
    if not (is_done or reply.error):
        reply.error = "the server closed the connection before the end of the reply"


def _authorization(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set",
            hint=f"run export {variable}=... with the key of the server",
        )
    return {"Authorization": f"Bearer {key}"}


def _reason(error: BaseException, timeout_s: float = CONNECT_S) -> str:
    """Say in a few words why a request failed."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, TimeoutError):
        return f"no data for {timeout_s:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        code, text = error.os_error.errno, error.os_error.strerror
        # Failures to resolve a name have negative codes, which only their own text explains.
        return os.strerror(code) if code and code > 0 else text or str(error)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the server closed the connection before the end of the reply"
    return shorten(str(error) or type(error).__name__, _SHOWN)


def _server_text(body: Any) -> str:
    """Take the message out of a server's error, as text or JSON."""
    if isinstance(body, bytes):
        try:
            body = msgspec.json.decode(body)
        except msgspec.DecodeError:
            body = body.decode(errors="replace")
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return shorten(str(body) or "no text", _SHOWN)
