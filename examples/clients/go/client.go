// Appends, asks, watches and fails, as ../README.md says. Package pb is generated from the .proto files, by gen.
//
//	go run . SPEED_LAYER SERVING_LAYER [CA_FILE]    http://host:port or https://host:port; a token in MERGANSER_TOKEN
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"regexp"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"merganser.example/client/pb"
)

//go:generate go run ./gen
var user = "go-" + rand.Text()

func send(ctx context.Context, ingest pb.IngestServiceClient, what string, rows ...[2]string) string {
	request := &pb.AppendEventsRequest{}
	for _, row := range rows {
		at := timestamppb.New(time.Unix(1795264496, 0))
		request.Events = append(request.Events, &pb.Event{EventId: row[0], UserId: user, EventTime: at, Amount: row[1]})
	}
	answer := must(ingest.AppendEvents(ctx, request))
	fmt.Printf("%s: %d accepted, %d duplicate", what, answer.AcceptedCount, answer.DuplicateCount)
	for _, row := range answer.Rejected {
		fmt.Printf(", %s of %s rejected", row.Field, row.EventId)
	}
	fmt.Println()
	return answer.Position
}

func main() {
	os.Setenv("SSL_CERT_FILE", append(os.Args, os.Getenv("SSL_CERT_FILE"))[3])
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("MERGANSER_TOKEN"))
	ingest, stats := pb.NewIngestServiceClient(channel(os.Args[1])), pb.NewUserStatsServiceClient(channel(os.Args[2]))
	orders := [][2]string{{"e-1", "10.50"}, {"e-2", "2.25"}, {"e-3", "many"}}
	send(ctx, ingest, "append", orders...)
	position := send(ctx, ingest, "again", orders...) // the same ids: safe after any error, and counted once
	one := must(stats.GetUserStats(ctx, &pb.GetUserStatsRequest{UserId: user, MinPosition: position})).Stats
	fmt.Printf("get: %d events, revenue %s\n", one.EventCount, one.Revenue)
	both := must(stats.BatchGetUserStats(ctx, &pb.BatchGetUserStatsRequest{UserIds: []string{user, "nobody"}})).Stats
	found := map[bool]string{true: "found", false: "not found"}
	fmt.Printf("batch get: %d events, %s\n", both[0].EventCount, found[both[1].Found])
	later := regexp.MustCompile(`=\d+`).ReplaceAllString(position, "=999999999") // stands for one that the servers have not come to yet
	for _, question := range []*pb.GetUserStatsRequest{{}, {UserId: user, MinPosition: later}} {
		_, err := stats.GetUserStats(ctx, question)
		explain(err)
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	changes := must(stats.WatchUserStats(limited, &pb.WatchUserStatsRequest{UserId: user, MinInterval: durationpb.New(time.Second / 10)}))
	change, err := changes.Recv()
	for ; err == nil; change, err = changes.Recv() {
		if change.Unchanged { // a sign of life
			continue
		}
		fmt.Printf("watch: %d events\n", change.Stats.EventCount)
		if change.Stats.EventCount == 2 {
			send(ctx, ingest, "append", [2]string{"e-4", "1.00"})
		}
	}
	fmt.Println("watch: ended by", code.Code(status.Code(err)))
}
