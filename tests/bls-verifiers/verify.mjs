// Reads {"public_key", "message", "signature"} from stdin and verifies with @noble/curves.
//
// Keys and signatures are hex, the message is text (UTF-8). Exit 0 only if the signature is valid
// and every changed input is not.
import { readFileSync } from 'node:fs';
import { bls12_381 } from '@noble/curves/bls12-381.js';

const suite = 'BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_';
const scheme = bls12_381.longSignatures;

const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'));
const flipped = (data) => data.map((byte, i) => (i === data.length - 1 ? byte ^ 1 : byte));

// The library throws on points that do not decode and says false on signatures that do not hold.
const verifies = (key, message, signature) => {
  try {
    return scheme.verify(signature, scheme.hash(message, suite), key);
  } catch {
    return false;
  }
};

const result = JSON.parse(readFileSync(0, 'utf8'));
const key = bytes(result.public_key);
const signature = bytes(result.signature);
const message = new TextEncoder().encode(result.message);
const changed = new TextEncoder().encode(`${result.message}!`);

const checks = [
  ['signature', verifies(key, message, signature), true],
  ['changed message', verifies(key, changed, signature), false],
  ['changed signature', verifies(key, message, flipped(signature)), false],
  ['changed key', verifies(flipped(key), message, signature), false],
  ['short signature', verifies(key, message, signature.slice(0, -1)), false],
];
for (const [name, got, expected] of checks) {
  console.log(`noble: ${name}: ${got ? 'valid' : 'INVALID'}`);
  if (got !== expected) {
    console.error(`noble: FAILED at: ${name}`);
    process.exit(1);
  }
}
