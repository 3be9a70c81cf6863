// Prints the signature of every test vector in a file: name -> signature, input length and derived key.

import { readFileSync } from "node:fs";

import { deriveKey, signatureOf, signingInput } from "./signing.mjs";

const document = JSON.parse(readFileSync(process.argv[2], "utf8"));
const results = document.vectors.map((vector) => {
  const envelope = {
    payload: Buffer.from(vector.payload_hex, "hex"),
    payloadType: vector.payload_type,
    audience: vector.audience,
    security: {
      nonce: vector.nonce,
      issuedAt: vector.issued_at,
      freshnessWindow: vector.freshness_window,
      keyId: vector.key_id,
      algorithm: vector.algorithm,
    },
  };
  return {
    name: vector.name,
    signature: signatureOf(document.master_secret, envelope),
    input_bytes: signingInput(envelope).length,
    key: deriveKey(document.master_secret, vector.key_id).toString("hex"),
  };
});
console.log(JSON.stringify(results));
