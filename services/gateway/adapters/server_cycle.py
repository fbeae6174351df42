"""One request and its answer on a server connection, with less work per header than uvicorn's.

uvicorn searches every name and every value of an answer on its own for what must not be there; here
the rendered head is searched once.
"""

import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# Control characters other than tab and the line ends, which are counted.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BODILESS = (204, 304)


class Cycle(RequestResponseCycle):
    """What the edge gets as `receive` and `send`."""

    async def send(self, message: Any) -> None:
        """Take a message of the answer.

        Raises:
            RuntimeError: messages out of order, a header that breaks the head, or a body of
                another length than announced.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the answer is complete already")
        is_start = message["type"] == "http.response.start"
        if is_start is self.response_started:
            raise RuntimeError(f"{message['type']} is out of order")
        if is_start:
            self._start(message["status"], message["headers"])
        else:
            self._continue(message.get("body", b""), is_last=not message.get("more_body", False))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        lines = [STATUS_LINE[status]]
        is_closing = False
        for name, value in self.default_headers + headers:
            name = name.lower()
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                is_closing = True
            lines.append(name + b": " + value + b"\r\n")
        if not self.keep_alive and not is_closing:
            lines.append(b"connection: close\r\n")
        may_have_body = self.scope["method"] != "HEAD" and status not in _BODILESS
        if self.chunked_encoding is None and may_have_body:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        ends = len(lines)
        if head.count(b"\n") != ends or head.count(b"\r") != ends or _FORBIDDEN.search(head):
            raise RuntimeError("a header holds a control character")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head + b"\r\n")

    def _continue(self, body: bytes, *, is_last: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(framed + b"0\r\n\r\n" if is_last else framed)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than announced")
            self.transport.write(body)
        if not is_last:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than announced")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def receive(self) -> Any:
        """Give the next part of the body, or the news that the caller has gone."""
        if self.message_event.is_set() and not (
            self.waiting_for_100_continue or self.disconnected or self.response_complete
        ):
            self.message_event.clear()
            self.flow.resume_reading()
            body, self.body = bytes(self.body), bytearray()
            return {"type": "http.request", "body": body, "more_body": self.more_body}
        return cast(Any, await super().receive())
