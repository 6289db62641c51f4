"""A few people learn the sum of their numbers, and nobody learns the number of another.

One:         python sum.py --new 3 --relay smp://… 4200
The others:  python sum.py --join 'junto:…' 3900
"""

import argparse
import asyncio
import secrets

import junto

MODULUS = 2**64


async def main(options: argparse.Namespace) -> None:
    common = {"relay": options.relay, "profile": options.profile}
    if options.join:
        session = await junto.Session.join(options.join, **common)
    else:
        session = await junto.Session.new(parties=options.new, **common)
    async with session as s:
        if options.new:
            print(s.link, flush=True)
        await s.begin()
        print(f"You are party {s.me} of {s.parties}; safety code {s.safety_code}", flush=True)
        # Each share alone is a random number; all shares of a number add up to it.
        shares = {party: secrets.randbelow(MODULUS) for party in s.others}
        for party, share in shares.items():
            await s.send(party, share.to_bytes(8, "big"))
        column = options.number - sum(shares.values())
        for party in s.others:
            column += int.from_bytes((await s.recv(party))[1], "big")
        # The sums of what each got add up to the sum of all numbers.
        await s.broadcast((column % MODULUS).to_bytes(8, "big"))
        total = column
        for party in s.others:
            total += int.from_bytes((await s.recv_broadcast(party))[1], "big")
        print("sum", total % MODULUS)


parser = argparse.ArgumentParser()
start = parser.add_mutually_exclusive_group(required=True)
start.add_argument("--new", type=int, metavar="PARTIES")
start.add_argument("--join", metavar="LINK")
parser.add_argument("--relay", metavar="ADDRESS")
parser.add_argument("--profile", metavar="FOLDER")
parser.add_argument("number", type=int)
asyncio.run(main(parser.parse_args()))
