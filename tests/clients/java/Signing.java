// The signature: every byte that it covers, and how its key comes from the master secret.

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import java.time.Instant;
import java.util.HexFormat;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

import static java.nio.charset.StandardCharsets.UTF_8;

final class Signing {
  record Moment(long seconds, int nanos) {}

  record Security(String algorithm, String keyId, String nonce, Moment issuedAt, Moment freshnessWindow) {}

  private Signing() {}

  static Security newSecurity(String keyId) {
    byte[] nonce = new byte[16];
    new SecureRandom().nextBytes(nonce);
    Instant now = Instant.now();
    Moment issuedAt = new Moment(now.getEpochSecond(), now.getNano());
    return new Security("hmac-sha256", keyId, HexFormat.of().formatHex(nonce), issuedAt, new Moment(60, 0));
  }

  static String signatureOf(String secret, byte[] payload, String payloadType, String audience, Security security)
      throws GeneralSecurityException, IOException {
    byte[] key = mac(secret.getBytes(UTF_8), ("ESPER-KEY-V1\n" + security.keyId()).getBytes(UTF_8));
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    DataOutputStream input = new DataOutputStream(bytes);  // big-endian
    input.write("ESPER-CMD-V1\n".getBytes(UTF_8));
    String[] texts = {security.algorithm(), security.keyId(), audience, payloadType, security.nonce()};
    for (String text : texts) {
      withLength(input, text.getBytes(UTF_8));
    }
    for (Moment moment : new Moment[] {security.issuedAt(), security.freshnessWindow()}) {
      input.writeLong(moment.seconds());
      input.writeInt(moment.nanos());
    }
    withLength(input, payload);
    return HexFormat.of().formatHex(mac(key, bytes.toByteArray()));
  }

  private static byte[] mac(byte[] key, byte[] message) throws GeneralSecurityException {
    Mac mac = Mac.getInstance("HmacSHA256");
    mac.init(new SecretKeySpec(key, "HmacSHA256"));
    return mac.doFinal(message);
  }

  private static void withLength(DataOutputStream input, byte[] raw) throws IOException {
    input.writeInt(raw.length);
    input.write(raw);
  }
}
