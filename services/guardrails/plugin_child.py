"""The process of one plug-in version: limits itself, loads the code, answers one call at a time.

Run as a script by the parent, isolated (`python -I`), with one socket as its only descriptor. It
imports the standard library and the plug-in, nothing of the service. Frames are a 4-byte length
and JSON, never pickle. `{"id", "op": "check", "texts", "context"}` is answered with
`{"id", "verdicts": [[[start, end, label, score], ...] or {"scores": {label: score}}, ...]}` or
`{"id", "error": "<type of the exception>"}`; no message of an exception leaves, it may hold text.
"""

import ctypes
import importlib
import json
import os
import resource
import socket
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIGKILL = 9
_NOBODY = 65_534
_FRAME_BYTES_MAX = 32 << 20


def _confine(memory_bytes: int) -> None:
    """Give up what a validator does not need; what the system does not permit stays as it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _drop() -> None:
    """Become nobody where permitted; from here on no process or thread can be started."""
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError:
            pass
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _read(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            sys.exit(0)
        parts += part
    return bytes(parts)


def main() -> None:
    """Serve until the parent closes the socket. Arguments: fd, memory, folder, module:attribute."""
    descriptor, memory, folder, entry = sys.argv[1:5]
    connection = socket.socket(fileno=int(descriptor))
    _confine(int(memory))
    if folder:
        sys.path.insert(0, folder)
    module, _, attribute = entry.partition(":")
    sys.dont_write_bytecode = True
    validator = getattr(importlib.import_module(module), attribute)()
    _drop()
    connection.sendall(_framed({"ready": True}))
    while True:
        (size,) = struct.unpack(">I", _read(connection, 4))
        if size > _FRAME_BYTES_MAX:
            sys.exit(1)
        request = json.loads(_read(connection, size))
        try:
            verdicts = validator.check(request["texts"], request["context"])
            answer = _framed({"id": request["id"], "verdicts": verdicts})
        except Exception as error:  # whatever a plug-in raises becomes an answer
            answer = _framed({"id": request["id"], "error": type(error).__name__})
        connection.sendall(answer)


def _framed(document: object) -> bytes:
    body = json.dumps(document).encode()
    return struct.pack(">I", len(body)) + body


if __name__ == "__main__":
    main()
