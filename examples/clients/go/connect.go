package main

import (
	"fmt"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func channel(url string) *grpc.ClientConn {
	config := must(os.ReadFile("../../../proto/service_config.json")) // retries and deadlines
	scheme, address, _ := strings.Cut(url, "://")
	security := map[string]credentials.TransportCredentials{"http": insecure.NewCredentials(), "https": credentials.NewTLS(nil)}[scheme]
	return must(grpc.NewClient(address, grpc.WithTransportCredentials(security), grpc.WithDefaultServiceConfig(string(config))))
}

func explain(err error) {
	fmt.Print("error: ", code.Code(status.Code(err)))
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Print(", reason ", detail.Reason)
		case *errdetails.BadRequest:
			fmt.Print(", field ", detail.FieldViolations[0].Field)
		case *errdetails.RetryInfo:
			fmt.Print(", try again after ", detail.RetryDelay.AsDuration().Milliseconds(), " ms")
		}
	}
	fmt.Println()
}
