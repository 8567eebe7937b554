// Generates package pb from the contract, as protoc would: it compiles the files, and hands them to the two plugins.
package main

import (
	"bytes"
	"context"
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/pluginpb"
)

const root, pkg = "../../../proto/proto", "merganser.example/client/pb"

var known = []string{"google/protobuf/timestamp.proto", "google/protobuf/duration.proto"}
var ours = []string{"merganser/v1/types.proto", "merganser/v1/ingest.proto", "merganser/v1/user_stats.proto"}

func main() {
	resolver := protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}})
	compiler := protocompile.Compiler{Resolver: resolver, SourceInfoMode: protocompile.SourceInfoStandard}
	compiled, err := compiler.Compile(context.Background(), append(known, ours...)...)
	check(err)
	parameters := "module=merganser.example/client"
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: ours, Parameter: &parameters}
	for _, file := range compiled {
		request.ProtoFile = append(request.ProtoFile, protodesc.ToFileDescriptorProto(file))
	}
	for _, file := range ours {
		parameters += ",M" + file + "=" + pkg
	}
	input, err := proto.Marshal(request)
	check(err)
	for _, plugin := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		command := exec.Command("go", "tool", plugin)
		command.Stdin, command.Stderr = bytes.NewReader(input), os.Stderr
		output, err := command.Output()
		check(err)
		response := &pluginpb.CodeGeneratorResponse{}
		check(proto.Unmarshal(output, response))
		if response.Error != nil {
			log.Fatal(*response.Error)
		}
		for _, file := range response.File {
			check(os.MkdirAll(filepath.Dir(file.GetName()), 0o755))
			check(os.WriteFile(file.GetName(), []byte(file.GetContent()), 0o644))
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
