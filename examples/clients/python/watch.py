"""Prints the statistics of one user now and whenever they have changed, until Ctrl-C: one JSON object a line.

A watch ends when its server stops, when its connection is half an hour old, and when there is no answer to be had for ten seconds; then this
client watches again. A stream that says nothing for thirty seconds, not even that nothing has changed, is dead.

    pip install grpcio grpcio-reflection
    python watch.py 14646

The server is 127.0.0.1:7402, or what MERGANSER_SERVING_LAYER__GRPC_ADDRESS says.
"""

import json
import os
import sys
import threading
import time

import grpc
from append_and_read import Service
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

DEAD_AFTER_SECONDS = 30
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def watch(service, request):
    """The responses of one stream."""
    method = service.service.methods_by_name["WatchUserStats"]
    call = service.channel.unary_stream(
        f"/{service.service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    stream = call(ParseDict(request, GetMessageClass(method.input_type)()))
    while True:
        watchdog = threading.Timer(DEAD_AFTER_SECONDS, stream.cancel)
        watchdog.start()
        try:
            yield MessageToDict(next(stream), preserving_proto_field_name=True)
        finally:
            watchdog.cancel()


def main(user_id):
    address = os.environ.get("MERGANSER_SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:7402")
    while True:
        try:
            for response in watch(Service(address, "merganser.v1.UserStatsService"), {"user_id": user_id}):
                if not response.get("unchanged"):
                    print(json.dumps(response["stats"]), flush=True)
        except grpc.RpcError as error:
            if error.code() not in AGAIN:
                sys.exit(f"{error.code().name}: {error.details()}")
            time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
