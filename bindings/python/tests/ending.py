"""Ends while calls that it has given up are still under way. `test_end.py` runs it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import junto

#: Nobody listens there.
RELAY = "smp://" + "A" * 43 + "=@127.0.0.1:1"


async def main(home: Path, moment: float) -> None:
    calls = [
        asyncio.create_task(
            junto.Session.new(profile=home / str(number), parties=2, relay=RELAY)
        )
        for number in range(6)
    ]
    await asyncio.sleep(moment)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
