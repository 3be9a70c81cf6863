// Between protobuf's JSON and bytes. protobufjs alone drops what it doesn't know: a key, an enum's name, a date; and a
// number beyond 2^53 was rounded when the JSON was read. What would be signed differently is refused here.

import protobuf from "protobufjs";

const INTEGERS = new Set(["int32", "uint32", "int64", "uint64"]); // all that the contracts have
const TIMES = { ".google.protobuf.Timestamp": timestamp, ".google.protobuf.Duration": duration };

export function encode(type, json, where = type.name) {
  const message = type.fromObject(object(type, json, where));
  const problem = type.verify(message);
  if (problem) throw new Error(`${where}: ${problem}`);
  return Buffer.from(type.encode(message).finish());
}

// Wide numbers and times as text, as protobuf's JSON has them.
export function asJson(type, message) {
  return texts(type, type.toObject(type.fromObject(message), { longs: String, enums: String, bytes: String }));
}

function texts(type, found) {
  if (type.fullName === ".google.protobuf.Timestamp") return timestampText(found);
  if (type.fullName === ".google.protobuf.Duration") return `${decimal(found)}s`;
  const entries = Object.entries(found).map(([name, value]) => {
    const inner = type.fields[name].resolvedType;
    if (!(inner instanceof protobuf.Type)) return [name, value];
    return [name, Array.isArray(value) ? value.map((item) => texts(inner, item)) : texts(inner, value)];
  });
  return Object.fromEntries(entries);
}

function timestampText({ seconds = 0, nanos = 0 }) {
  return `${new Date(seconds * 1000).toISOString().slice(0, 19)}.${String(nanos).padStart(9, "0")}Z`;
}

function decimal({ seconds = 0, nanos = 0 }) {
  const sign = seconds < 0 || nanos < 0 ? "-" : "";
  return `${sign}${Math.abs(seconds)}.${String(Math.abs(nanos)).padStart(9, "0")}`;
}

function object(type, json, where) {
  if (json === null || typeof json !== "object" || Array.isArray(json)) throw new Error(`${where} is no object`);
  const found = {};
  for (const [key, value] of Object.entries(json)) {
    const field = fieldOf(type, key);
    if (!field) throw new Error(`${where} has no field ${key}; there are ${Object.keys(type.fields).join(", ")}`);
    if (value === null) continue; // JSON's word for a field that isn't set
    const here = `${where}.${field.name}`;
    const each = (item) => single(field, item, here);
    found[field.name] = field.repeated ? list(value, here).map(each) : each(value);
    if (isDefaultWithoutPresence(field, found[field.name])) delete found[field.name];
  }
  return found;
}

// Both spellings stand for a field: that of the .proto and lowerCamelCase.
function fieldOf(type, key) {
  return type.fields[key] ?? type.fieldsArray.find((field) => protobuf.util.camelCase(key) === field.name);
}

function single(field, value, where) {
  const type = field.resolvedType;
  if (type instanceof protobuf.Enum) return member(type, value, where);
  if (type instanceof protobuf.Type) return (TIMES[type.fullName] ?? ((json) => object(type, json, where)))(value, where);
  if (INTEGERS.has(field.type)) return integer(value, where);
  return value;
}

function integer(value, where) {
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    throw new Error(`${where} is ${value}, which JavaScript can't hold exactly: write it as text`);
  }
  if (!/^-?\d+$/.test(value)) throw new Error(`${where} is ${JSON.stringify(value)}, which is no integer`);
  return value;
}

function member(type, value, where) {
  const number = typeof value === "string" ? type.values[value] : value;
  if (number === undefined || (typeof value === "number" && type.valuesById[value] === undefined)) {
    throw new Error(`${where} is ${value}, which is none of ${Object.keys(type.values).join(", ")}`);
  }
  return number;
}

function list(value, where) {
  if (!Array.isArray(value)) throw new Error(`${where} is no list`);
  return value;
}

// protobufjs writes whatever is there; without presence a default is left out.
function isDefaultWithoutPresence(field, value) {
  if (field.repeated) return value.length === 0;
  const hasPresence = field.partOf || field.resolvedType instanceof protobuf.Type;
  const isZero = field.type !== "string" && field.type !== "bytes" && Number(value) === 0;
  return !hasPresence && (value === "" || (isZero && !Object.is(value, -0)));
}

function timestamp(text, where) {
  const parts = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z$/.exec(text);
  if (!parts) throw new Error(`${where} is ${text}, which is no time such as 2026-01-31T12:00:00.123456789Z`);
  return time(Date.parse(`${parts[1]}Z`) / 1000, Number((parts[2] ?? "").padEnd(9, "0")));
}

function duration(text, where) {
  const parts = /^(-?)(\d+)(?:\.(\d{1,9}))?s$/.exec(text);
  if (!parts) throw new Error(`${where} is ${text}, which is no duration such as 1.5s`);
  const sign = parts[1] ? -1 : 1;
  return time(sign * Number(parts[2]), sign * Number((parts[3] ?? "").padEnd(9, "0")));
}

function time(seconds, nanos) {
  return { ...(seconds && { seconds }), ...(nanos && { nanos }) };
}
