package encryption_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// value2K is an object of 2 KiB, in protobuf as apiservers store Secrets.
func value2K() []byte {
	return append([]byte("k8s\x00"), bytes.Repeat([]byte("x"), 2044)...)
}

// BenchmarkTranscode is a value of 2 KiB from one provider to another.
func BenchmarkTranscode(b *testing.B) {
	ctx := context.Background()
	plain := value2K()
	for _, source := range []string{"cbc a=A", "gcm a=A", "secretbox a=A"} {
		for _, target := range []string{"cbc b=B", "gcm b=B", "secretbox b=B"} {
			from, to := config(b, "secrets: "+source), config(b, "secrets: "+target)
			transcoder := newTranscoder(b, from, to)
			stored := loadReal(b, from).seal(b, secretKey, plain)
			b.Run(fmt.Sprintf("%s-%s", strings.Fields(source)[0], strings.Fields(target)[0]), func(b *testing.B) {
				b.SetBytes(int64(len(plain)))
				for b.Loop() {
					if _, err := transcoder.Transform(ctx, secretKey, secretKey, stored); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkBareCipher is what the ciphers alone take: aescbc decrypting and encrypting 2 KiB, and aesgcm.
func BenchmarkBareCipher(b *testing.B) {
	sum := sha256.Sum256([]byte("A"))
	block, _ := aes.NewCipher(sum[:])
	data, out := make([]byte, 2064), make([]byte, 2064)
	iv := make([]byte, 16)
	b.Run("cbc-cbc", func(b *testing.B) {
		b.SetBytes(2048)
		for b.Loop() {
			_, _ = rand.Read(iv)
			cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, data)
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, data)
		}
	})
	aead, _ := cipher.NewGCM(block)
	nonce := iv[:12]
	sealed := aead.Seal(nil, nonce, data[:2048], nil)
	b.Run("gcm-gcm", func(b *testing.B) {
		b.SetBytes(2048)
		dst := make([]byte, 0, 4096)
		for b.Loop() {
			if _, err := aead.Open(dst, nonce, sealed, nil); err != nil {
				b.Fatal(err)
			}
			aead.Seal(dst, nonce, data[:2048], nil)
		}
	})
}
