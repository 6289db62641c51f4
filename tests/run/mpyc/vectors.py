"""Large vectors: megabytes in one message each way."""
import hashlib
import sys
from mpyc.runtime import mpc


async def main():
    length = int(sys.argv[1])
    field = mpc.SecFld(2**61 - 1)
    async with mpc:
        own = [field((mpc.pid + 1) * index) for index in range(length)]
        vectors = mpc.input(own)
        total = vectors[0]
        for vector in vectors[1:]:
            total = mpc.vector_add(total, vector)
        # Products are what makes all parties send to all.
        squares = mpc.schur_prod(total, total)
        values = [int(value) for value in await mpc.output(squares)]
        print("result", len(values), hashlib.sha256(repr(values).encode()).hexdigest(), flush=True)


mpc.run(main())
