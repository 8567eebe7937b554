// Appends, asks, watches and fails, as ../README.md says. Package merganser.v1 is generated from the .proto files by Maven.
//
//     mvn exec:java -Dexec.args="SPEED_LAYER SERVING_LAYER [CA_FILE]"    http://host:port or https://host:port; a token in MERGANSER_TOKEN
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.grpc.StatusRuntimeException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import merganser.v1.Ingest.AppendEventsRequest;
import merganser.v1.Ingest.Event;
import merganser.v1.IngestServiceGrpc;
import merganser.v1.UserStatsOuterClass.BatchGetUserStatsRequest;
import merganser.v1.UserStatsOuterClass.GetUserStatsRequest;
import merganser.v1.UserStatsOuterClass.WatchUserStatsRequest;
import merganser.v1.UserStatsServiceGrpc;

import static java.util.stream.Collectors.joining;

class Client {
    static final String USER = "java-" + UUID.randomUUID();
    static IngestServiceGrpc.IngestServiceBlockingStub ingest;

    static String append(String what, Map<String, String> rows) {
        var request = AppendEventsRequest.newBuilder();
        rows.forEach((id, amount) -> request.addEvents(Event.newBuilder().setEventId(id).setUserId(USER).setAmount(amount)
            .setEventTime(Timestamp.newBuilder().setSeconds(1795264496))));
        var answer = ingest.appendEvents(request.build());
        var rejected = answer.getRejectedList().stream().map(row -> ", " + row.getField() + " of " + row.getEventId() + " rejected");
        var counts = answer.getAcceptedCount() + " accepted, " + answer.getDuplicateCount() + " duplicate";
        System.out.println(what + ": " + counts + rejected.collect(joining()));
        return answer.getPosition();
    }

    public static void main(String[] args) throws Exception {
        var caFile = Arrays.copyOfRange(args, 2, args.length);
        ingest = IngestServiceGrpc.newBlockingStub(Connection.channel(args[0], caFile));
        var stats = UserStatsServiceGrpc.newBlockingStub(Connection.channel(args[1], caFile));
        var orders = Map.of("e-1", "10.50", "e-2", "2.25", "e-3", "many");
        append("append", orders);
        var position = append("again", orders); // the same ids: safe after any error, and counted once
        var one = stats.getUserStats(GetUserStatsRequest.newBuilder().setUserId(USER).setMinPosition(position).build()).getStats();
        System.out.println("get: " + one.getEventCount() + " events, revenue " + one.getRevenue());
        var both = stats.batchGetUserStats(BatchGetUserStatsRequest.newBuilder().addUserIds(USER).addUserIds("nobody").build()).getStatsList();
        var found = both.stream().map(user -> user.getFound() ? user.getEventCount() + " events" : "not found");
        System.out.println("batch get: " + found.collect(joining(", ")));
        var later = position.replaceAll("=\\d+", "=999999999"); // stands for one that the servers have not come to yet
        for (var question : List.of(GetUserStatsRequest.newBuilder(), GetUserStatsRequest.newBuilder().setUserId(USER).setMinPosition(later))) {
            try {
                stats.getUserStats(question.build());
            } catch (StatusRuntimeException error) {
                Connection.explain(error);
            }
        }
        var watch = WatchUserStatsRequest.newBuilder().setUserId(USER).setMinInterval(Duration.newBuilder().setNanos(100_000_000)).build();
        try {
            for (var changes = stats.withDeadlineAfter(5, TimeUnit.SECONDS).watchUserStats(watch); changes.hasNext(); ) {
                var change = changes.next();
                if (change.getUnchanged()) continue; // a sign of life
                System.out.println("watch: " + change.getStats().getEventCount() + " events");
                if (change.getStats().getEventCount() == 2) append("append", Map.of("e-4", "1.00"));
            }
        } catch (StatusRuntimeException error) {
            System.out.println("watch: ended by " + error.getStatus().getCode());
        }
    }
}
