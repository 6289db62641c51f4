"""Many tiny rounds: comparisons of secrets, each of which waits for the one before."""
import sys
from mpyc.runtime import mpc


async def main():
    count = int(sys.argv[1])
    secint = mpc.SecInt(32)
    async with mpc:
        secrets = mpc.input(secint(7 * mpc.pid + 3))
        most = secrets[0]
        for turn in range(count):
            other = secrets[turn % len(secrets)] + turn
            most = mpc.if_else(most < other, other, most)
            if turn % 10 == 9:
                print("after", turn + 1, await mpc.output(most), flush=True)
        print("result", await mpc.output(most), flush=True)


mpc.run(main())
