// Message types and services, generated from the .proto files when the client starts.

import { readdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protobuf from "protobufjs";

export const PACKAGE = "esper.leyline.v1";
export const PROTO_ROOT = fileURLToPath(new URL("../../../proto", import.meta.url));

export function loadContracts(protoRoot = PROTO_ROOT) {
  const root = new protobuf.Root();
  const common = root.resolvePath.bind(root);
  root.resolvePath = (origin, target) =>
    target.startsWith("esper/") ? path.join(protoRoot, target) : common(origin, target);
  const folder = path.join(protoRoot, ...PACKAGE.split("."));
  const files = readdirSync(folder).filter((name) => name.endsWith(".proto"));
  root.loadSync(files.map((name) => `${PACKAGE.replaceAll(".", "/")}/${name}`));
  root.resolveAll();
  return root;
}

export function serviceClient(root, serviceName, endpoint) {
  const service = root.lookupService(`${PACKAGE}.${serviceName}`);
  const methods = Object.fromEntries(
    service.methodsArray.map((method) => [method.name, definition(service, method)]),
  );
  const Client = grpc.makeGenericClientConstructor(methods, serviceName);
  return new Client(endpoint, grpc.credentials.createInsecure());
}

function definition(service, method) {
  const { resolvedRequestType: request, resolvedResponseType: response } = method;
  return {
    path: `/${service.fullName.slice(1)}/${method.name}`,
    requestStream: Boolean(method.requestStream),
    responseStream: Boolean(method.responseStream),
    requestSerialize: (message) => Buffer.from(request.encode(request.fromObject(message)).finish()),
    requestDeserialize: (bytes) => request.decode(bytes),
    responseSerialize: (message) => Buffer.from(response.encode(message).finish()),
    responseDeserialize: (bytes) => response.decode(bytes),
  };
}
