"""Asks ViewService one question, given as JSON, and prints the answer as JSON: rows, views or versions one a line, then the rest.

The service and its messages come from the server itself, by gRPC reflection: no generated code, no .proto file.

    pip install grpcio grpcio-reflection
    python ask_view.py GetViewRows '{"view": "item_stats", "key": "85123A"}'

The server is 127.0.0.1:7402, or what MERGANSER_SERVING_LAYER__GRPC_ADDRESS says; a token is taken from MERGANSER_TOKEN, and
MERGANSER_TLS__CA names the CA's PEM file of a server that speaks TLS.
"""

import json
import os
import sys

import grpc
from append_and_read import Service
from google.protobuf.json_format import ParseError


def main(method, request="{}"):
    address = os.environ.get("MERGANSER_SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:7402")
    try:
        answer = getattr(Service(address, "merganser.v1.ViewService"), method)(json.loads(request))
    except (ParseError, json.JSONDecodeError) as error:
        sys.exit(f"the request: {error}")
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    names = answer.pop("column_names", [])
    for row in answer.pop("rows", []):
        cells = [next(iter(value.values()), None) for value in row["values"]]
        print(json.dumps(dict(zip(names, cells))))
    for item in answer.pop("views", []) + answer.pop("versions", []):
        print(json.dumps(item))
    if answer:
        print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
