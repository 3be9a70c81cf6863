package main

// The signature: every byte that it covers, and how its key comes from the master secret.

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

type moment struct {
	Seconds int64 `json:"seconds"`
	Nanos   int32 `json:"nanos"`
}

type security struct {
	Algorithm       string `json:"algorithm"`
	KeyID           string `json:"key_id"`
	Nonce           string `json:"nonce"`
	IssuedAt        moment `json:"issued_at"`
	FreshnessWindow moment `json:"freshness_window"`
}

func newSecurity(keyID string) security {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		panic(err)
	}
	now := time.Now()
	return security{
		Algorithm:       "hmac-sha256",
		KeyID:           keyID,
		Nonce:           hex.EncodeToString(nonce),
		IssuedAt:        moment{now.Unix(), int32(now.Nanosecond())},
		FreshnessWindow: moment{60, 0},
	}
}

func signatureOf(secret string, payload []byte, payloadType, audience string, s security) string {
	key := mac([]byte(secret), []byte("ESPER-KEY-V1\n"+s.KeyID))
	input := []byte("ESPER-CMD-V1\n")
	for _, text := range []string{s.Algorithm, s.KeyID, audience, payloadType, s.Nonce} {
		input = withLength(input, []byte(text))
	}
	input = withTime(withTime(input, s.IssuedAt), s.FreshnessWindow)
	return hex.EncodeToString(mac(key, withLength(input, payload)))
}

func mac(key, message []byte) []byte {
	hash := hmac.New(sha256.New, key)
	hash.Write(message)
	return hash.Sum(nil)
}

func withLength(input, raw []byte) []byte {
	return append(binary.BigEndian.AppendUint32(input, uint32(len(raw))), raw...)
}

func withTime(input []byte, at moment) []byte {
	input = binary.BigEndian.AppendUint64(input, uint64(at.Seconds))
	return binary.BigEndian.AppendUint32(input, uint32(at.Nanos))
}
