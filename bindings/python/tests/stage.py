"""A relay and parties of its own for each test; everything ends with it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import unittest
from pathlib import Path

import junto

#: The command `junto`, for the relay.
JUNTO = os.environ["JUNTO"]
#: It only turns what hangs into a failure.
DEADLINE = 120.0


class Relay:
    """A relay process on a free port, which can be stopped and started again where it was."""

    def __init__(self, home: Path) -> None:
        self._dir = str(home / "relay")
        # Another process may take a port that was free a moment ago: choose again.
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = str(free.getsockname()[1])
            where = ["--dir", self._dir, "--host", "127.0.0.1", "--port", port]
            init = [JUNTO, "--json", "relay", "init", *where]
            subprocess.run(init, check=True, capture_output=True)
            if self.start():
                return
            self.kill()
            shutil.rmtree(self._dir)
        raise OSError("no free port")

    def start(self) -> bool:
        command = [JUNTO, "--json", "relay", "start", "--dir", self._dir]
        with open(self._dir + ".errors", "wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert self._process.stdout is not None
        line = json.loads(self._process.stdout.readline())
        self.address: str = line.get("address", "")
        return bool(self.address)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Stage(unittest.IsolatedAsyncioTestCase):
    """A test with a relay."""

    def setUp(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="junto-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.relay = Relay(self.home)
        self.addCleanup(self.relay.kill)
        #: Of the parties that met, by their numbers.
        self.profiles: dict[int, Path] = {}

    def profile(self, number: int) -> Path:
        return self.home / f"party-{number}"

    async def meet(
        self, count: int, run: str = "main", silence: float = 300.0
    ) -> list[junto.Session]:
        """A session of so many parties in this process, by their numbers; aborted at the end unless it was closed."""
        host = await junto.Session.new(
            parties=count, relay=self.relay.address, profile=self.profile(0), name="test"
        )
        self.addAsyncCleanup(host.abort)
        assert host.link is not None
        sessions = [host]
        for number in range(1, count):
            joined = await junto.Session.join(host.link, profile=self.profile(number))
            self.addAsyncCleanup(joined.abort)
            sessions.append(joined)
        begin = (session.begin(run, timeout=DEADLINE, silence=silence) for session in sessions)
        await asyncio.gather(*begin)
        self.profiles = {session.me: self.profile(it) for it, session in enumerate(sessions)}
        return sorted(sessions, key=lambda session: session.me)
