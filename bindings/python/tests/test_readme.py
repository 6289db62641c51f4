"""The README, followed to the letter: only what a reader replaces is replaced, and each party is a process in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
import textwrap
import unittest
from importlib import metadata
from pathlib import Path
from typing import Any

import junto
from stage import DEADLINE, JUNTO, Stage

REPOSITORY = Path(__file__).parents[3]
#: What a party does in the examples, which begin as its first one.
EXAMPLE = re.compile(
    r"```python\n.*?^ *async with await junto\.Session\.new\(parties=3, [^\n]*\) as s:\n(.*?)(?:\n\nasyncio\.run\(main\(\)\))?\n```",
    re.DOTALL | re.MULTILINE,
)
BLOCK = re.compile(r"```sh (\w+)\n(.*?)\n```", re.DOTALL)


class Newcomers(Stage):
    def setUp(self) -> None:
        super().setUp()
        text = (REPOSITORY / "bindings/python/README.md").read_text()
        self.blocks = dict(BLOCK.findall(text))

    def test_check_installs_as_it_says(self) -> None:
        check = (REPOSITORY / "bindings/python/check.sh").read_text()
        for line in self.blocks["all"].splitlines():
            # It has the virtual environment elsewhere.
            self.assertIn(line.replace("venv venv", "venv $venv").replace("venv/bin", "$venv/bin"), check)

    def test_relay(self) -> None:
        init, start = self.blocks["relay"].splitlines()
        made = subprocess.run(
            [JUNTO, *shlex.split(init)[1:]], cwd=self.home, check=True, capture_output=True, text=True
        )
        self.assertRegex(made.stdout, r"smp://[\w=-]+@relay\.example\.org")
        # `stage` starts one so, on a host and a port that this machine has.
        self.assertEqual(start, "junto relay start --dir my-relay")

    def test_the_package_has_its_licences(self) -> None:
        files = metadata.metadata("junto").get_all("License-File")
        self.assertEqual(sorted(files or []), ["LICENSE-APACHE", "LICENSE-MIT"])

    async def start(self, party: str, link: str) -> asyncio.subprocess.Process:
        home = self.home / party
        home.mkdir()
        (home / "bindings").symlink_to(REPOSITORY / "bindings")
        (home / "venv").symlink_to(sys.prefix)
        command = self.blocks[party].replace("smp://FINGERPRINT@relay.example.org", self.relay.address)
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-ec",
            f"exec {command.replace('junto:…', link)}",
            cwd=home,
            env={**os.environ, "JUNTO_PROFILE": str(home / "profile")},
            stdout=asyncio.subprocess.PIPE,
        )
        self.addAsyncCleanup(self.stop, process)
        return process

    async def stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    async def test_the_examples_do_for_all_three_what_they_say(self) -> None:
        for number, readme in enumerate(("bindings/python/README.md", "README.md")):
            (block,) = EXAMPLE.findall((REPOSITORY / readme).read_text())
            names: dict[str, Any] = {"print": lambda *_: None}
            body = textwrap.indent(textwrap.dedent(block), "    ")
            exec(f"async def talk(s):\n{body}", names)
            profiles = [self.home / f"{number}-{party}" for party in range(3)]
            host = await junto.Session.new(
                parties=3, relay=self.relay.address, profile=profiles[0]
            )
            assert host.link is not None
            others = [await junto.Session.join(host.link, profile=it) for it in profiles[1:]]

            async def party(session: junto.Session, talk: Any = names["talk"]) -> None:
                async with session:
                    await talk(session)

            await asyncio.wait_for(asyncio.gather(*map(party, (host, *others))), DEADLINE)

    async def test_three_learn_a_sum(self) -> None:
        alice = await self.start("alice", "")
        assert alice.stdout is not None
        link = await asyncio.wait_for(alice.stdout.readline(), DEADLINE)
        others = [await self.start(party, link.decode().strip()) for party in ("bob", "carol")]
        ends = (process.communicate() for process in (alice, *others))
        outputs = await asyncio.wait_for(asyncio.gather(*ends), DEADLINE)
        codes = set()
        for process, (output, _) in zip((alice, *others), outputs, strict=True):
            self.assertEqual(process.returncode, 0)
            known, result = output.decode().splitlines()
            self.assertEqual(result, "sum 13200")
            codes.add(known.split("; ")[1])
        self.assertEqual(len(codes), 1, codes)


if __name__ == "__main__":
    unittest.main()
