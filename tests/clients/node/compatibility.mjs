// Builds every compatibility vector of a file from its JSON, and prints the names of those whose bytes differ, and of
// those whose bytes it signs differently.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { PROTO_ROOT, loadContracts } from "./contracts.mjs";
import { encode } from "./json.mjs";
import { signatureOf } from "./signing.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { proto: { type: "string", default: PROTO_ROOT } },
});
const { master_secret: secret, audience, security, vectors } = JSON.parse(readFileSync(positionals[0], "utf8"));
const root = loadContracts(flags.proto);
const common = {
  nonce: security.nonce,
  issuedAt: security.issued_at,
  freshnessWindow: security.freshness_window,
  keyId: security.key_id,
  algorithm: security.algorithm,
};

const hasOtherBytes = ({ type, message, payload_hex }) =>
  encode(root.lookupType(type), message).toString("hex") !== payload_hex;

function hasOtherSignature({ type, payload_hex, signature }) {
  const payload = Buffer.from(payload_hex, "hex");
  return signatureOf(secret, { payload, payloadType: type, audience, security: common }) !== signature;
}

const names = (condition) => vectors.filter(condition).map(({ name }) => name);
console.log(
  JSON.stringify({ checked: vectors.length, bytes: names(hasOtherBytes), signatures: names(hasOtherSignature) }),
);
