// A client in Java.
//
//   java Client compatibility VECTORS.json
//   ESPER_LEYLINE_SECRET=... java Client apply --endpoint HOST:PORT [--key-id k1] command.json
//
// Exit codes: 0 accepted, 1 refused, 64 wrong usage, 75 Kasmina can't be reached.

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Duration;
import com.google.protobuf.DynamicMessage;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Timestamp;
import com.google.protobuf.util.JsonFormat;
import esper.leyline.v1.Command.AdaptationCommand;
import esper.leyline.v1.Command.CommandOutcome;
import esper.leyline.v1.KasminaServiceGrpc;
import esper.leyline.v1.KasminaServiceOuterClass.ApplyCommandRequest;
import esper.leyline.v1.Security.CommandSecurity;
import esper.leyline.v1.Security.SignedCommand;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.TimeUnit;

public final class Client {
  private static final int OK = 0;
  private static final int REFUSED = 1;
  private static final int USAGE = 64;
  private static final int UNREACHABLE = 75;

  private Client() {}

  public static void main(String[] arguments) throws Exception {
    List<String> given = List.of(arguments);
    String file = given.get(given.size() - 1);
    System.exit(given.get(0).equals("compatibility") ? compatibility(file) : apply(given, file));
  }

  private static int compatibility(String file) throws Exception {
    JsonObject document = JsonParser.parseString(Files.readString(Path.of(file))).getAsJsonObject();
    Signing.Security security = securityOf(document.getAsJsonObject("security"));
    String secret = document.get("master_secret").getAsString();
    String audience = document.get("audience").getAsString();
    Map<String, Descriptor> types = types();
    JsonArray bytes = new JsonArray();
    JsonArray signatures = new JsonArray();
    for (JsonElement element : document.getAsJsonArray("vectors")) {
      JsonObject vector = element.getAsJsonObject();
      String type = vector.get("type").getAsString();
      DynamicMessage.Builder message = DynamicMessage.newBuilder(types.get(type));
      JsonFormat.parser().merge(vector.get("message").toString(), message);
      byte[] given = HexFormat.of().parseHex(vector.get("payload_hex").getAsString());
      if (!Arrays.equals(message.build().toByteArray(), given)) {
        bytes.add(vector.get("name"));
      }
      String signature = Signing.signatureOf(secret, given, type, audience, security);
      if (!signature.equals(vector.get("signature").getAsString())) {
        signatures.add(vector.get("name"));
      }
    }
    JsonObject said = new JsonObject();
    said.addProperty("checked", document.getAsJsonArray("vectors").size());
    said.add("bytes", bytes);
    said.add("signatures", signatures);
    System.out.println(said);
    return OK;
  }

  private static int apply(List<String> given, String file) throws Exception {
    String endpoint = given.get(given.indexOf("--endpoint") + 1);
    String keyId = given.contains("--key-id") ? given.get(given.indexOf("--key-id") + 1) : "k1";
    AdaptationCommand.Builder command = AdaptationCommand.newBuilder();
    try {
      JsonFormat.parser().merge(Files.readString(Path.of(file)), command);  // an unknown field is an error
    } catch (InvalidProtocolBufferException error) {
      System.err.println("client: " + error.getMessage());
      return USAGE;
    }
    String secret = Objects.requireNonNullElse(System.getenv("ESPER_LEYLINE_SECRET"), "").strip();  // no last newline
    if (secret.isEmpty()) {
      System.err.println("client: set ESPER_LEYLINE_SECRET to the run's secret");
      return USAGE;
    }
    SignedCommand envelope = signed(command.build(), secret, keyId);
    ApplyCommandRequest request = ApplyCommandRequest.newBuilder().setCommand(envelope).build();
    ManagedChannel channel = NettyChannelBuilder.forTarget(endpoint).usePlaintext().build();
    try {
      KasminaServiceGrpc.KasminaServiceBlockingStub kasmina = KasminaServiceGrpc.newBlockingStub(channel);
      CommandOutcome outcome = kasmina.withDeadlineAfter(10, TimeUnit.SECONDS).applyCommand(request).getOutcome();
      System.out.println(JsonFormat.printer().print(outcome));
      return outcome.getAccepted() ? OK : REFUSED;
    } catch (StatusRuntimeException error) {
      System.err.println("client: " + error.getStatus().getCode() + ": " + error.getStatus().getDescription());
      return error.getStatus().getCode() == Status.Code.UNAVAILABLE ? UNREACHABLE : REFUSED;
    } finally {
      channel.shutdownNow();
    }
  }

  // Serialised once: these bytes are signed, and these are sent.
  private static SignedCommand signed(AdaptationCommand command, String secret, String keyId) throws Exception {
    byte[] payload = command.toByteArray();
    String type = AdaptationCommand.getDescriptor().getFullName();
    String audience = "kasmina/" + command.getTrainingRunId();
    Signing.Security own = Signing.newSecurity(keyId);
    String signature = Signing.signatureOf(secret, payload, type, audience, own);
    CommandSecurity security = CommandSecurity.newBuilder()
        .setSignature(signature)
        .setNonce(own.nonce())
        .setIssuedAt(
            Timestamp.newBuilder().setSeconds(own.issuedAt().seconds()).setNanos(own.issuedAt().nanos()))
        .setFreshnessWindow(Duration.newBuilder().setSeconds(own.freshnessWindow().seconds()))
        .setKeyId(own.keyId())
        .setAlgorithm(own.algorithm())
        .build();
    return SignedCommand.newBuilder()
        .setPayload(ByteString.copyFrom(payload))
        .setPayloadType(type)
        .setAudience(audience)
        .setSecurity(security)
        .build();
  }

  private static Signing.Security securityOf(JsonObject json) {
    return new Signing.Security(
        json.get("algorithm").getAsString(),
        json.get("key_id").getAsString(),
        json.get("nonce").getAsString(),
        momentOf(json.getAsJsonObject("issued_at")),
        momentOf(json.getAsJsonObject("freshness_window")));
  }

  private static Signing.Moment momentOf(JsonObject json) {
    return new Signing.Moment(json.get("seconds").getAsLong(), json.get("nanos").getAsInt());
  }

  private static Map<String, Descriptor> types() {
    Map<String, Descriptor> types = new HashMap<>();
    // Every file that a service's file imports, and those of the services, hold all the messages.
    List.of(
            esper.leyline.v1.KasminaServiceOuterClass.getDescriptor(),
            esper.leyline.v1.TamiyoServiceOuterClass.getDescriptor(),
            esper.leyline.v1.WeatherlightServiceOuterClass.getDescriptor(),
            esper.leyline.v1.BusServiceOuterClass.getDescriptor())
        .forEach(file -> collect(file, types));
    return types;
  }

  private static void collect(com.google.protobuf.Descriptors.FileDescriptor file, Map<String, Descriptor> types) {
    file.getMessageTypes().forEach(type -> types.put(type.getFullName(), type));
    file.getDependencies().forEach(other -> collect(other, types));
  }
}
