"""HTTP requests to a meter: one kept connection, bounded in size and time.

The standard library's client is enough for one small request a second, and the recorder has to stay
small. It uses no proxy. A redirect is followed on the same host only, so that a password never
reaches another one. No error message contains a query, a header or a password.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from joulelab.sensors.meters.replies import MeterError

LARGEST_REPLY_BYTES = 1 << 20
MOST_REDIRECTS = 3
CREDENTIALS_WAIT_S = 30.0
"""Management controllers lock an account after some wrong passwords."""


class HttpClient:
    """Sends GET requests to one host.

    Args:
        url: The meter's address; requests replace its path.
        timeout_s: Time for a request.
        headers: Sent with each request.
        verify: Whether its certificate is checked.
        ca_file: The certificate that is trusted.

    Attributes:
        user: User and password for basic or digest authentication, if the server asks.
    """

    def __init__(
        self,
        url: SplitResult,
        timeout_s: float,
        *,
        headers: Mapping[str, str] | None = None,
        verify: bool = True,
        ca_file: str | None = None,
    ) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._headers = {"Accept": "application/json", "User-Agent": "joulelab", **(headers or {})}
        self.user: tuple[str, str] | None = None
        self._challenge: dict[str, str] | None = None
        self._uses = 0
        # Without TLS, a password is not sent unasked: the server may want it hashed.
        self._is_basic = url.scheme == "https"
        self._verify, self._ca_file = verify, ca_file
        self._connection: http.client.HTTPConnection | None = None

    def get(self, target: str) -> bytes:
        """Return the body of the reply to a request for a path with its query.

        Raises:
            MeterError: There is no such reply.
        """
        until_s = time.monotonic() + self._timeout_s
        try:
            for _ in range(MOST_REDIRECTS + 1):
                response, body = self._exchange(target, until_s)
                if response.status == http.client.OK:
                    return body
                if response.status in (301, 302, 303, 307, 308):
                    target = self._redirected(target, response.getheader("Location") or "")
                elif not self._is_challenged(response):
                    raise self._refusal(response.status, response.reason)
        except MeterError:
            # An answer that comes in drops has no timeout of its own, and is aborted.
            if time.monotonic() >= until_s:
                self.close()
                raise self._failure(TimeoutError()) from None
            raise
        raise MeterError("it redirects again and again")

    def abort(self) -> None:
        """End a request that another thread waits for."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, target: str, until_s: float) -> tuple[http.client.HTTPResponse, bytes]:
        is_kept = self._connection is not None and self._connection.sock is not None
        try:
            response = self._request(target, until_s)
            body = response.read(LARGEST_REPLY_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if is_kept and isinstance(error, (ConnectionResetError, BrokenPipeError)):
                # The server closed a connection that was idle.
                return self._exchange(target, until_s)
            raise self._failure(error) from None
        if len(body) <= LARGEST_REPLY_BYTES and not response.length:
            return response, body
        self.close()
        if len(body) > LARGEST_REPLY_BYTES:
            raise MeterError("the reply is larger than 1 MB: check the address")
        raise MeterError("the connection closed within the reply")

    def _request(self, target: str, until_s: float) -> http.client.HTTPResponse:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection = self._connection = self._connection or self._connect()
        connection.timeout = left_s
        if connection.sock is not None:
            connection.sock.settimeout(left_s)
        connection.request("GET", target, headers=self._headers | self._authorization(target))
        return connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, self._url.port)
        context = ssl.create_default_context(cafile=self._ca_file)
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(host, self._url.port, context=context)

    def _redirected(self, target: str, location: str) -> str:
        """Return the path that a redirect leads to, and take over its scheme and port."""
        with contextlib.suppress(ValueError):
            url = urlsplit(urljoin(f"{self._url.scheme}://{self._url.netloc}{target}", location))
            is_upgrade = (self._url.scheme, url.scheme) == ("http", "https")
            is_same_port = _port(url) == _port(self._url)
            if url.hostname == self._url.hostname and (is_upgrade or is_same_port):
                if is_upgrade:
                    self.close()
                    self._url = url
                return f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
        raise MeterError("it redirects to another host, which is not followed: check the address")

    def _is_challenged(self, response: http.client.HTTPResponse) -> bool:
        """Take a challenge of the server (RFC 7616), unless the answer to it was wrong."""
        text = response.getheader("WWW-Authenticate") or ""
        found = {
            key.lower(): quoted or plain
            for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', text)
        }
        is_refused = response.status == http.client.UNAUTHORIZED
        is_digest = is_refused and text.lower().startswith("digest") and "nonce" in found
        if self.user is None or not is_digest:
            is_wanted = is_refused and not self._is_basic
            self._is_basic = self._is_basic or is_wanted
            return self.user is not None and is_wanted
        # A challenge that was answered before may have expired, but not one that is new.
        was_answered = self._challenge is not None and self._uses == 1
        self._challenge, self._uses = (None if was_answered else found), 0
        self._is_basic = False
        return not was_answered

    def _authorization(self, target: str) -> dict[str, str]:
        if self.user is None or not (self._challenge or self._is_basic):
            return {}
        if self._challenge is None:
            plain = base64.b64encode(":".join(self.user).encode()).decode()
            return {"Authorization": f"Basic {plain}"}
        self._uses += 1
        return {"Authorization": digest(self._challenge, self.user, target, self._uses)}

    def _refusal(self, status: int, reason: str) -> MeterError:
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            what = (
                "wrong user or password, or no right to read this"
                if self.user or any(name in self._headers for name in _TOKEN_HEADERS)
                else "it wants a user and password: add user, and password_env or password_file"
            )
            return NoAnswerError(f"{status}: {what}", wait_s=CREDENTIALS_WAIT_S)
        if status in (400, 404, 405, 410, 501):
            return NotFoundError(f"{status}: it has no such page")
        return MeterError(f"it answered {status} {reason[:60]}".strip())

    def _failure(self, error: Exception) -> NoAnswerError:
        for kind, text in _FAILURES.items():
            if isinstance(error, kind):
                host, timeout = self._url.hostname, f"{self._timeout_s:g}"
                return NoAnswerError(text.format(host=host, timeout=timeout, why=_why(error)))
        return NoAnswerError(f"it does not speak HTTP ({type(error).__name__})")


class NoAnswerError(MeterError):
    """The server gives no answer, whatever the page."""


class NotFoundError(MeterError):
    """The server has no such page."""


_FAILURES: dict[type[Exception], str] = {
    TimeoutError: "no answer within {timeout} s",
    ssl.SSLCertVerificationError: "its certificate is not trusted ({why}): name it as ca_file, or "
    "set verify = false",
    ssl.SSLError: "no secure connection ({why}): if the server has none, write http:// before its "
    "address",
    socket.gaierror: "the host name {host} is unknown",
    ConnectionRefusedError: "{host} refuses the connection: is the address right?",
    ConnectionResetError: "the connection closed without a reply",
    BrokenPipeError: "the connection closed without a reply",
    OSError: "no connection to {host}: {why}",
    http.client.IncompleteRead: "the connection closed within the reply",
}
"""The first class that fits counts: later ones are wider."""


def _port(url: SplitResult) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)


def _why(error: Exception) -> str:
    names = ("verify_message", "reason", "strerror")
    found = (getattr(error, name, None) for name in names)
    return str(next(filter(None, found), type(error).__name__))


_TOKEN_HEADERS = ("X-Auth-Token", "Authorization")
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}


def digest(challenge: Mapping[str, str], user: tuple[str, str], target: str, count: int) -> str:
    """Answer a challenge of digest authentication (RFC 7616, qop ``auth`` or none).

    Raises:
        MeterError: The server wants another algorithm.
    """
    algorithm = challenge.get("algorithm", "MD5")
    if algorithm.upper() not in _HASHES:
        raise MeterError(f"it wants digest authentication by {algorithm}, which is not known")

    def hashed(*parts: str) -> str:
        return hashlib.new(_HASHES[algorithm.upper()], ":".join(parts).encode()).hexdigest()

    realm, nonce = challenge.get("realm", ""), challenge["nonce"]
    keys = hashed(user[0], realm, user[1]), hashed("GET", target)
    fields = {"username": user[0], "realm": realm, "nonce": nonce, "uri": target}
    plain = f"algorithm={algorithm}"
    if "auth" in challenge.get("qop", ""):
        own, number = os.urandom(8).hex(), f"{count:08x}"
        fields |= {"cnonce": own, "response": hashed(keys[0], nonce, number, own, "auth", keys[1])}
        plain += f", qop=auth, nc={number}"
    else:
        fields["response"] = hashed(keys[0], nonce, keys[1])
    if "opaque" in challenge:
        fields["opaque"] = challenge["opaque"]
    quoted = ", ".join(f'{key}="{value}"' for key, value in fields.items())
    return f"Digest {quoted}, {plain}"
