"""Appends one event and reads it back in the next answer, knowing nothing but the two addresses.

The services and messages come from the servers themselves, by gRPC reflection: no generated code, no .proto file.

    pip install grpcio grpcio-reflection
    python append_and_read.py 127.0.0.1:7401 127.0.0.1:7402

A token is taken from MERGANSER_TOKEN; MERGANSER_TLS__CA names the CA's PEM file of servers that speak TLS.
"""

import os
import sys
import uuid
from pathlib import Path

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def channel(address):
    token, ca = os.environ.get("MERGANSER_TOKEN"), os.environ.get("MERGANSER_TLS__CA")
    if not token and not ca:
        return grpc.insecure_channel(address)
    # Without TLS a token goes to this machine only.
    door = grpc.ssl_channel_credentials(Path(ca).read_bytes()) if ca else grpc.local_channel_credentials()
    return grpc.secure_channel(address, grpc.composite_channel_credentials(door, grpc.access_token_call_credentials(token)) if token else door)


class Service:
    """A service as its server describes it. `service.Method({...})` takes and gives plain dictionaries."""

    def __init__(self, address, name):
        self.channel = channel(address)
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.service = pool.FindServiceByName(name)

    def __getattr__(self, name):
        method = self.service.methods_by_name[name]
        answer_class = GetMessageClass(method.output_type)
        call = self.channel.unary_unary(
            f"/{self.service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_class.FromString,
        )

        def invoke(request):
            message = ParseDict(request, GetMessageClass(method.input_type)())
            return MessageToDict(call(message, timeout=10), preserving_proto_field_name=True)

        return invoke


def main(speed_layer, serving_layer):
    ingest = Service(speed_layer, "merganser.v1.IngestService")
    stats = Service(serving_layer, "merganser.v1.UserStatsService")
    user = f"python-{uuid.uuid4()}"

    event = {
        "event_id": "e-1",
        "user_id": user,
        "event_time": "2026-11-21T12:34:56Z",
        "event_type": "sale",
        "amount": "12.34",
    }
    appended = ingest.AppendEvents({"events": [event]})
    print("appended:", appended)
    again = ingest.AppendEvents({"events": [event]})
    print("appended again:", again)
    answer = stats.GetUserStats({"user_id": user, "min_position": appended["position"]})
    print("read back:", answer)

    assert appended["accepted_count"] == "1", appended
    assert again["duplicate_count"] == "1", again
    assert answer["stats"]["found"] and answer["stats"]["event_count"] == "1", answer
    assert answer["stats"]["revenue"] == "12.34", answer
    assert answer["provenance"]["complete"], answer


if __name__ == "__main__":
    main(*sys.argv[1:])
