// What each loader makes of a message: cases as a JSON list on standard input, bytes in hex or a refusal on the other side.
// A case has a loader, a type and one of `json` (text, as a user has it), `object` (what the loader's own form would be,
// with a date where the text says so) and `hex` (bytes that are read and written again).

import { readFileSync } from "node:fs";
import path from "node:path";

import { create, fromBinary, fromJson, toBinary } from "@bufbuild/protobuf";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PACKAGE = "esper/leyline/v1";
const PROTO = process.argv[2];
const FILES = { AdaptationCommand: "command", CommandSecurity: "security" };
const ISO = /^\d{4}-\d\d-\d\dT.*Z$/;

// The options that gRPC's own guide shows, and none.
const GUIDE = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

function protoLoading(options) {
  const files = Object.values(FILES).map((file) => `${PACKAGE}/${file}.proto`);
  const found = protoLoader.loadSync(files, { ...options, includeDirs: [PROTO] });
  return (name) => {
    const { serialize, deserialize } = found[`esper.leyline.v1.${name}`];
    return { json: (json) => serialize(json), object: serialize, again: (bytes) => serialize(deserialize(bytes)) };
  };
}

function protobufjs() {
  const root = new protobuf.Root();
  const common = root.resolvePath.bind(root);
  root.resolvePath = (origin, target) => (target.startsWith("esper/") ? path.join(PROTO, target) : common(origin, target));
  root.loadSync(Object.values(FILES).map((file) => `${PACKAGE}/${file}.proto`));
  return (name) => {
    const type = root.lookupType(`esper.leyline.v1.${name}`);
    const encode = (object) => type.encode(type.fromObject(object)).finish();
    return { json: encode, object: encode, again: (bytes) => type.encode(type.decode(bytes)).finish() };
  };
}

async function tsProto() {
  const modules = await imported((file) => `./generated/ts-proto-js/${PACKAGE}/${file}.js`);
  return (name) => {
    const type = modules[name][name];
    return {
      json: (json) => type.encode(type.fromJSON(json)).finish(),
      object: (object) => type.encode(type.fromPartial(object)).finish(),
      again: (bytes) => type.encode(type.decode(bytes)).finish(),
    };
  };
}

async function protobufEs() {
  const modules = await imported((file) => `./generated/es/${PACKAGE}/${file}_pb.js`);
  return (name) => {
    const schema = modules[name][`${name}Schema`];
    return {
      json: (json) => toBinary(schema, fromJson(schema, json)),
      object: (object) => toBinary(schema, create(schema, object)),
      again: (bytes) => toBinary(schema, fromBinary(schema, bytes)),
    };
  };
}

async function imported(place) {
  const entries = Object.entries(FILES).map(async ([name, file]) => [name, await import(place(file))]);
  return Object.fromEntries(await Promise.all(entries));
}

const LOADERS = {
  "proto-loader": protoLoading({}),
  "proto-loader as in gRPC's guide": protoLoading(GUIDE),
  protobufjs: protobufjs(),
  "ts-proto": await tsProto(),
  "protobuf-es": await protobufEs(),
};

function made({ loader, type, json, object, hex }) {
  const codec = LOADERS[loader](type);
  try {
    if (hex !== undefined) return { hex: text(codec.again(Buffer.from(hex, "hex"))) };
    if (json !== undefined) return { hex: text(codec.json(JSON.parse(json))) };
    const dated = JSON.parse(object, (_, value) => (ISO.test(value) ? new Date(value) : value));
    return { hex: text(codec.object(dated)) };
  } catch (error) {
    return { refused: error.message };
  }
}

const text = (bytes) => Buffer.from(bytes).toString("hex");

console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(made)));
