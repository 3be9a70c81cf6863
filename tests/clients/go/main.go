// A client in Go.
//
//	client compatibility VECTORS.json
//	ESPER_LEYLINE_SECRET=... client apply --endpoint HOST:PORT [--key-id k1] command.json
//
// Exit codes: 0 accepted, 1 refused, 64 wrong usage, 75 Kasmina can't be reached.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	pb "esper/leyline"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	refused     = 1
	usage       = 64
	unreachable = 75
	timeout     = 10 * time.Second
)

// The same bytes each time, by this library: it puts a oneof behind all other fields, whatever its number.
var encoding = proto.MarshalOptions{Deterministic: true}

type document struct {
	MasterSecret string   `json:"master_secret"`
	Audience     string   `json:"audience"`
	Security     security `json:"security"`
	Vectors      []struct {
		Name       string          `json:"name"`
		Type       string          `json:"type"`
		Message    json.RawMessage `json:"message"`
		PayloadHex string          `json:"payload_hex"`
		Signature  string          `json:"signature"`
	} `json:"vectors"`
}

func main() {
	if len(os.Args) < 3 {
		fail(usage, fmt.Errorf("give compatibility or apply, and a file"))
	}
	if os.Args[1] == "compatibility" {
		compatibility(os.Args[2])
		return
	}
	flags := flag.NewFlagSet("apply", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "HOST:PORT")
	keyID := flags.String("key-id", "k1", "which key signs")
	_ = flags.Parse(os.Args[2:])
	apply(*endpoint, *keyID, flags.Arg(0))
}

func compatibility(file string) {
	var found document
	must(json.Unmarshal(read(file), &found))
	bytes, signatures := []string{}, []string{}
	for _, vector := range found.Vectors {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(vector.Type))
		must(err)
		message := kind.New().Interface()
		must(protojson.Unmarshal(vector.Message, message))
		payload, err := encoding.Marshal(message)
		must(err)
		if hex.EncodeToString(payload) != vector.PayloadHex {
			bytes = append(bytes, vector.Name)
		}
		given, err := hex.DecodeString(vector.PayloadHex)
		must(err)
		if signatureOf(found.MasterSecret, given, vector.Type, found.Audience, found.Security) != vector.Signature {
			signatures = append(signatures, vector.Name)
		}
	}
	said := map[string]any{"checked": len(found.Vectors), "bytes": bytes, "signatures": signatures}
	must(json.NewEncoder(os.Stdout).Encode(said))
}

// Serialised once: these bytes are signed, and these are sent.
func signed(command *pb.AdaptationCommand, secret, keyID string) *pb.SignedCommand {
	payload, err := encoding.Marshal(command)
	must(err)
	name := string(command.ProtoReflect().Descriptor().FullName())
	audience, own := "kasmina/"+command.GetTrainingRunId(), newSecurity(keyID)
	signature := signatureOf(secret, payload, name, audience, own)
	return &pb.SignedCommand{Payload: payload, PayloadType: name, Audience: audience, Security: &pb.CommandSecurity{
		Signature:       signature,
		Nonce:           own.Nonce,
		IssuedAt:        &timestamppb.Timestamp{Seconds: own.IssuedAt.Seconds, Nanos: own.IssuedAt.Nanos},
		FreshnessWindow: &durationpb.Duration{Seconds: own.FreshnessWindow.Seconds},
		KeyId:           own.KeyID,
		Algorithm:       own.Algorithm,
	}}
}

func apply(endpoint, keyID, file string) {
	command := &pb.AdaptationCommand{}
	if err := protojson.Unmarshal(read(file), command); err != nil { // an unknown field is an error
		fail(usage, err)
	}
	secret := strings.TrimSpace(os.Getenv("ESPER_LEYLINE_SECRET")) // a file's last newline is no part of it
	if secret == "" {
		fail(usage, errors.New("set ESPER_LEYLINE_SECRET to the run's secret"))
	}
	connection, err := grpc.Dial(endpoint, grpc.WithInsecure())
	must(err)
	defer connection.Close()
	deadline, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answer := &pb.ApplyCommandResponse{}
	request := &pb.ApplyCommandRequest{Command: signed(command, secret, keyID)}
	err = connection.Invoke(deadline, "/esper.leyline.v1.KasminaService/ApplyCommand", request, answer)
	if code := status.Code(err); code == codes.Unavailable {
		fail(unreachable, err)
	}
	must(err)
	fmt.Println(protojson.Format(answer.GetOutcome()))
	if !answer.GetOutcome().GetAccepted() {
		os.Exit(refused)
	}
}

func read(file string) []byte {
	raw, err := os.ReadFile(file)
	if err != nil {
		fail(usage, err)
	}
	return raw
}

func must(err error) {
	if err != nil {
		fail(refused, err)
	}
}

func fail(code int, err error) {
	fmt.Fprintf(os.Stderr, "client: %s: %v\n", status.Code(err), err)
	os.Exit(code)
}
