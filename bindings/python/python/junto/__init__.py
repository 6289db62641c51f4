"""Secure sessions for multiparty computation, between people who exchange one link.

    async with await junto.Session.new(parties=3, relay="smp://…") as s:
        print(s.link)                   # for the two others: junto.Session.join(link)
        await s.begin()                 # when all have come
        await s.send((s.me + 1) % s.parties, b"for you")
        who, data = await s.recv()
        await s.broadcast(b"for all")
        for party in s.others:
            _, data = await s.recv_broadcast(party)

Messages between two parties come in order, once, and only to whom they are for. A broadcast comes to all alike, or
whoever said different things to different parties is named. See ``docs/guides/mpyc.md`` for programs that need no change at all.
"""

from __future__ import annotations

from junto._session import Session
from junto.errors import (
    Error,
    PartyError,
    RefusedError,
    SilentError,
    UnreachableError,
    UsageError,
)

__all__ = [
    "Error",
    "PartyError",
    "RefusedError",
    "Session",
    "SilentError",
    "UnreachableError",
    "UsageError",
]
