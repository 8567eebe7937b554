"""Appends, asks, watches and fails, as ../README.md says. Messages come from the .proto files: no generated code.

    python client.py SPEED_LAYER SERVING_LAYER [CA_FILE]    http://host:port or https://host:port; a token in MERGANSER_TOKEN
"""

import os
import re
import sys
import uuid
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

CONTRACT = Path(__file__).resolve().parents[3] / "proto"
sys.path.insert(0, str(CONTRACT / "proto"))
(send_pb, send_grpc), (ask_pb, ask_grpc) = (grpc.protos_and_services(f"merganser/v1/{name}.proto") for name in ("ingest", "user_stats"))
TOKEN = [("authorization", f"Bearer {token}")] if (token := os.environ.get("MERGANSER_TOKEN")) else []


def channel(url, ca_file=None):
    options = [("grpc.service_config", (CONTRACT / "service_config.json").read_text())]  # retries and deadlines
    scheme, address = url.split("://")
    if scheme == "http":
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_file and Path(ca_file).read_bytes()), options)


def explain(error):
    line = f"error: {error.code().name}"
    for detail in rpc_status.from_call(error).details:
        info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
        line += f", reason {info.reason}" if detail.Unpack(info) else ""
        line += f", field {bad.field_violations[0].field}" if detail.Unpack(bad) else ""
        line += f", try again after {retry.retry_delay.ToMilliseconds()} ms" if detail.Unpack(retry) else ""
    print(line)


def append(what, *rows):
    events = [{"event_id": id, "user_id": user, "event_time": {"seconds": 1795264496}, "amount": amount} for id, amount in rows]
    answer = ingest.AppendEvents(send_pb.AppendEventsRequest(events=events), metadata=TOKEN)
    rejected = "".join(f", {row.field} of {row.event_id} rejected" for row in answer.rejected)
    print(f"{what}: {answer.accepted_count} accepted, {answer.duplicate_count} duplicate{rejected}")
    return answer.position


speed_layer, serving_layer, *ca_file = sys.argv[1:]
ingest = send_grpc.IngestServiceStub(channel(speed_layer, *ca_file))
stats = ask_grpc.UserStatsServiceStub(channel(serving_layer, *ca_file))
user, orders = f"python-{uuid.uuid4()}", [("e-1", "10.50"), ("e-2", "2.25"), ("e-3", "many")]
append("append", *orders)
position = append("again", *orders)  # the same ids: safe after any error, and counted once
one = stats.GetUserStats(ask_pb.GetUserStatsRequest(user_id=user, min_position=position), metadata=TOKEN).stats
print(f"get: {one.event_count} events, revenue {one.revenue}")
both = stats.BatchGetUserStats(ask_pb.BatchGetUserStatsRequest(user_ids=[user, "nobody"]), metadata=TOKEN).stats
print("batch get:", ", ".join(f"{one.event_count} events" if one.found else "not found" for one in both))
later = re.sub(r"=\d+", "=999999999", position)  # stands for one that the servers have not come to yet
for fields in {"user_id": ""}, {"user_id": user, "min_position": later}:
    try:
        stats.GetUserStats(ask_pb.GetUserStatsRequest(**fields), metadata=TOKEN)
    except grpc.RpcError as error:
        explain(error)
watch = ask_pb.WatchUserStatsRequest(user_id=user, min_interval={"nanos": 100_000_000})
try:
    for change in stats.WatchUserStats(watch, metadata=TOKEN, timeout=5):
        if change.unchanged:  # a sign of life
            continue
        print(f"watch: {change.stats.event_count} events")
        if change.stats.event_count == 2:
            append("append", ("e-4", "1.00"))
except grpc.RpcError as error:
    print(f"watch: ended by {error.code().name}")
