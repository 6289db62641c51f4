"""The session, as programs see it."""

from __future__ import annotations

import asyncio
import logging
from operator import index
from os import PathLike
from types import TracebackType
from typing import NamedTuple

from junto._native import Core
from junto.errors import SilentError, UsageError

_log = logging.getLogger("junto")

#: Most bytes of a message.
_MESSAGE_BYTES_MAX = 16 * 1024 * 1024

#: Seconds that people may take to join, and programs to end together.
_PATIENCE = 600.0

#: Seconds after which a party of which nothing comes is given up.
_SILENCE = 300.0

#: The least that it may be: nobody whose network and machine work is silent for so long.
_SILENCE_MIN = 15.0

_Path = str | PathLike[str]
_Payload = bytes | bytearray | memoryview


def _party(number: int) -> int:
    """A number that a party may have. It may come from a program without types: nobody is not everybody."""
    try:
        party = index(number)
    except TypeError:
        party = -1
    if not 0 <= party < 64:
        raise UsageError(f"there is no party {number!r}")
    return party


def _text(*texts: str | None) -> None:
    """Refuses what is no text: a file name, say, that was read as one."""
    try:
        for text in texts:
            if text is not None:
                text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"that is no text: {error.reason}") from None


class _Facts(NamedTuple):
    me: int
    names: list[str]
    safety_code: str
    verified: bool
    name: str
    id: str


class Session:
    """A session of several parties, in which their programs talk with each other.

    Made by :meth:`new`, :meth:`join` or :meth:`resume`, and used with ``async with``: at the end of the block, all parties end together;
    if the block ends with an exception, the others are told at once, and get a :class:`junto.PartyError` that names this party.

    While it is open, no other process can use its profile, nor another ``Session`` of this one.

    What sends, receives or begins may be cancelled, by a time-out say, at any moment: then it has done nothing. A message that it waited
    for is still there for the next ``recv``; one that it was to send is not sent. A ``close`` that is cancelled leaves the run and the
    profile as they are: ``close`` waits again, ``abort`` tells those who have not closed meanwhile.
    """

    def __init__(self, core: Core, link: str | None) -> None:
        """Not for programs: see :meth:`new`, :meth:`join` and :meth:`resume`."""
        self._core = core
        self._link = link
        self._known: _Facts | None = None
        self._begun = False
        self._run: str | None = None
        self._beginning = 0
        self._open = True

    # Making one

    @classmethod
    async def new(
        cls,
        *,
        parties: int,
        relay: str | None = None,
        profile: _Path | None = None,
        name: str | None = None,
        nickname: str = "",
        policy: str | None = None,
        passphrase_file: _Path | None = None,
        timeout: float = _PATIENCE,
    ) -> Session:
        """Opens a session for so many parties, this one included (2 to 64), whose :attr:`link` the others need.

        ``relay`` is where this party receives, ``smp://FINGERPRINT@host``; by default the first that the profile lists.
        ``profile`` is a folder with all state of this party, made on first use; by default that of the command ``junto``.
        ``name`` is what all parties call the session; ``nickname`` what the others see of this party, which proves nothing.
        ``policy`` says how identities are treated: ``anonymous``, ``tofu`` or ``pinned``; by default as in the profile.
        The relay may take ``timeout`` seconds to answer.
        """
        _text(relay, name, nickname, policy)
        if not 2 <= parties <= 64:
            raise UsageError("a session has 2 to 64 parties")
        core = await Core.open(profile, passphrase_file)
        try:
            link = await core.host((parties, name, policy), relay, nickname, timeout)
        except BaseException:
            await asyncio.shield(core.end())
            raise
        return cls(core, link)

    @classmethod
    async def join(
        cls,
        link: str,
        *,
        relay: str | None = None,
        profile: _Path | None = None,
        nickname: str = "",
        passphrase_file: _Path | None = None,
    ) -> Session:
        """Joins a session by its link. The arguments are those of :meth:`new`; without a ``relay``, the one of the link is used."""
        _text(link, relay, nickname)
        core = await Core.open(profile, passphrase_file)
        try:
            await core.join(link, relay, nickname)
        except BaseException:
            await asyncio.shield(core.end())
            raise
        return cls(core, link)

    @classmethod
    async def resume(
        cls,
        name: str,
        *,
        profile: _Path | None = None,
        passphrase_file: _Path | None = None,
    ) -> Session:
        """Takes up a session that this profile has, by its name: for another run with the same parties."""
        _text(name)
        core = await Core.open(profile, passphrase_file)
        try:
            await core.find(name)
        except BaseException:
            await asyncio.shield(core.end())
            raise
        return cls(core, None)

    async def begin(
        self, run: str = "main", *, timeout: float = _PATIENCE, silence: float = _SILENCE
    ) -> None:
        """Waits until all parties have joined, and begins a run.

        All parties give the same name for the run, at most 200 bytes, and a new one for each run in a session: nothing that was said in
        one comes in another. If the parties do not come within ``timeout`` seconds, that is an error, after which it may be called again;
        so may one that was cancelled, for the same run.

        From then on every party says each 5 s that its process is there, whatever the program does. If nothing comes of one for
        ``silence`` seconds (15 at least; ``math.inf`` for ever), the run fails with a :class:`junto.SilentError` that names it.
        """
        if self._begun:
            raise UsageError("a run has begun in this session already")
        if not silence >= _SILENCE_MIN:
            raise UsageError(f"nobody is silent before {_SILENCE_MIN:g} s have passed")
        _text(run)
        if self._beginning and self._run != run:
            raise UsageError("another run begins in this session already")
        self._run = run
        self._beginning += 1
        try:
            self._known = _Facts(*await self._core.formed(timeout))
            await self._core.begin(run, silence)
        finally:
            self._beginning -= 1
        self._begun = True

    # What is known of it

    @property
    def link(self) -> str | None:
        """The link with which others join; none if the session was taken up by its name. Whoever has it can take a place."""
        return self._link

    @property
    def me(self) -> int:
        """The number of this party, from 0."""
        return self._facts.me

    @property
    def parties(self) -> int:
        """How many parties there are."""
        return len(self._facts.names)

    @property
    def others(self) -> list[int]:
        """The numbers of all other parties."""
        return [party for party in range(self.parties) if party != self.me]

    @property
    def nicknames(self) -> list[str]:
        """What the parties call themselves, by their numbers. It proves nothing."""
        return list(self._facts.names)

    @property
    def safety_code(self) -> str:
        """To be compared by voice: the same for all parties exactly if nobody stands between them."""
        return self._facts.safety_code

    @property
    def verified(self) -> bool:
        """Whether this party noted, by ``junto session verify``, that the codes are the same."""
        return self._facts.verified

    @property
    def name(self) -> str:
        """The session's name, for :meth:`resume` and for the command ``junto session``."""
        return self._facts.name

    @property
    def id(self) -> str:
        """The session's identifier: the same for all parties, and for no other session."""
        return self._facts.id

    @property
    def _facts(self) -> _Facts:
        if self._known is None:
            raise UsageError("not known before all have joined: `await session.begin()` first")
        return self._known

    # Talking

    async def send(self, to: int, data: _Payload) -> None:
        """Sends a message of at most 16 MiB to one party.

        Returns when the message is taken over: it is then stored here, sent, and survives what relays and networks do; ``flush`` waits
        until it has left. While 64 MiB wait for that party, there is no room for more, and this waits. If that party takes nothing
        for ten minutes meanwhile, the run fails.
        """
        await self._put(_party(to), data)

    async def broadcast(self, data: _Payload) -> None:
        """Sends a message of at most 16 MiB to all others, so that all get the same; see :meth:`recv_broadcast`.

        Broadcasts are remembered until the run ends, in memory and on disk: for what has to be the same for all, not for large amounts.
        """
        await self._put(None, data)

    async def recv(
        self, sender: int | None = None, *, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """Waits for the next message of one party, or of any: its number, and what it sent.

        After ``timeout`` seconds without one it raises :class:`junto.SilentError`, which names whom it waited for.
        """
        return await self._take(sender, False, timeout)

    async def recv_broadcast(
        self, sender: int | None = None, *, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """As :meth:`recv`, for broadcasts. One comes once all parties have confirmed that they got the same."""
        return await self._take(sender, True, timeout)

    async def flush(self, *, timeout: float | None = None) -> None:
        """Waits until the relays have everything that was sent so far.

        After ``timeout`` seconds without that it raises :class:`junto.UnreachableError`; what was sent goes out all the same, later.
        """
        await self._core.flush(timeout)

    async def _put(self, to: int | None, data: _Payload) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a message is bytes, not {type(data).__name__}")
        if memoryview(data).nbytes > _MESSAGE_BYTES_MAX:
            raise UsageError("the message is longer than 16 MiB")
        payload = bytes(data)
        while not self._core.put(to, payload):
            await self._core.room(to)

    async def _take(
        self, sender: int | None, broadcast: bool, timeout: float | None
    ) -> tuple[int, bytes]:
        if sender is not None:
            sender = _party(sender)
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while (taken := self._core.take(sender, broadcast)) is None:
            left = None if end is None else max(0.0, end - loop.time())
            arrival = self._core.arrival(sender, broadcast)
            # `wait_for` of Python 3.10 and 3.11 forgets that it was cancelled if the message comes in that moment.
            try:
                await asyncio.wait([arrival], timeout=left)
                if not arrival.done():
                    parties = self.others if sender is None else [sender]
                    named = ", ".join(map(str, parties))
                    what = "broadcast" if broadcast else "message"
                    raise SilentError(
                        f"no {what} of party {named} within {timeout} s", parties=parties
                    )
                arrival.result()
            finally:
                arrival.cancel()
        return taken

    # Ending

    async def close(self, *, timeout: float = _PATIENCE) -> None:
        """Ends the run together with all others, and lets go of the profile. To close twice does no harm.

        It waits until all other parties close as well, so that nobody leaves while others still need its confirmations; if they do not
        within ``timeout`` seconds, :class:`junto.SilentError` names them. If it fails, the others are told. The session stays in the
        profile.
        """
        if not self._open:
            return
        try:
            await self._core.finish(timeout)
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._end()
            raise
        await self._end()

    async def abort(self, reason: str = "it was stopped") -> None:
        """Ends the run and lets go of the profile. The others hear the reason, in a :class:`junto.PartyError` that names this party.

        What was sent before is handed over before, if it is possible within a few seconds.
        """
        if not self._open:
            return
        # Whatever the reason is: they are told.
        told = reason.encode(errors="replace").decode()
        try:
            await asyncio.shield(self._core.abort(told, self._run))
        finally:
            await self._end()

    async def _end(self) -> None:
        self._open = False
        for warning in self._core.warnings():
            _log.warning(warning)
        await asyncio.shield(self._core.end())

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            try:
                await self.close()
            except asyncio.CancelledError:
                await self.abort("its program was stopped")
                raise
        else:
            # What the exception says may be secret.
            await self.abort(f"its program ended with {kind.__name__}")
