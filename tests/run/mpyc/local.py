"""Long computing by one party, while the others wait without a word."""
import sys
import time
from mpyc.runtime import mpc


async def main():
    secint = mpc.SecInt(32)
    async with mpc:
        if mpc.pid == 0:
            end = time.monotonic() + float(sys.argv[1])
            while time.monotonic() < end:
                sum(range(10000))
        shares = mpc.input(secint(mpc.pid + 1))
        print("result", await mpc.output(mpc.sum(shares)), flush=True)


mpc.run(main())
