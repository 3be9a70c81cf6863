// Signs an AdaptationCommand and sends it to Kasmina; prints the outcome as JSON.
//
//   ESPER_LEYLINE_SECRET=... node apply_command.mjs --endpoint unix:/path/kasmina.sock command.json
//   ESPER_LEYLINE_SECRET=... node apply_command.mjs --sign-only command.json
//
// Exit codes: 0 accepted (or signed), 1 refused, 64 wrong usage, 75 Kasmina can't be reached.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";

import { PACKAGE, PROTO_ROOT, loadContracts, serviceClient } from "./contracts.mjs";
import { asJson, encode } from "./json.mjs";
import { sign } from "./signing.mjs";

const TYPE = `${PACKAGE}.AdaptationCommand`;
const DEADLINE_MS = 10_000;
const [OK, REFUSED, USAGE, UNREACHABLE] = [0, 1, 64, 75];

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      endpoint: { type: "string" },
      "sign-only": { type: "boolean", default: false },
      "key-id": { type: "string", default: "k1" },
      proto: { type: "string", default: PROTO_ROOT },
    },
  });
  if (positionals.length !== 1) throw new Error("give one file with an AdaptationCommand as JSON");
  if (!values["sign-only"] && !values.endpoint) throw new Error("give --endpoint HOST:PORT or unix:PATH");
  const secret = (process.env.ESPER_LEYLINE_SECRET ?? "").trim(); // a file's last newline is no part of it
  if (!secret) throw new Error("set ESPER_LEYLINE_SECRET to the run's secret");
  return { ...values, file: positionals[0], secret };
}

function signed(root, { file, secret, "key-id": keyId }) {
  const type = root.lookupType(TYPE);
  const payload = encode(type, JSON.parse(readFileSync(file, "utf8")));
  return sign(secret, { payload, payloadType: TYPE, audience: `kasmina/${type.decode(payload).trainingRunId}`, keyId });
}

function applied(root, endpoint, envelope) {
  const client = serviceClient(root, "KasminaService", endpoint);
  const deadline = new Date(Date.now() + DEADLINE_MS);
  return new Promise((resolve, reject) => {
    client.ApplyCommand({ command: envelope }, new grpc.Metadata(), { deadline }, (error, response) => {
      client.close();
      if (error) reject(error);
      else resolve(response.outcome);
    });
  });
}

async function main() {
  let chosen, root, envelope;
  try {
    chosen = options();
    root = loadContracts(chosen.proto);
    envelope = signed(root, chosen);
  } catch (error) {
    console.error(`apply_command: ${error.message}`);
    return USAGE;
  }
  if (chosen["sign-only"]) {
    console.log(JSON.stringify({ command: asJson(root.lookupType(`${PACKAGE}.SignedCommand`), envelope) }));
    return OK;
  }
  try {
    const outcome = await applied(root, chosen.endpoint, envelope);
    console.log(JSON.stringify(asJson(root.lookupType(`${PACKAGE}.CommandOutcome`), outcome)));
    return outcome.accepted ? OK : REFUSED;
  } catch (error) {
    console.error(`apply_command: ${grpc.status[error.code] ?? "ERROR"}: ${error.details ?? error.message}`);
    return error.code === grpc.status.UNAVAILABLE ? UNREACHABLE : REFUSED;
  }
}

process.exitCode = await main();
