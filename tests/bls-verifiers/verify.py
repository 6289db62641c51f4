"""Reads {"public_key", "message", "signature"} from stdin and verifies with py_ecc (pure Python).

Keys and signatures are hex, the message is text (UTF-8). Exit 0 only if the signature is valid and
every changed input is not.
"""

import json
import sys

from py_ecc.bls import G2ProofOfPossession as scheme


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def main() -> int:
    result = json.load(sys.stdin)
    key = bytes.fromhex(result["public_key"])
    message = result["message"].encode()
    signature = bytes.fromhex(result["signature"])
    checks = [
        ("key is valid", scheme.KeyValidate(key), True),
        ("signature", scheme.Verify(key, message, signature), True),
        ("changed message", scheme.Verify(key, message + b"!", signature), False),
        ("changed signature", scheme.Verify(key, message, flipped(signature)), False),
        ("changed key", scheme.Verify(flipped(key), message, signature), False),
        ("short signature", scheme.Verify(key, message, signature[:-1]), False),
    ]
    for name, got, expected in checks:
        print(f"py_ecc: {name}: {'valid' if got else 'INVALID'}")
        if got is not expected:
            print(f"py_ecc: FAILED at: {name}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
