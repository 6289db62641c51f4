"""What goes wrong, and whose fault it is."""

from __future__ import annotations

from collections.abc import Sequence


class Error(Exception):
    """Something failed. The other errors of this package are special cases of it."""

    #: What to do about it, where that is known.
    help: str | None

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message if help is None else f"{message} ({help})")
        self.help = help


class UsageError(Error, ValueError):
    """The program asked for something that cannot be: it has to be changed."""


class UnreachableError(Error, ConnectionError):
    """A relay is out of reach, this machine's own network is down, or the session lacks parties. It may be tried again."""


class RefusedError(Error, PermissionError):
    """A policy said no: the host's, the relay's or that of this profile, which may know another key of a party."""


class PartyError(Error):
    """Other parties are at fault: they broke the protocol, gave up, or left."""

    #: The numbers of all parties at fault, in order; at least one.
    parties: tuple[int, ...]

    def __init__(
        self, message: str, help: str | None = None, *, parties: Sequence[int]
    ) -> None:
        super().__init__(message, help)
        self.parties = tuple(parties)

    def __reduce__(self) -> tuple[object, ...]:
        # Pickled by a process pool, say. The message has the help in it.
        return (_again, (type(self), self.args, self.__dict__))

    @property
    def party(self) -> int:
        """The number of the first of them."""
        return self.parties[0]


class SilentError(PartyError, TimeoutError):
    """Other parties did not answer in time, or gave up for that reason. They may be back later."""


def _again(
    kind: type[PartyError], args: tuple[object, ...], state: dict[str, object]
) -> PartyError:
    """The same error: of whatever arguments it was made."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def of_failure(exit: int, message: str, help: str | None, parties: Sequence[int]) -> Error:
    """The error for a failure, told apart as by the exit codes of the command ``junto``."""
    if parties and exit != 5:
        kind = SilentError if exit == 3 else PartyError
        return kind(message, help, parties=parties)
    kinds: dict[int, type[Error]] = {2: UsageError, 3: UnreachableError, 5: RefusedError}
    return kinds.get(exit, Error)(message, help)
