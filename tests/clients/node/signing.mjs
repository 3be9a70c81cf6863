// The signature: every byte that it covers, and how its key comes from the master secret.

import { createHmac, randomBytes } from "node:crypto";

const ALGORITHM = "hmac-sha256";

export function deriveKey(masterSecret, keyId) {
  return createHmac("sha256", masterSecret).update(`ESPER-KEY-V1\n${keyId}`).digest();
}

export function signingInput(envelope) {
  const { algorithm, keyId, nonce, issuedAt, freshnessWindow } = envelope.security;
  const texts = [algorithm, keyId, envelope.audience, envelope.payloadType, nonce];
  return Buffer.concat([
    Buffer.from("ESPER-CMD-V1\n"),
    ...texts.map((text) => withLength(Buffer.from(text, "utf8"))),
    timeBytes(issuedAt),
    timeBytes(freshnessWindow),
    withLength(envelope.payload),
  ]);
}

export function signatureOf(masterSecret, envelope) {
  const key = deriveKey(masterSecret, envelope.security.keyId);
  return createHmac("sha256", key).update(signingInput(envelope)).digest("hex");
}

// `payload` is signed and sent as these very bytes: nobody may serialise the message again.
export function sign(masterSecret, { payload, payloadType, audience, keyId = "k1", freshnessSeconds = 60 }) {
  const now = Date.now();
  const envelope = {
    payload,
    payloadType,
    audience,
    security: {
      nonce: randomBytes(16).toString("hex"),
      issuedAt: { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1_000_000 },
      freshnessWindow: { seconds: freshnessSeconds, nanos: 0 },
      keyId,
      algorithm: ALGORITHM,
    },
  };
  envelope.security.signature = signatureOf(masterSecret, envelope);
  return envelope;
}

function withLength(bytes) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

function timeBytes({ seconds, nanos }) {
  const bytes = Buffer.alloc(12);
  bytes.writeBigInt64BE(BigInt(seconds));
  bytes.writeInt32BE(nanos, 8);
  return bytes;
}
