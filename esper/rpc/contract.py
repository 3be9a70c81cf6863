"""What the protos say about each RPC: path, message classes, which sides stream. Read from the descriptors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from esper.leyline.v1 import bus_service_pb2, kasmina_service_pb2, tamiyo_service_pb2, weatherlight_service_pb2

SERVICES: dict[str, ServiceDescriptor] = {
    name: module.DESCRIPTOR.services_by_name[name]
    for name, module in (
        ("BusService", bus_service_pb2),
        ("KasminaService", kasmina_service_pb2),
        ("TamiyoService", tamiyo_service_pb2),
        ("WeatherlightService", weatherlight_service_pb2),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One RPC."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    requests_stream: bool
    responses_stream: bool

    @property
    def attribute(self) -> str:
        """Name of the method in servicers and clients."""
        return snake_case(self.name)

    @property
    def full_name(self) -> str:
        """Package, service and method, as traces name it."""
        return f"{self.service}/{self.name}"

    @property
    def shape(self) -> str:
        """unary_unary, stream_unary, unary_stream or stream_stream, as grpc names them."""
        words = ("stream" if streams else "unary" for streams in (self.requests_stream, self.responses_stream))
        return "_".join(words)

    @property
    def path(self) -> str:
        return f"/{self.full_name}"


def snake_case(name: str) -> str:
    """OpenRun -> open_run."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _method(method: MethodDescriptor) -> Method:
    return Method(
        service=method.containing_service.full_name,
        name=method.name,
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        requests_stream=method.client_streaming,
        responses_stream=method.server_streaming,
    )


def methods(service: str) -> dict[str, Method]:
    """The RPCs of a service by attribute name."""
    found = (_method(method) for method in SERVICES[service].methods)
    return {method.attribute: method for method in found}
